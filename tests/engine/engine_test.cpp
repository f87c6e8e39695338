// The engine over an executor that notices wrong KV (tests/support/fake_model.h).
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cctype>
#include <random>

#include "tests/support/fake_model.h"

namespace apud {
namespace {

using test::FakeExecutor;
using test::FakeLog;
using test::FakeModel;
using test::FakeTokenizer;

std::vector<int32_t> ids(const std::string& text) {
  std::vector<int32_t> out;
  for (unsigned char c : text) out.push_back(c);
  return out;
}

std::vector<int32_t> numbers(int n, int start = 0) {
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back((start + i * 7) % 251);
  return out;
}

struct Rig {
  explicit Rig(EngineOptions options = small(), int max_step = 512, int end_chance = 0) {
    auto executor = std::make_unique<FakeExecutor>(model->program(), log, max_step);
    executor->end_chance = end_chance;
    fake = executor.get();
    engine = std::make_unique<Engine>(model, std::move(executor), options);
  }
  static EngineOptions small() {
    EngineOptions options;
    options.context = 1024;
    return options;
  }
  static EngineOptions uncached() {
    EngineOptions options = small();
    options.prefix_cache = false;
    return options;
  }
  std::shared_ptr<FakeModel> model = std::make_shared<FakeModel>();
  std::shared_ptr<FakeLog> log = std::make_shared<FakeLog>();
  FakeExecutor* fake = nullptr;
  std::unique_ptr<Engine> engine;
};

Request request(std::vector<int32_t> prompt, int max_tokens = 20) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  return r;
}

TEST(Engine, SecondTurnComputesOnlyWhatIsNew) {
  Rig rig;
  Answer first = rig.engine->generate(request(numbers(100), 30));
  EXPECT_EQ(first.receipt.usage.prompt, 100);
  EXPECT_EQ(first.receipt.usage.cached, 0);
  EXPECT_EQ(first.receipt.usage.computed, 100);
  EXPECT_EQ(first.receipt.usage.generated, 30);
  std::vector<int32_t> next = numbers(100);
  next.insert(next.end(), first.best().tokens.begin(), first.best().tokens.end());
  for (int32_t token : numbers(10, 3)) next.push_back(token);
  int64_t before = rig.log->tokens;
  Answer second = rig.engine->generate(request(next, 1));
  // 129 tokens have KV: the last generated token was never run.
  EXPECT_EQ(second.receipt.usage.cached, 129);
  EXPECT_EQ(second.receipt.usage.computed, 11);
  EXPECT_EQ(rig.log->tokens - before, 11) << "nothing else was run";
  Rig fresh(Rig::uncached());
  EXPECT_EQ(fresh.engine->generate(request(next, 1)).best().tokens, second.best().tokens);
}

/// 200 conversations with edits, undos and forks under memory pressure: same answers as from
/// scratch.
TEST(Engine, AnswersDoNotDependOnTheCache) {
  EngineOptions options = Rig::small();
  options.context = 300;
  Rig cached(options);
  options.prefix_cache = false;
  Rig scratch(options);
  std::mt19937 rng(5);
  std::vector<std::vector<int32_t>> histories{numbers(40)};
  int64_t reused = 0;
  for (int i = 0; i < 600; ++i) {
    std::vector<int32_t> history = histories[rng() % histories.size()];
    if (rng() % 3 == 0) history.resize(1 + rng() % history.size());  // undo, edit
    int more = 1 + static_cast<int>(rng() % 40);
    for (int k = 0; k < more; ++k) history.push_back(static_cast<int32_t>(rng() % 3 + 60));
    if (history.size() > 250) history.resize(20);
    Request r = request(history, 1 + static_cast<int>(rng() % 30));
    r.seed = rng();
    r.sampling.temperature = rng() % 2 ? 1.0f : 0.0f;
    Answer a = cached.engine->generate(r);
    Answer b = scratch.engine->generate(r);
    ASSERT_EQ(a.best().tokens, b.best().tokens) << "round " << i;
    ASSERT_EQ(a.best().logprobs, b.best().logprobs) << "round " << i;
    reused += a.receipt.usage.cached;
    history.insert(history.end(), a.best().tokens.begin(), a.best().tokens.end());
    histories.push_back(history);
    if (histories.size() > 12) histories.erase(histories.begin() + static_cast<long>(rng() % 12));
  }
  EXPECT_GT(reused, 20000) << "the test is about reuse";
}

TEST(Engine, ABatchAnswersAsAlone) {
  EngineOptions options = Rig::small();
  options.kv_bytes = 64ull << 20;
  options.mixed_step_tokens = 16;
  Rig together(options);
  Rig alone(Rig::uncached());
  std::vector<Request> requests;
  for (int i = 0; i < 20; ++i) {
    auto prompt = numbers(50 + 13 * i, i % 3);
    Request r = request(prompt, 5 + i);
    r.seed = static_cast<uint64_t>(100 + i);
    r.sampling.temperature = 0.8f;
    r.sampling.top_k = 40;
    r.sampling.repetition_penalty = 1.1f;
    requests.push_back(r);
  }
  std::vector<uint64_t> submitted;
  for (const Request& r : requests) submitted.push_back(together.engine->submit(r));
  while (together.engine->step()) {
  }
  EXPECT_GT(together.log->most_sequences, 4) << "they ran together";
  for (size_t i = 0; i < requests.size(); ++i) {
    std::optional<Answer> answer = together.engine->take(submitted[i]);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->best().tokens, alone.engine->generate(requests[i]).best().tokens) << i;
  }
  EXPECT_EQ(together.engine->running(), 0);
}

TEST(Engine, ASharedPrefixIsComputedOnce) {
  Rig rig;
  std::vector<uint64_t> submitted;
  for (int i = 0; i < 6; ++i) {
    auto prompt = numbers(600);
    prompt.push_back(200 + i);
    submitted.push_back(rig.engine->submit(request(prompt, 1)));
  }
  for (uint64_t id : submitted) rig.engine->wait(id);
  // 600 once, and each request's own last token.
  EXPECT_EQ(rig.log->tokens, 600 + 6);
}

TEST(Engine, SamplesShareThePromptAndDiffer) {
  Rig rig;
  Request r = request(numbers(500), 10);
  r.n = 4;
  r.seed = 9;
  r.sampling.temperature = 1;
  Answer answer = rig.engine->generate(r);
  ASSERT_EQ(answer.completions.size(), 4u);
  // 500 once, the last prompt token for each of the other three, nine decode steps each.
  EXPECT_EQ(rig.log->tokens, 500 + 3 + 4 * 9);
  EXPECT_NE(answer.completions[0].tokens, answer.completions[1].tokens);
  Rig other(Rig::uncached());
  Answer again = other.engine->generate(r);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_EQ(again.completions[i].tokens, answer.completions[i].tokens);
  r.n = 2;
  r.best_of = 4;
  Answer best = rig.engine->generate(r);
  ASSERT_EQ(best.completions.size(), 2u);
  double highest = -1e9;
  for (const auto& c : answer.completions) highest = std::max(highest, c.mean_logprob());
  EXPECT_DOUBLE_EQ(best.best().mean_logprob(), highest);
  EXPECT_GE(best.completions[0].mean_logprob(), best.completions[1].mean_logprob());
}

TEST(Engine, DecodingDoesNotWaitForALongPrompt) {
  EngineOptions options = Rig::small();
  options.context = 4096;
  options.mixed_step_tokens = 32;
  Rig rig(options);
  int written = 0;
  Request first = request(numbers(10), 400);
  first.on_text = [&](const TextPiece&) {
    ++written;
    return true;
  };
  rig.engine->submit(first);
  rig.engine->step();
  rig.engine->submit(request(numbers(3000, 5), 5));
  size_t from = rig.log->step_tokens.size();
  int before = written;
  for (int i = 0; i < 50; ++i) rig.engine->step();
  EXPECT_EQ(written - before, 50) << "a token a step";
  for (size_t i = from; i < rig.log->step_tokens.size(); ++i)
    EXPECT_LE(rig.log->step_tokens[i], 33);
}

TEST(Engine, RefusesWhatDoesNotFitWithTheNumbers) {
  Rig rig;
  try {
    rig.engine->submit(request(numbers(1024)));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(), "the prompt has 1,024 tokens, the context 1,024");
  }
  EXPECT_THROW(rig.engine->submit(request({})), Error);
  EXPECT_THROW(rig.engine->submit(request({5, 260})), Error);
  EXPECT_THROW(rig.engine->submit(request({-1})), Error);
  Answer full = rig.engine->generate(request(numbers(1000), 0));
  EXPECT_EQ(full.best().tokens.size(), 24u) << "to the end of the context";
  EXPECT_EQ(full.best().finish_reason, FinishReason::kLength);
  EngineOptions options = Rig::small();
  options.kv_bytes = 16 * 64 * 16;
  EXPECT_THROW(Rig{options}, Error);
}

TEST(Engine, MoreRequestsThanMemoryRunOneAfterTheOther) {
  EngineOptions options = Rig::small();
  options.context = 256;  // KV memory for two contexts
  Rig rig(options);
  Rig alone(Rig::uncached());
  std::vector<uint64_t> submitted;
  for (int i = 0; i < 12; ++i)
    submitted.push_back(rig.engine->submit(request(numbers(200, i), 50)));
  for (int i = 0; i < 12; ++i) {
    Answer answer = rig.engine->wait(submitted[static_cast<size_t>(i)]);
    EXPECT_FALSE(answer.error) << answer.error->what();
    EXPECT_EQ(answer.best().tokens,
              alone.engine->generate(request(numbers(200, i), 50)).best().tokens);
  }
}

TEST(Engine, NotANumberEndsOneAnswerOnly) {
  Rig rig;
  rig.fake->poison = 7;
  uint64_t bad = rig.engine->submit(request(ids("abc\x07"), 10));
  uint64_t good = rig.engine->submit(request(ids("xyz"), 10));
  Answer failed = rig.engine->wait(bad);
  ASSERT_TRUE(failed.error);
  EXPECT_EQ(failed.error->kind(), ErrorKind::kBadData);
  EXPECT_EQ(failed.best().finish_reason, FinishReason::kError);
  Answer fine = rig.engine->wait(good);
  EXPECT_FALSE(fine.error);
  Rig alone(Rig::uncached());
  EXPECT_EQ(fine.best().tokens, alone.engine->generate(request(ids("xyz"), 10)).best().tokens);
  EXPECT_THROW(rig.engine->generate(request(ids("\x07"), 2)), Error);
}

TEST(Engine, StopsWhereItIsTold) {
  Rig rig;
  Answer plain = rig.engine->generate(request(ids("tell"), 40));
  const std::string& text = plain.best().text;
  ASSERT_EQ(text.size(), 40u);
  Request r = request(ids("tell"), 40);
  r.stop = {"never so", text.substr(10, 3)};
  std::string streamed;
  r.on_text = [&](const TextPiece& piece) {
    streamed += piece.text;
    return true;
  };
  Answer stopped = rig.engine->generate(r);
  EXPECT_EQ(stopped.best().text, text.substr(0, text.find(r.stop[1])));
  EXPECT_EQ(streamed, stopped.best().text);
  EXPECT_EQ(stopped.best().finish_reason, FinishReason::kStopString);
  EXPECT_EQ(stopped.best().stop_string, r.stop[1]);

  CancelFlag flag;
  r.stop.clear();
  r.cancel = &flag;
  r.on_text = [&](const TextPiece&) {
    flag.raise();
    return true;
  };
  Answer cancelled = rig.engine->generate(r);
  EXPECT_EQ(cancelled.best().finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(cancelled.best().tokens.size(), 1u);
  r.cancel = nullptr;
  r.on_text = [](const TextPiece&) { return false; };
  EXPECT_EQ(rig.engine->generate(r).best().finish_reason, FinishReason::kCancelled);

  Rig ends(Rig::small(), 512, 200);
  Answer end = ends.engine->generate(request(ids("tell"), 500));
  EXPECT_EQ(end.best().finish_reason, FinishReason::kStop);
  EXPECT_LT(end.best().tokens.size(), 100u);
}

TEST(Engine, OnlyAllowedTokensAreDrawnByEverySample) {
  Rig rig;
  // Letters and digits in turn.
  std::vector<uint64_t> letters((FakeTokenizer::kVocab + 63) / 64), digits(letters.size());
  for (int c = 'a'; c <= 'z'; ++c) letters[c / 64] |= uint64_t{1} << (c % 64);
  for (int c = '0'; c <= '9'; ++c) digits[c / 64] |= uint64_t{1} << (c % 64);
  for (float temperature : {0.0f, 1.5f}) {
    Request r = request(numbers(30), 24);
    r.n = temperature > 0 ? 3 : 1;
    r.sampling.temperature = temperature;
    r.allowed = [&](std::span<const int32_t> generated) {
      return std::span<const uint64_t>(generated.size() % 2 == 0 ? letters : digits);
    };
    Answer answer = rig.engine->generate(std::move(r));
    ASSERT_EQ(answer.completions.size(), temperature > 0 ? 3u : 1u);
    for (const Completion& c : answer.completions) {
      ASSERT_EQ(c.tokens.size(), 24u);
      for (size_t i = 0; i < c.tokens.size(); ++i)
        EXPECT_TRUE(i % 2 == 0 ? std::isalpha(c.tokens[i]) : std::isdigit(c.tokens[i])) << i;
    }
  }
}

TEST(Engine, SeedIsReportedAndReproduces) {
  Rig rig;
  Request r = request(ids("dice"), 30);
  r.sampling.temperature = 1.2f;
  Answer a = rig.engine->generate(r);
  Answer b = rig.engine->generate(r);
  EXPECT_NE(a.best().tokens, b.best().tokens) << "no seed: a fresh one each time";
  r.seed = a.receipt.seed;
  EXPECT_EQ(rig.engine->generate(r).best().tokens, a.best().tokens);
}

TEST(Engine, ScoresEqualTheLogprobsOfGenerating) {
  for (bool cache : {true, false}) {
    Rig rig(cache ? Rig::small() : Rig::uncached());
    Answer answer = rig.engine->generate(request(numbers(300), 40));
    std::vector<ScoreItem> items;
    items.push_back({numbers(300), answer.best().tokens});
    for (int32_t token : {65, 66, 67}) items.push_back({numbers(300), {token}});
    for (int i = 0; i < 12; ++i) items.push_back({numbers(300 + i), {65, 66}});
    int64_t before = rig.log->tokens;
    auto scores = rig.engine->score(items);
    ASSERT_EQ(scores[0].size(), 40u);
    for (size_t i = 0; i < 40; ++i) EXPECT_FLOAT_EQ(scores[0][i], answer.best().logprobs[i]);
    for (size_t i = 1; i < 4; ++i) {
      Rig fresh(Rig::uncached());
      EXPECT_EQ(fresh.engine->score(std::span(items).subspan(i, 1))[0], scores[i]);
    }
    if (cache) {
      EXPECT_LT(rig.log->tokens - before, 41 + 1 + 12 * 14) << "prefixes are shared";
    }
  }
}

TEST(Engine, PerplexityIsTheMeanOverAllTokens) {
  Rig rig;
  auto text = numbers(700);
  double sum = 0;
  std::vector<ScoreItem> one(1);
  one[0].prompt = {text[0]};
  one[0].continuation.assign(text.begin() + 1, text.end());
  auto scores = rig.engine->score(one);
  for (float value : scores[0]) sum -= value;
  EXPECT_NEAR(rig.engine->perplexity(text), std::exp(sum / 699), 1e-6 * std::exp(sum / 699));
}

TEST(Engine, PinnedDocumentsSurviveOtherWork) {
  EngineOptions options = Rig::small();
  options.context = 256;
  Rig rig(options);
  auto document = numbers(100);
  EXPECT_EQ(rig.engine->pin(document), 100);
  for (int i = 1; i < 20; ++i) rig.engine->generate(request(numbers(200, i), 40));
  auto question = document;
  for (int32_t token : numbers(20, 9)) question.push_back(token);
  Answer answer = rig.engine->generate(request(question, 5));
  EXPECT_EQ(answer.receipt.usage.cached, 100);
  EXPECT_EQ(answer.receipt.usage.computed, 20);
  Rig fresh(Rig::uncached());
  EXPECT_EQ(fresh.engine->generate(request(question, 5)).best().tokens, answer.best().tokens);
  rig.engine->unpin(document);
  for (int i = 1; i < 20; ++i) rig.engine->generate(request(numbers(200, i), 40));
  EXPECT_EQ(rig.engine->reusable(question).device, 0);
}

}  // namespace
}  // namespace apud
