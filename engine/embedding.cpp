#include "engine/embedding.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"

namespace apud {
namespace {

int32_t special(const Tokenizer& tokenizer, const std::string& model, const char* text,
                std::optional<int32_t> otherwise) {
  if (std::optional<int32_t> id = tokenizer.find_special(text)) return *id;
  if (otherwise) return *otherwise;
  throw Error(ErrorKind::kBadData, model + ": its tokenizer has no " + text,
              "the model's files do not belong together; pull it again");
}

/// False where the vector is not a number.
bool make_unit(float* vector, size_t dimension) {
  double norm = 0;
  for (size_t d = 0; d < dimension; ++d) norm += static_cast<double>(vector[d]) * vector[d];
  if (!std::isfinite(norm)) return false;
  const double scale = norm > 0 ? 1 / std::sqrt(norm) : 0;
  for (size_t d = 0; d < dimension; ++d) vector[d] = static_cast<float>(vector[d] * scale);
  return true;
}

}  // namespace

Embedding::Embedding(std::shared_ptr<const Model> model, std::unique_ptr<Executor> executor,
                     const EmbeddingOptions& options)
    : model_(std::move(model)), executor_(std::move(executor)) {
  const ModelConfig& config = model_->config();
  const Tokenizer& tokenizer = model_->tokenizer();
  if (!model_->program().is_encoder()) {
    throw Error(ErrorKind::kUsage, config.name + " is no embedding model",
                "apud model list --embed");
  }
  if (config.architecture == "bert") {
    first_token_ = special(tokenizer, config.name, "[CLS]", tokenizer.bos());
    last_token_ = special(tokenizer, config.name, "[SEP]", tokenizer.eos());
  } else if (config.architecture == "xlm-roberta") {
    first_token_ = special(tokenizer, config.name, "<s>", tokenizer.bos());
    last_token_ = special(tokenizer, config.name, "</s>", tokenizer.eos());
  } else if (config.architecture == "gemma-embedding") {
    first_token_ = special(tokenizer, config.name, "<bos>", tokenizer.bos());
    last_token_ = special(tokenizer, config.name, "<eos>", tokenizer.eos());
  } else {
    throw Error(ErrorKind::kBadData,
                config.name + ": no special tokens known for architecture " + config.architecture);
  }
  const Program& program = executor_->program();
  const Value& result = program.values[static_cast<size_t>(program.result)];
  const int full = result.cols;
  if (result.rows == Rows::kOutputs) token_width_ = full;
  dimension_ = options.dimension == 0 ? full : options.dimension;
  if (dimension_ != full && std::find(config.matryoshka.begin(), config.matryoshka.end(),
                                      dimension_) == config.matryoshka.end()) {
    std::string known = std::to_string(full);
    for (int size : config.matryoshka) known += ", " + std::to_string(size);
    throw Error(ErrorKind::kUsage, config.name + " has no vectors of dimension " +
                                       std::to_string(dimension_) + ": expected " + known);
  }
  max_tokens_ =
      config.max_input_tokens > 0 ? config.max_input_tokens : model_->program().max_positions;
  max_tokens_ =
      std::min({max_tokens_, model_->program().max_positions, executor_->max_step_tokens()});
  int prompt = 0;
  for (const std::string& text : {config.query_prompt, config.passage_prompt}) {
    prompt = std::max(prompt, static_cast<int>(tokenizer.encode(std::string_view(text)).size()));
  }
  overhead_ = prompt + 2;
  // A token of prompt and text may merge or split where they meet.
  if (prompt > 0) overhead_ += 1;
  std::string identity = model_->fingerprint() + '\0' + tokenizer.fingerprint() + '\0' +
                         config.query_prompt + '\0' + config.passage_prompt + '\0' +
                         std::to_string(dimension_);
  fingerprint_ = xxh3_128_hex(identity);
}

int Embedding::count_tokens(std::string_view text) const {
  return static_cast<int>(model_->tokenizer().encode(text).size());
}

bool Embedding::multilingual() const {
  // The English WordPiece vocabulary has 30,522 entries; multilingual ones have several times more.
  return model_->config().architecture != "bert" || model_->tokenizer().vocab_size() > 60'000;
}

std::vector<int32_t> Embedding::encode(std::string_view text, EmbeddingKind kind, bool* cut) const {
  const ModelConfig& config = model_->config();
  std::string whole = (kind == EmbeddingKind::kQuery ? config.query_prompt : config.passage_prompt);
  whole += text;
  std::vector<int32_t> ids = model_->tokenizer().encode(std::string_view(whole));
  auto room = static_cast<size_t>(max_tokens_ - 2);
  *cut = ids.size() > room;
  if (*cut) ids.resize(room);
  ids.insert(ids.begin(), first_token_);
  ids.push_back(last_token_);
  return ids;
}

void Embedding::forward(std::span<const std::vector<int32_t>> texts, std::span<float> out,
                        const CancelFlag* cancel,
                        const std::function<void(size_t text, std::span<float> rows)>& each) {
  // Long ones first: memory is at its peak at the start, and batches are of like lengths.
  std::vector<size_t> order(texts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return texts[a].size() > texts[b].size(); });
  const auto dimension = static_cast<size_t>(dimension_);
  const Program& program = executor_->program();
  const auto full = static_cast<size_t>(program.values[static_cast<size_t>(program.result)].cols);
  const auto most = static_cast<size_t>(executor_->max_step_tokens());
  std::vector<int32_t> tokens, wanted;
  std::vector<SequenceSlice> slices;
  std::vector<float> result, mean(full);
  for (size_t next = 0; next < order.size();) {
    if (cancel && cancel->raised()) return;
    const size_t from = next;
    tokens.clear();
    slices.clear();
    while (next < order.size() &&
           (next == from || tokens.size() + texts[order[next]].size() <= most)) {
      const std::vector<int32_t>& one = texts[order[next++]];
      SequenceSlice slice;
      slice.first_row = static_cast<int>(tokens.size());
      slice.token_count = static_cast<int>(one.size());
      slices.push_back(slice);
      tokens.insert(tokens.end(), one.begin(), one.end());
    }
    wanted.resize(token_width_ > 0 ? tokens.size() : 0);
    std::iota(wanted.begin(), wanted.end(), 0);
    result.resize((token_width_ > 0 ? tokens.size() : slices.size()) * full);
    executor_->run({tokens, slices, wanted}, nullptr, result);
    for (size_t s = 0; s < slices.size(); ++s) {
      const float* vector = result.data() + s * full;
      if (token_width_ > 0) {
        const auto n = static_cast<size_t>(slices[s].token_count);
        float* rows = result.data() + static_cast<size_t>(slices[s].first_row) * full;
        std::fill(mean.begin(), mean.end(), 0.0f);
        for (size_t r = 0; r < n; ++r) {
          for (size_t d = 0; d < full; ++d) mean[d] += rows[r * full + d];
        }
        vector = mean.data();
        if (each) each(order[from + s], {rows, n * full});
      }
      float* target = out.data() + order[from + s] * dimension;
      std::copy_n(vector, dimension, target);
      if (!make_unit(target, dimension)) {
        throw Error(ErrorKind::kBadData, name() + ": a vector is not a number",
                    "the model file may be damaged (apud model info)");
      }
    }
  }
}

int Embedding::embed(std::span<const std::string> texts, EmbeddingKind kind, std::span<float> out,
                     const CancelFlag* cancel) {
  APUD_CHECK(out.size() == texts.size() * static_cast<size_t>(dimension_), "room for every vector");
  std::fill(out.begin(), out.end(), 0.0f);
  int cuts = 0;
  std::vector<std::vector<int32_t>> ids(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    bool cut = false;
    ids[i] = encode(texts[i], kind, &cut);
    cuts += cut;
  }
  forward(ids, out, cancel, nullptr);
  return cuts;
}

void Embedding::embed_parts(std::span<const std::vector<std::string>> texts, EmbeddingKind kind,
                            std::span<float> out,
                            const std::function<void(const TokenRows&)>& each) {
  APUD_CHECK(token_width_ > 0, "the executor gives rows of tokens");
  APUD_CHECK(out.size() == texts.size() * static_cast<size_t>(dimension_), "room for every vector");
  const ModelConfig& config = model_->config();
  const Tokenizer& tokenizer = model_->tokenizer();
  const std::vector<int32_t> prompt = tokenizer.encode(std::string_view(
      kind == EmbeddingKind::kQuery ? config.query_prompt : config.passage_prompt));
  const auto room = static_cast<size_t>(max_tokens_ - 1);  // of the last token
  std::vector<std::vector<int32_t>> ids(texts.size());
  std::vector<std::vector<int>> counts(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    ids[i].push_back(first_token_);
    ids[i].insert(ids[i].end(), prompt.begin(), prompt.end());
    for (const std::string& part : texts[i]) {
      std::vector<int32_t> more = tokenizer.encode(std::string_view(part));
      more.resize(std::min(more.size(), room - ids[i].size()));
      ids[i].insert(ids[i].end(), more.begin(), more.end());
      counts[i].push_back(static_cast<int>(more.size()));
    }
    ids[i].push_back(last_token_);
  }
  const auto width = static_cast<size_t>(token_width_);
  forward(ids, out, nullptr, [&](size_t text, std::span<float> rows) {
    rows = rows.subspan((1 + prompt.size()) * width);
    rows = rows.first(rows.size() - width);
    for (size_t at = 0; at < rows.size(); at += width) make_unit(rows.data() + at, width);
    each({text, rows, counts[text]});
  });
}

}  // namespace apud
