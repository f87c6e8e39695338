#include "engine/impl/kv_memory.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"

namespace apud {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Hash of everything in the op list that decides what a KV page holds; the rotary frequencies are
/// not part of its print.
std::string program_hash(const Model& model) {
  std::string text = print_program(model.program(), model.weights());
  for (const Op& op : model.program().ops) {
    if (const auto* rotary = std::get_if<RotaryOp>(&op)) {
      const auto& freq = rotary->rotary.inv_freq;
      text.append(reinterpret_cast<const char*>(freq.data()), freq.size() * sizeof(float));
      text.append(reinterpret_cast<const char*>(&rotary->rotary.magnitude), sizeof(float));
    }
    if (const auto* attention = std::get_if<AttentionOp>(&op)) {
      for (float value :
           {attention->scale, attention->softcap, static_cast<float>(attention->window)}) {
        text.append(reinterpret_cast<const char*>(&value), sizeof(float));
      }
    }
  }
  return sha256_hex(text).substr(0, 32);
}

double cost_per_position(const Model& model) {
  ProgramCost cost = program_cost(model.program(), model.weights());
  if (cost.flops_per_token <= 0) return 0;
  return static_cast<double>(cost.attention_flops_per_kv) /
         static_cast<double>(cost.flops_per_token);
}

}  // namespace

KvMemory::KvMemory(const Model& model, Executor& executor, const Options& options)
    : executor_(executor),
      pool_(options.pages),
      prefix_cache_(options.prefix_cache),
      always_restore_(options.disk.always_restore),
      groups_(static_cast<int>(model.program().kv_groups.size())) {
  std::vector<int> pages(static_cast<size_t>(groups_), options.pages);
  store_ = executor.make_kv(pages, options.type);
  tree_ = std::make_unique<PrefixTree>(pool_, cost_per_position(model));
  for (int g = 0; g < groups_; ++g) page_bytes_ += store_->page_bytes(g);
  if (prefix_cache_ && !options.disk.folder.empty()) {
    DiskCacheKey key;
    key.model = model.config().name;
    key.fingerprint = model.fingerprint();
    key.layout = store_->layout_id();
    key.program = program_hash(model);
    key.executor = executor.name();
    try {
      disk_ = std::make_unique<DiskCache>(key, options.disk, page_bytes_);
      rates_ = disk_->rates();
    } catch (const Error& error) {
      // A cache that cannot be opened costs time, not answers; the receipt says so.
      save_problem_ = error.what();
    }
  }
}

KvMemory::~KvMemory() {
  while (!saves_.empty()) drop_save();
}

uint64_t KvMemory::bytes() const {
  return static_cast<uint64_t>(page_bytes_) * static_cast<uint64_t>(pool_.page_count());
}

int KvMemory::alloc() {
  for (;;) {
    int page = pool_.alloc();
    if (page != kNone) return page;
    if (tree_->evict_one()) continue;
    if (!saves_.empty()) {
      drop_save();
      continue;
    }
    throw Error(ErrorKind::kBusy,
                "all " + std::to_string(pool_.page_count()) + " KV pages are in use",
                "run fewer requests at once, shorten the context, or unpin documents");
  }
}

void KvMemory::match(KvSequence& sequence, std::span<const int32_t> tokens, int limit) {
  APUD_CHECK(sequence.pages.empty() && sequence.computed == 0, "match for an empty sequence");
  if (!prefix_cache_ || limit <= 0) return;
  PrefixTree::Match match = tree_->match(tokens.first(static_cast<size_t>(limit)));
  sequence.pages = std::move(match.pages);
  sequence.computed = match.tokens;
  sequence.owns_tail = false;
}

KvMemory::Restored KvMemory::restore(KvSequence& sequence, std::span<const int32_t> tokens,
                                     int limit) {
  Restored result;
  if (!disk_ || limit <= sequence.computed) return result;
  tokens = tokens.first(static_cast<size_t>(limit));
  auto start = Clock::now();
  int found = disk_->match_length(tokens);
  int gain = found - sequence.computed;
  if (gain <= 0) return result;
  if (!always_restore_ && rates_.prefill_tokens_per_second > 0 &&
      rates_.restore_tokens_per_second > 0) {
    // Pages are read whole, however few of their tokens are wanted.
    int pages = kv_blocks(found) - sequence.computed / kKvPageTokens;
    double reading = pages * kKvPageTokens / rates_.restore_tokens_per_second;
    if (reading > gain / rates_.prefill_tokens_per_second) {
      result.slower = true;
      return result;
    }
  }
  int from = sequence.computed;
  while (sequence.computed < limit) {
    int block = sequence.computed / kKvPageTokens;
    std::optional<DiskCache::Page> read = disk_->read(tokens, block);
    if (!read || block * kKvPageTokens + read->valid_tokens <= sequence.computed) break;
    int page = alloc();
    std::span<const std::byte> bytes = read->bytes;
    for (int g = 0; g < groups_; ++g) {
      store_->import_page(g, page, bytes.first(store_->page_bytes(g)));
      bytes = bytes.subspan(store_->page_bytes(g));
    }
    if (block < static_cast<int>(sequence.pages.size())) {
      pool_.release(sequence.pages[static_cast<size_t>(block)]);
      sequence.pages[static_cast<size_t>(block)] = page;
    } else {
      sequence.pages.push_back(page);
    }
    sequence.owns_tail = true;
    sequence.computed = block * kKvPageTokens + read->valid_tokens;
    if (read->valid_tokens < kKvPageTokens) break;
  }
  result.tokens = sequence.computed - from;
  result.seconds = seconds_since(start);
  if (result.tokens > 0) {
    publish(sequence, tokens);
    if (result.tokens >= kKvPageTokens) {
      rates_.restore_tokens_per_second = result.tokens / std::max(result.seconds, 1e-6);
      disk_->set_rates(rates_);
    }
  }
  return result;
}

int KvMemory::pages_to_grow(const KvSequence& sequence, int upto) const {
  int pages = std::max(0, kv_blocks(upto) - static_cast<int>(sequence.pages.size()));
  if (!sequence.owns_tail && sequence.computed % kKvPageTokens != 0) ++pages;
  return pages;
}

void KvMemory::grow(KvSequence& sequence, int upto) {
  int partial = sequence.computed % kKvPageTokens;
  if (!sequence.owns_tail && partial != 0) {
    int page = alloc();
    int32_t& last = sequence.pages[static_cast<size_t>(sequence.computed / kKvPageTokens)];
    for (int g = 0; g < groups_; ++g) store_->copy_page(g, last, page, partial);
    pool_.release(last);
    last = page;
  }
  sequence.owns_tail = true;
  while (static_cast<int>(sequence.pages.size()) < kv_blocks(upto)) {
    sequence.pages.push_back(alloc());
  }
}

void KvMemory::publish(const KvSequence& sequence, std::span<const int32_t> tokens) {
  if (!prefix_cache_ || sequence.computed == 0) return;
  tree_->insert(tokens.first(static_cast<size_t>(sequence.computed)), sequence.pages);
}

void KvMemory::release(KvSequence& sequence) {
  for (int32_t page : sequence.pages) pool_.release(page);
  sequence = KvSequence();
}

int KvMemory::available(int wanted) {
  for (;;) {
    int pages = pool_.free_count() + tree_->evictable_pages();
    if (pages >= wanted || saves_.empty()) return pages;
    drop_save();
  }
}

// --- Saving --------------------------------------------------------------------------------------

void KvMemory::save(const KvSequence& sequence, std::span<const int32_t> tokens,
                    std::span<const std::string> tags) {
  if (!disk_ || sequence.computed == 0) return;
  Save save;
  save.tokens.assign(tokens.begin(), tokens.begin() + sequence.computed);
  save.pages.assign(sequence.pages.begin(), sequence.pages.begin() + kv_blocks(sequence.computed));
  save.tags.assign(tags.begin(), tags.end());
  for (int32_t page : save.pages) pool_.retain(page);
  saves_.push_back(std::move(save));
}

void KvMemory::drop_save() {
  Save& save = saves_.front();
  if (save.block * kKvPageTokens < static_cast<int>(save.tokens.size())) {
    save_problem_ = "KV memory was needed before its pages were written";
  }
  for (int32_t page : save.pages) pool_.release(page);
  saves_.pop_front();
}

std::vector<std::byte> KvMemory::export_page(int page) {
  std::vector<std::byte> bytes(page_bytes_);
  std::span<std::byte> rest = bytes;
  for (int g = 0; g < groups_; ++g) {
    store_->export_page(g, page, rest.first(store_->page_bytes(g)));
    rest = rest.subspan(store_->page_bytes(g));
  }
  return bytes;
}

bool KvMemory::save_step() {
  while (!saves_.empty()) {
    Save& save = saves_.front();
    int blocks = kv_blocks(static_cast<int>(save.tokens.size()));
    while (save.block < blocks && disk_->has(save.tokens, save.block)) ++save.block;
    if (save.block >= blocks) {
      drop_save();
      continue;
    }
    if (!disk_->can_write()) return false;
    int partial = static_cast<int>(save.tokens.size()) - save.block * kKvPageTokens;
    int page = save.pages[static_cast<size_t>(save.block)];
    std::vector<std::byte> bytes;
    if (partial < kKvPageTokens) {
      // The rest of the page holds remains of other texts: they must not reach the disk.
      int clean = pool_.alloc();
      if (clean == kNone) {
        ++save.block;
        continue;
      }
      std::vector<std::byte> zero(page_bytes_);
      std::span<const std::byte> rest = zero;
      for (int g = 0; g < groups_; ++g) {
        store_->import_page(g, clean, rest.first(store_->page_bytes(g)));
        store_->copy_page(g, page, clean, partial);
      }
      bytes = export_page(clean);
      pool_.release(clean);
    } else {
      bytes = export_page(page);
    }
    if (!disk_->write(save.tokens, save.block, std::move(bytes), save.tags)) {
      save_problem_ = disk_->counters().write_error;
      if (save_problem_.empty()) save_problem_ = "the disk did not keep up";
      save.block = blocks;
      drop_save();
      return false;
    }
    ++save.block;
    return true;
  }
  return false;
}

void KvMemory::save_until(Clock::time_point deadline) {
  if (!disk_) return;
  while (!saves_.empty() && Clock::now() < deadline) {
    if (!save_step() && !saves_.empty()) {
      // The writer is behind; let it catch up.
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
      disk_->flush(std::min(left, std::chrono::milliseconds(20)), false);
    }
  }
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  disk_->flush(std::max(left, std::chrono::milliseconds(0)), false);
}

std::string KvMemory::take_save_problem() {
  if (disk_ && save_problem_.empty()) save_problem_ = disk_->counters().write_error;
  return std::exchange(save_problem_, {});
}

void KvMemory::measured_prefill(int tokens, double seconds) {
  if (tokens < kKvPageTokens || seconds <= 0) return;
  rates_.prefill_tokens_per_second = tokens / seconds;
  if (disk_) disk_->set_rates(rates_);
}

}  // namespace apud
