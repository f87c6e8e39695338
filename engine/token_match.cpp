// Embedding::match: questions beside passages by the vectors of their single tokens.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "engine/embedding.h"

namespace apud {
namespace {

void make_unit(float* vector, size_t dimension) {
  double norm = 0;
  for (size_t d = 0; d < dimension; ++d) norm += static_cast<double>(vector[d]) * vector[d];
  auto scale = static_cast<float>(norm > 0 ? 1 / std::sqrt(norm) : 0);
  for (size_t d = 0; d < dimension; ++d) vector[d] *= scale;
}

/// Eight sums side by side, so that the compiler may use vectors and the order stays fixed.
float dot(const float* a, const float* b, size_t dimension) {
  constexpr size_t kLanes = 8;
  std::array<float, kLanes> sums{};
  size_t d = 0;
  for (; d + kLanes <= dimension; d += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[d + lane] * b[d + lane];
  }
  float sum = 0;
  for (; d < dimension; ++d) sum += a[d] * b[d];
  for (float lane : sums) sum += lane;
  return sum;
}

/// Unit vector of the sum of rows [begin, end).
std::vector<float> mean_of(const std::vector<float>& rows, size_t begin, size_t end,
                           size_t dimension) {
  std::vector<float> mean(dimension, 0.0f);
  for (size_t r = begin; r < end; ++r) {
    for (size_t d = 0; d < dimension; ++d) mean[d] += rows[r * dimension + d];
  }
  make_unit(mean.data(), dimension);
  return mean;
}

struct Question {
  std::vector<float> vector;  // pooled, unit
  std::vector<float> tokens;  // (n, dimension) unit rows, without prompt and special tokens
};

/// Mean over the question's tokens of the highest cosine with rows [begin, end).
float max_sim(const Question& question, const std::vector<float>& rows, size_t begin, size_t end,
              size_t dimension) {
  const size_t n = question.tokens.size() / dimension;
  if (n == 0 || begin == end) return -1;
  float sum = 0;
  for (size_t q = 0; q < n; ++q) {
    float best = -1;
    for (size_t r = begin; r < end; ++r) {
      best = std::max(best, dot(question.tokens.data() + q * dimension, rows.data() + r * dimension,
                                dimension));
    }
    sum += best;
  }
  return sum / static_cast<float>(n);
}

}  // namespace

void Embedding::add_token_executor(std::unique_ptr<Executor> tokens) {
  const Program& program = tokens->program();
  APUD_CHECK(program.values[static_cast<size_t>(program.result)].rows == Rows::kOutputs,
             "the executor gives rows of tokens");
  tokens_ = std::move(tokens);
}

/// The last layer's rows of each text, (its tokens, width).
std::vector<std::vector<float>> Embedding::token_rows(std::span<const std::vector<int32_t>> texts) {
  const Program& program = tokens_->program();
  const auto width = static_cast<size_t>(program.values[static_cast<size_t>(program.result)].cols);
  const auto most = static_cast<size_t>(tokens_->max_step_tokens());
  std::vector<std::vector<float>> out(texts.size());
  std::vector<float> rows;
  std::vector<size_t> order(texts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t next = 0; next < texts.size();) {
    const size_t from = next;
    const auto [tokens, slices] = pack_step(texts, order, most, next);
    std::vector<int32_t> wanted(tokens.size());
    std::iota(wanted.begin(), wanted.end(), 0);
    rows.resize(tokens.size() * width);
    tokens_->run({tokens, slices, wanted}, nullptr, rows);
    for (size_t s = 0; s < slices.size(); ++s) {
      const float* first = rows.data() + static_cast<size_t>(slices[s].first_row) * width;
      out[from + s].assign(first, first + static_cast<size_t>(slices[s].token_count) * width);
    }
  }
  return out;
}

std::vector<TokenMatch> Embedding::match(std::span<const std::string> questions,
                                         std::span<const std::vector<std::string>> passages) {
  APUD_CHECK(tokens_, "a token executor was added");
  const ModelConfig& config = model_->config();
  const Tokenizer& tokenizer = model_->tokenizer();
  const size_t prompt = tokenizer.encode(std::string_view(config.query_prompt)).size();
  std::vector<std::vector<int32_t>> texts;
  for (const std::string& question : questions) {
    bool cut = false;
    texts.push_back(encode(question, EmbeddingKind::kQuery, &cut));
  }
  // A passage's parts are tokenized one by one, so that each one's rows are known.
  const std::vector<int32_t> before = tokenizer.encode(std::string_view(config.passage_prompt));
  const auto room = static_cast<size_t>(max_tokens_ - 1);
  std::vector<std::vector<size_t>> ends;  // of each part
  for (const std::vector<std::string>& passage : passages) {
    std::vector<int32_t> ids = {first_token_};
    ids.insert(ids.end(), before.begin(), before.end());
    std::vector<size_t>& end = ends.emplace_back();
    for (const std::string& part : passage) {
      std::vector<int32_t> more = tokenizer.encode(std::string_view(part));
      more.resize(std::min(more.size(), room - ids.size()));
      ids.insert(ids.end(), more.begin(), more.end());
      end.push_back(ids.size());
    }
    ids.push_back(last_token_);
    texts.push_back(std::move(ids));
  }
  std::vector<std::vector<float>> rows = token_rows(texts);
  const Program& program = tokens_->program();
  const auto width = static_cast<size_t>(program.values[static_cast<size_t>(program.result)].cols);

  std::vector<Question> asked;
  for (size_t q = 0; q < questions.size(); ++q) {
    const size_t n = rows[q].size() / width;
    Question& one = asked.emplace_back();
    one.vector = mean_of(rows[q], 0, n, width);
    const size_t begin = std::min(n - 1, 1 + prompt);  // behind the first token and the prompt
    one.tokens.assign(rows[q].begin() + static_cast<std::ptrdiff_t>(begin * width),
                      rows[q].end() - static_cast<std::ptrdiff_t>(width));
    for (size_t t = 0; t * width < one.tokens.size(); ++t)
      make_unit(one.tokens.data() + t * width, width);
  }
  std::vector<TokenMatch> out;
  const auto share = 1 / static_cast<float>(asked.size());
  for (size_t p = 0; p < passages.size(); ++p) {
    std::vector<float>& passage = rows[questions.size() + p];
    const size_t n = passage.size() / width;
    for (size_t t = 0; t < n; ++t) make_unit(passage.data() + t * width, width);
    TokenMatch& match = out.emplace_back();
    const size_t begin = 1 + before.size();
    for (const Question& question : asked)
      match.passage += share * max_sim(question, passage, begin, n - 1, width);
    size_t at = begin;
    for (size_t end : ends[p]) {
      match.parts.push_back(at == end ? -1 : 0);
      std::vector<float> mean = mean_of(passage, at, end, width);
      for (const Question& question : asked) {
        if (at < end) match.parts.back() += share * dot(question.vector.data(), mean.data(), width);
      }
      at = end;
    }
  }
  return out;
}

}  // namespace apud
