// A model and an executor that cost nothing and notice wrong KV: the "KV" of a token is a hash of
// the whole prefix, and logits are drawn from all the hashes that attention would read. A page that
// belongs to another prefix, is stale, or was overwritten changes every logit after it.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/backend.h"
#include "models/model.h"

namespace apud::test {

inline uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

/// Bytes are ids 0..255, control tokens follow.
class FakeTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kEnd = 256, kStart = 257, kThink = 258, kUnthink = 259, kVocab = 260;
  explicit FakeTokenizer(std::vector<int32_t> stops = {kEnd}) : stops_(std::move(stops)) {}
  int32_t vocab_size() const override { return kVocab; }
  std::vector<int32_t> encode(std::string_view content) const override {
    std::vector<int32_t> ids;
    for (unsigned char c : content) ids.push_back(c);
    return ids;
  }
  std::vector<int32_t> encode(const OriginText& text) const override {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < text.size();) {
      bool special = false;
      for (const auto& [name, id] : specials()) {
        bool scaffold = text.text().compare(i, name.size(), name) == 0;
        for (size_t k = i; scaffold && k < i + name.size(); ++k) scaffold = text.scaffold_at(k);
        if (scaffold) {
          ids.push_back(id);
          i += name.size();
          special = true;
          break;
        }
      }
      if (!special) ids.push_back(static_cast<unsigned char>(text.text()[i++]));
    }
    return ids;
  }
  std::string decode_token(int32_t id, bool special = false) const override {
    if (id < 256) return std::string(1, static_cast<char>(id));
    if (!special) return {};
    for (const auto& [name, known] : specials()) {
      if (known == id) return name;
    }
    return {};
  }
  std::string decode(std::span<const int32_t> ids, bool special = false) const override {
    std::string out;
    for (int32_t id : ids) out += decode_token(id, special);
    return out;
  }
  bool is_control(int32_t id) const override { return id >= 256; }
  std::optional<int32_t> bos() const override { return {}; }
  std::optional<int32_t> eos() const override { return kEnd; }
  bool add_bos() const override { return false; }
  bool add_eos() const override { return false; }
  const std::vector<int32_t>& stop_tokens() const override { return stops_; }
  std::optional<int32_t> find_special(std::string_view text) const override {
    auto found = specials().find(std::string(text));
    if (found == specials().end()) return {};
    return found->second;
  }
  std::string fingerprint() const override { return "fake"; }
  std::string kind() const override { return "fake"; }

 private:
  static const std::map<std::string, int32_t>& specials() {
    static const std::map<std::string, int32_t> all = {{"<|im_end|>", kEnd},
                                                       {"<|im_start|>", kStart},
                                                       {"<think>", kThink},
                                                       {"</think>", kUnthink}};
    return all;
  }
  std::vector<int32_t> stops_;
};

class FakeModel : public Model {
 public:
  explicit FakeModel(std::shared_ptr<const ChatTemplate> chat = nullptr,
                     std::string fingerprint = std::string(32, 'f'),
                     std::vector<int32_t> stops = {FakeTokenizer::kEnd})
      : tokenizer_(std::move(stops)),
        fingerprint_(std::move(fingerprint)),
        template_(std::move(chat)) {
    config_.architecture = "fake";
    config_.name = "fake";
    program_.name = "fake";
    program_.values.push_back({"logits", Rows::kOutputs, FakeTokenizer::kVocab});
    program_.kv_groups.push_back({1, 1, 4, 0});
    program_.result = 0;
    program_.max_positions = 1 << 20;
  }
  const ModelConfig& config() const override { return config_; }
  const Program& program() const override { return program_; }
  const Weights& weights() const override { return weights_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  const ChatTemplate* chat_template() const override { return template_.get(); }
  const Path& path() const override { return path_; }
  uint64_t file_bytes() const override { return 0; }
  const std::string& fingerprint() const override { return fingerprint_; }
  std::string quantisation() const override { return "fake"; }

 private:
  ModelConfig config_;
  Program program_;
  Weights weights_;
  FakeTokenizer tokenizer_;
  Path path_;
  std::string fingerprint_;
  std::shared_ptr<const ChatTemplate> template_;
};

class FakeKv : public KvStore {
 public:
  /// device: transfers are as late as a device's may be: imports are there when run() begins,
  /// exports after finish_transfers().
  explicit FakeKv(int pages, bool device = false)
      : slots(static_cast<size_t>(pages) * kKvPageTokens, 0xDEAD), pages_(pages), device_(device) {}
  bool on_device() const override { return device_; }
  void import_pages(std::span<const PageTransfer> transfers) override {
    for (const PageTransfer& t : transfers) {
      if (!device_) {
        import_page(t.group, t.page, t.host);
        continue;
      }
      std::memset(at(t.page), 0xCC, page_bytes(0));
      imports_.push_back({t, {t.host.begin(), t.host.end()}});
    }
  }
  void export_pages(std::span<const PageTransfer> transfers) override {
    for (const PageTransfer& t : transfers) {
      if (!device_) {
        export_page(t.group, t.page, t.host);
        continue;
      }
      std::vector<std::byte> bytes(page_bytes(0));
      arrive();
      export_page(t.group, t.page, bytes);
      std::memset(t.host.data(), 0xEE, t.host.size());
      exports_.push_back({t, std::move(bytes)});
    }
  }
  double finish_transfers() override {
    arrive();
    double seconds = done_.empty() ? 0 : 1e-4 * static_cast<double>(done_.size());
    for (const Late& late : done_) {
      APUD_CHECK(std::equal(late.bytes.begin(), late.bytes.end(), late.transfer.host.begin()),
                 "host memory was touched while pages moved out of it");
    }
    for (const Late& late : exports_)
      std::copy(late.bytes.begin(), late.bytes.end(), late.transfer.host.begin());
    exports_.clear();
    done_.clear();
    return seconds;
  }
  /// What was on its way in is there now.
  void arrive() {
    for (Late& late : imports_) {
      import_page(0, late.transfer.page, late.bytes);
      done_.push_back(std::move(late));
    }
    imports_.clear();
  }
  int page_count(int) const override { return pages_; }
  size_t page_bytes(int) const override { return kKvPageTokens * sizeof(uint64_t); }
  std::string layout_id() const override { return "fake-1"; }
  void copy_page(int, int from, int to, int tokens) override {
    ++copies;
    arrive();
    std::memcpy(at(to), at(from), static_cast<size_t>(tokens) * sizeof(uint64_t));
  }
  void export_page(int, int page, std::span<std::byte> out) override {
    std::memcpy(out.data(), at(page), page_bytes(0));
  }
  void import_page(int, int page, std::span<const std::byte> bytes) override {
    std::memcpy(at(page), bytes.data(), page_bytes(0));
  }
  uint64_t* at(int page) { return &slots[static_cast<size_t>(page) * kKvPageTokens]; }
  std::vector<uint64_t> slots;
  int copies = 0;

 private:
  struct Late {
    PageTransfer transfer;
    std::vector<std::byte> bytes;
  };
  int pages_;
  bool device_;
  std::vector<Late> imports_, exports_, done_;
};

/// What happened, for tests that count.
struct FakeLog {
  int64_t tokens = 0;  // run in all
  int steps = 0;
  int largest_step = 0;
  int most_sequences = 0;
  std::vector<int> step_tokens;
};

class FakeExecutor : public Executor {
 public:
  FakeExecutor(const Program& program, std::shared_ptr<FakeLog> log, int max_step = 512)
      : program_(program), log_(std::move(log)), max_step_(max_step) {}
  std::string name() const override { return "fake"; }
  const Program& program() const override { return program_; }
  std::unique_ptr<KvStore> make_kv(std::span<const int> pages, KvType) override {
    return std::make_unique<FakeKv>(pages[0], device);
  }
  int max_step_tokens() const override { return max_step_; }
  size_t memory_bytes() const override { return 0; }

  /// Rows whose last token is this become NaN.
  int32_t poison = -1;
  /// KV in memory of its own.
  bool device = false;
  /// Chance in 1024 that a row prefers the end token.
  int end_chance = 4;
  /// The end token's logit then; others' lie in 0 to 8.
  float end_logit = 20;

  void run(const Batch& batch, KvStore* store, std::span<float> out) override {
    auto& kv = dynamic_cast<FakeKv&>(*store);
    kv.arrive();
    APUD_CHECK(!batch.tokens.empty() && static_cast<int>(batch.tokens.size()) <= max_step_,
               "a step has tokens and no more than the executor takes");
    log_->tokens += static_cast<int64_t>(batch.tokens.size());
    ++log_->steps;
    log_->step_tokens.push_back(static_cast<int>(batch.tokens.size()));
    log_->largest_step = std::max(log_->largest_step, static_cast<int>(batch.tokens.size()));
    log_->most_sequences = std::max(log_->most_sequences, static_cast<int>(batch.sequences.size()));
    std::vector<uint64_t> seen(batch.tokens.size());
    std::map<int32_t, int> writers;  // page -> sequence that writes it in this step
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
      const SequenceSlice& slice = batch.sequences[s];
      auto slot = [&](int position) -> uint64_t& {
        return kv.at(slice.pages[0][static_cast<size_t>(position / kKvPageTokens)])[position %
                                                                                    kKvPageTokens];
      };
      uint64_t all = 0;
      for (int i = 0; i < slice.position; ++i) all = mix(all + slot(i));
      for (int i = 0; i < slice.token_count; ++i) {
        int position = slice.position + i;
        int32_t page = slice.pages[0][static_cast<size_t>(position / kKvPageTokens)];
        auto [writer, fresh] = writers.emplace(page, static_cast<int>(s));
        APUD_CHECK(fresh || writer->second == static_cast<int>(s), "two sequences write one page");
        int32_t token = batch.tokens[static_cast<size_t>(slice.first_row + i)];
        uint64_t previous = position > 0 ? slot(position - 1) : 1;
        slot(position) = mix(previous * 31 + static_cast<uint64_t>(token) + 7);
        all = mix(all + slot(position));
        seen[static_cast<size_t>(slice.first_row + i)] = all;
      }
    }
    APUD_CHECK(out.size() == batch.output_rows.size() * FakeTokenizer::kVocab,
               "size of the result");
    for (size_t r = 0; r < batch.output_rows.size(); ++r) {
      auto row = static_cast<size_t>(batch.output_rows[r]);
      float* logits = out.data() + r * FakeTokenizer::kVocab;
      for (int v = 0; v < FakeTokenizer::kVocab; ++v) {
        uint64_t h = mix(seen[row] + static_cast<uint64_t>(v) * 0x9E3779B97F4A7C15ull);
        logits[v] = static_cast<float>(h >> 40) / (1 << 24) * 8;
        if (v >= 128) logits[v] -= 100;  // plain ASCII
        if (v < 32) logits[v] -= 100;
      }
      if (static_cast<int>(mix(seen[row]) % 1024) < end_chance)
        logits[FakeTokenizer::kEnd] = end_logit;
      if (batch.tokens[row] == poison) {
        for (int v = 0; v < FakeTokenizer::kVocab; ++v) logits[v] = std::nanf("");
      }
    }
  }

 private:
  const Program& program_;
  std::shared_ptr<FakeLog> log_;
  int max_step_;
};

}  // namespace apud::test
