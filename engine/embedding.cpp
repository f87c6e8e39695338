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
  int full = model_->program().values[static_cast<size_t>(model_->program().result)].cols;
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

Embedding::Packed Embedding::pack_step(std::span<const std::vector<int32_t>> texts,
                                       std::span<const size_t> order, size_t most, size_t& next) {
  Packed step;
  const size_t from = next;
  while (next < order.size() &&
         (next == from || step.tokens.size() + texts[order[next]].size() <= most)) {
    const std::vector<int32_t>& one = texts[order[next++]];
    SequenceSlice slice;
    slice.first_row = static_cast<int>(step.tokens.size());
    slice.token_count = static_cast<int>(one.size());
    step.slices.push_back(slice);
    step.tokens.insert(step.tokens.end(), one.begin(), one.end());
  }
  return step;
}

int Embedding::embed(std::span<const std::string> texts, EmbeddingKind kind, std::span<float> out,
                     const CancelFlag* cancel) {
  auto dimension = static_cast<size_t>(dimension_);
  APUD_CHECK(out.size() == texts.size() * dimension, "room for every vector");
  std::fill(out.begin(), out.end(), 0.0f);
  int cuts = 0;
  std::vector<std::vector<int32_t>> ids(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    bool cut = false;
    ids[i] = encode(texts[i], kind, &cut);
    cuts += cut;
  }
  // Long ones first: memory is at its peak at the start, and batches are of like lengths.
  std::vector<size_t> order(texts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return ids[a].size() > ids[b].size(); });
  auto full = static_cast<size_t>(
      model_->program().values[static_cast<size_t>(model_->program().result)].cols);
  auto most = static_cast<size_t>(executor_->max_step_tokens());
  std::vector<float> result;
  for (size_t next = 0; next < order.size();) {
    if (cancel && cancel->raised()) break;
    const size_t from = next;
    const auto [tokens, slices] = pack_step(ids, order, most, next);
    result.resize(slices.size() * full);
    executor_->run({tokens, slices, {}}, nullptr, result);
    for (size_t s = 0; s < slices.size(); ++s) {
      const float* vector = result.data() + s * full;
      double norm = 0;
      for (size_t d = 0; d < dimension; ++d) norm += static_cast<double>(vector[d]) * vector[d];
      if (!std::isfinite(norm)) {
        throw Error(ErrorKind::kBadData, name() + ": a vector is not a number",
                    "the model file may be damaged (apud model info)");
      }
      double scale = norm > 0 ? 1 / std::sqrt(norm) : 0;
      float* target = out.data() + order[from + s] * dimension;
      for (size_t d = 0; d < dimension; ++d) target[d] = static_cast<float>(vector[d] * scale);
    }
  }
  return cuts;
}

}  // namespace apud
