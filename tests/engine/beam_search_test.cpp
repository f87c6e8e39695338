// Beam search: against a search by the book (tests/support/naive_beams.h), and what it does to KV
// pages.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "engine/engine.h"
#include "engine/kv_pages.h"
#include "tests/support/models.h"
#include "tests/support/naive_beams.h"
#include "tests/support/recorder.h"
#include "tests/support/shape_model.h"

namespace apud {
namespace {

using test::FakeExecutor;
using test::FakeLog;
using test::FakeModel;
using test::FakeTokenizer;
using test::NaiveBeams;
using test::ShapeModel;

std::vector<int32_t> random_ids(int n, uint32_t seed, int below = 250) {
  std::mt19937 rng(seed);
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i)
    out.push_back(static_cast<int32_t>(rng() % static_cast<uint32_t>(below)));
  return out;
}

Request search(std::vector<int32_t> prompt, int beams, int max_tokens) {
  Request r;
  r.prompt = std::move(prompt);
  r.beams = beams;
  r.max_tokens = max_tokens;
  return r;
}

/// Counts the KV pages that a step's sequences hold together.
class PageCounter : public test::PassingExecutor {
 public:
  PageCounter(std::unique_ptr<Executor> inner, size_t& most)
      : PassingExecutor(std::move(inner)), most_(most) {}
  void run(const Batch& batch, KvStore* kv, std::span<float> out) override {
    std::set<int32_t> pages;
    for (const SequenceSlice& slice : batch.sequences)
      pages.insert(slice.pages[0].begin(), slice.pages[0].end());
    most_ = std::max(most_, pages.size());
    PassingExecutor::run(batch, kv, out);
  }

 private:
  size_t& most_;
};

struct Rig {
  explicit Rig(int end_chance = 0, int pages = 0, int context = 1024, bool cache = true) {
    auto executor = std::make_unique<FakeExecutor>(model->program(), log);
    executor->end_chance = end_chance;
    fake = executor.get();
    EngineOptions options;
    options.context = context;
    options.prefix_cache = cache;
    if (pages > 0)
      options.kv_bytes = static_cast<uint64_t>(pages) * kKvPageTokens *
                         kv_bytes_per_token(model->program(), executor->default_kv_type());
    engine = std::make_unique<Engine>(
        model, std::make_unique<PageCounter>(std::move(executor), most_pages), options);
  }
  std::shared_ptr<FakeModel> model = std::make_shared<FakeModel>();
  std::shared_ptr<FakeLog> log = std::make_shared<FakeLog>();
  size_t most_pages = 0;
  FakeExecutor* fake = nullptr;
  std::unique_ptr<Engine> engine;
};

void expect_equal(const Answer& answer, const std::vector<test::NaiveHypothesis>& naive,
                  const std::string& what) {
  ASSERT_EQ(answer.completions.size(), naive.size()) << what;
  for (size_t i = 0; i < naive.size(); ++i) {
    EXPECT_EQ(answer.completions[i].tokens, naive[i].tokens) << what << ", hypothesis " << i;
    EXPECT_NEAR(answer.completions[i].score.value(), naive[i].score, 2e-5)
        << what << ", hypothesis " << i;
  }
}

// --- Against a search by the book ----------------------------------------------------------------

/// The fake executor's logits change with any wrong page, and texts end often.
TEST(BeamSearch, EqualsTheBookWhereTextsEndAllTheTime) {
  FakeModel model;
  int ended = 0, early = 0, cut = 0;
  // Never, now and then, often, and always among the likelier tokens but seldom the first.
  for (auto [end_chance, end_logit] : {std::pair{0, 20.f}, {60, 20.f}, {300, 20.f}, {1024, 7.7f}}) {
    Rig rig(end_chance);
    rig.fake->end_logit = end_logit;
    FakeExecutor bare(model.program(), std::make_shared<FakeLog>());
    bare.end_chance = end_chance;
    bare.end_logit = end_logit;
    NaiveBeams naive(bare, {FakeTokenizer::kEnd});
    for (uint32_t i = 0; i < 36; ++i) {
      // Prompts that end just before, at and behind a page's end.
      auto prompt = random_ids(50 + static_cast<int>(i % 12) * 7, i);
      int beams = 2 + static_cast<int>(i % 7), tokens = 1 + static_cast<int>(i) * 3 % 40;
      Answer answer = rig.engine->generate(search(prompt, beams, tokens));
      expect_equal(answer, naive.search(prompt, beams, tokens),
                   "end chance " + std::to_string(end_chance) + ", case " + std::to_string(i));
      for (const Completion& one : answer.completions) {
        ended += one.finish_reason == FinishReason::kStop;
        cut += one.finish_reason == FinishReason::kLength;
      }
      early +=
          std::all_of(answer.completions.begin(), answer.completions.end(),
                      [](const Completion& c) { return c.finish_reason == FinishReason::kStop; });
    }
  }
  EXPECT_GT(ended, 50) << "the test is about ends";
  EXPECT_GT(cut, 50) << "and about none";
  EXPECT_GT(early, 10) << "and about searches that are over before the last token";
}

void check_random_model(const std::function<std::unique_ptr<Executor>(const Model&)>& make) {
  // Several tokens end a text, so that more pairs are looked at.
  const std::vector<int32_t> stops = {FakeTokenizer::kEnd, 17, 300, 411};
  auto model = std::make_shared<ShapeModel>("tiny:q4_k_m", stops);
  EngineOptions options;
  options.context = 512;
  Engine engine(model, make(*model), options);
  auto bare = make(*model);
  NaiveBeams naive(*bare, {stops.begin(), stops.end()});
  for (uint32_t i = 0; i < 12; ++i) {
    auto prompt = random_ids(20 + static_cast<int>(i) * 13, 100 + i, 512);
    int beams = 2 + static_cast<int>(i % 7), tokens = 8 + static_cast<int>(i);
    Answer answer = engine.generate(search(prompt, beams, tokens));
    expect_equal(answer, naive.search(prompt, beams, tokens), "case " + std::to_string(i));
  }
}

TEST(BeamSearch, EqualsTheBookOnARandomModelOnTheCpu) {
  check_random_model([](const Model& model) {
    CpuOptions cpu;
    cpu.threads = 2;
    return make_cpu_executor(model.program(), model.weights(), cpu);
  });
}

TEST(BeamSearch, EqualsTheBookOnARandomModelOnTheGpu) {
  if (std::string reason = cuda_unavailable_reason(); !reason.empty()) GTEST_SKIP() << reason;
  check_random_model([](const Model& model) {
    CudaOptions cuda;
    cuda.deterministic = true;
    return make_cuda_executor(model.program(), model.weights(), cuda);
  });
}

// --- Pages ---------------------------------------------------------------------------------------

TEST(BeamSearch, BeamsShareThePromptsPages) {
  constexpr int kPrompt = 1000, kTokens = 100, kWidth = 8;
  Rig rig(0, 0, 2048);
  Answer answer = rig.engine->generate(search(random_ids(kPrompt, 1), kWidth, kTokens));
  EXPECT_EQ(answer.receipt.usage.computed, kPrompt);
  EXPECT_EQ(rig.log->tokens, kPrompt + kWidth * (kTokens - 1)) << "the prompt is run once";
  // 15 whole pages of the prompt, and what each beam writes behind them: at most three pages, if
  // the beams parted at the first token.
  EXPECT_LE(rig.most_pages, 15u + kWidth * 3);
  EXPECT_LT(rig.most_pages, static_cast<size_t>(kWidth * kv_blocks(kPrompt)) / 3);
}

/// Searches beside other requests, cancelled ones and failing ones, in a pool that is always full:
/// the answers are those of an empty, larger engine, and no page is lost.
TEST(BeamSearch, NoPageIsLostOrMixedUpWhenMemoryIsShort) {
  constexpr int kContext = 1024, kPages = kContext / kKvPageTokens + 1;
  Rig rig(40, kPages, kContext), roomy(40, 0, kContext, false);
  std::mt19937 rng(3);
  int refused = 0, failed = 0, cancelled = 0, equal = 0;
  for (int i = 0; i < 300; ++i) {
    CancelFlag flag;
    Request r = search(random_ids(1 + static_cast<int>(rng() % 200), rng() % 20),
                       2 + static_cast<int>(rng() % 7), 1 + static_cast<int>(rng() % 40));
    Request plain;
    plain.prompt = random_ids(40, rng() % 5);
    plain.max_tokens = 10;
    rig.fake->poison = i % 7 == 0 ? static_cast<int32_t>(32 + rng() % 90) : -1;
    roomy.fake->poison = rig.fake->poison;
    const bool cancel = i % 5 == 0;
    if (cancel) r.cancel = &flag;
    uint64_t id = rig.engine->submit(r), other = rig.engine->submit(plain);
    for (unsigned steps = rng() % 30; cancel && steps > 0; --steps) rig.engine->step();
    if (cancel) flag.raise();
    Answer answer = rig.engine->wait(id);
    rig.engine->wait(other);
    if (cancel) {
      cancelled += answer.best().finish_reason == FinishReason::kCancelled;
      continue;
    }
    Answer truth = roomy.engine->wait(roomy.engine->submit(r));
    if (answer.error && answer.error->kind() == ErrorKind::kBusy) {
      ++refused;
      continue;
    }
    ASSERT_EQ(answer.error.has_value(), truth.error.has_value()) << "search " << i;
    failed += answer.error.has_value();
    if (answer.error) continue;
    ++equal;
    ASSERT_EQ(answer.completions.size(), truth.completions.size());
    for (size_t k = 0; k < truth.completions.size(); ++k)
      ASSERT_EQ(answer.completions[k].tokens, truth.completions[k].tokens) << "search " << i;
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(failed, 0);
  EXPECT_GT(cancelled, 10);
  EXPECT_GT(equal, 100);
  EXPECT_EQ(rig.engine->running(), 0);
  rig.fake->poison = -1;
  Request whole;  // every page but one
  whole.prompt = random_ids(kContext - 40, 900);
  whole.ignore_end = true;
  Answer last = rig.engine->wait(rig.engine->submit(whole));
  ASSERT_FALSE(last.error) << last.error->what();
  EXPECT_EQ(last.best().tokens.size(), 40u);
}

TEST(BeamSearch, TheNextRequestBehindTheBestOneReusesIt) {
  Rig rig;
  auto prompt = random_ids(100, 4);
  Answer answer = rig.engine->generate(search(prompt, 4, 90));
  for (const Completion& one : answer.completions) {
    auto next = prompt;
    next.insert(next.end(), one.tokens.begin(), one.tokens.end());
    next.push_back(77);
    // The last token of a text that was cut has not been run.
    EXPECT_GE(rig.engine->reusable(next).device, 100 + 89);
  }
}

// --- What a request may ask for ------------------------------------------------------------------

TEST(BeamSearch, ScoresAreMeansAndComeBestFirst) {
  Rig rig(60);
  Answer answer = rig.engine->generate(search(random_ids(30, 8), 5, 60));
  ASSERT_EQ(answer.completions.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    const Completion& one = answer.completions[i];
    ASSERT_EQ(one.logprobs.size(), one.tokens.size());
    if (one.finish_reason == FinishReason::kLength) {
      EXPECT_NEAR(one.score.value(), one.mean_logprob(), 1e-6);
    }
    if (i > 0) {
      EXPECT_LE(one.score, answer.completions[i - 1].score);
    }
    EXPECT_EQ(one.text, rig.model->tokenizer().decode(one.tokens));
  }
  EXPECT_EQ(answer.receipt.usage.generated, static_cast<int>(answer.best().tokens.size()));
}

TEST(BeamSearch, TextComesOnceWholeAndEndsAtStopStrings) {
  Rig rig;
  auto prompt = random_ids(30, 9);
  Answer plain = rig.engine->generate(search(prompt, 3, 30));
  Request r = search(prompt, 3, 30);
  r.stop = {plain.best().text.substr(12, 2)};
  int pieces = 0;
  std::string streamed;
  r.on_text = [&](const TextPiece& piece) {
    ++pieces;
    streamed += piece.text;
    return true;
  };
  Answer stopped = rig.engine->generate(r);
  EXPECT_EQ(streamed, stopped.best().text);
  EXPECT_EQ(pieces, 1);
  for (const Completion& one : stopped.completions)
    EXPECT_EQ(one.text.find(r.stop[0]), std::string::npos);
  // The most probable token ends the text: nothing else can beat it in one step.
  r = search(prompt, 3, 1);
  std::string first = rig.engine->generate(r).best().text;
  r.stop = {first};
  Answer at_once = rig.engine->generate(r);
  EXPECT_EQ(at_once.best().finish_reason, FinishReason::kStopString);
  EXPECT_EQ(at_once.best().stop_string, first);
  EXPECT_EQ(at_once.best().text, "");
  EXPECT_EQ(at_once.completions.size(), 3u);
}

TEST(BeamSearch, EveryBeamKeepsToTheAllowedTokens) {
  Rig rig;
  std::vector<uint64_t> letters((FakeTokenizer::kVocab + 63) / 64), digits(letters.size());
  for (int c = 'a'; c <= 'z'; ++c) letters[static_cast<size_t>(c) / 64] |= uint64_t{1} << (c % 64);
  for (int c = '0'; c <= '9'; ++c) digits[static_cast<size_t>(c) / 64] |= uint64_t{1} << (c % 64);
  Request r = search(random_ids(30, 2), 4, 20);
  r.allowed = [&](std::span<const int32_t> generated) {
    return std::span<const uint64_t>(generated.size() % 2 ? digits : letters);
  };
  Answer answer = rig.engine->generate(r);
  ASSERT_EQ(answer.completions.size(), 4u);
  for (const Completion& one : answer.completions) {
    for (size_t i = 0; i < one.tokens.size(); ++i)
      EXPECT_TRUE(i % 2 ? std::isdigit(one.tokens[i]) : std::islower(one.tokens[i])) << one.text;
  }
  // One word is all that may be said: the search ends with it.
  std::vector<uint64_t> only((FakeTokenizer::kVocab + 63) / 64);
  r.allowed = [&](std::span<const int32_t> generated) {
    std::fill(only.begin(), only.end(), 0);
    int32_t token = generated.size() < 3 ? 'x' : FakeTokenizer::kEnd;
    only[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
    return std::span<const uint64_t>(only);
  };
  answer = rig.engine->generate(r);
  ASSERT_EQ(answer.completions.size(), 1u);
  EXPECT_EQ(answer.best().text, "xxx");
  EXPECT_EQ(answer.best().finish_reason, FinishReason::kStop);
}

TEST(BeamSearch, RefusesWhatContradictsIt) {
  Rig rig;
  auto refused = [&](auto change) {
    Request r = search(random_ids(10, 1), 4, 5);
    change(r);
    try {
      rig.engine->submit(r);
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  EXPECT_TRUE(refused([](Request& r) { r.beams = 0; }));
  EXPECT_TRUE(refused([](Request& r) { r.beams = kMaxBeams + 1; }));
  EXPECT_TRUE(refused([](Request& r) { r.n = 2; }));
  EXPECT_TRUE(refused([](Request& r) { r.best_of = 3; }));
  EXPECT_TRUE(refused([](Request& r) { r.sampling.temperature = 0.5f; }));
  EXPECT_TRUE(refused([](Request& r) { r.sampling.top_k = 5; }));
  EXPECT_TRUE(refused([](Request& r) { r.sampling.repetition_penalty = 1.1f; }));
  EngineOptions options;
  options.context = 1024;
  options.max_batch_sequences = 2;
  Engine narrow(rig.model, std::make_unique<FakeExecutor>(rig.model->program(), rig.log), options);
  EXPECT_THROW(narrow.submit(search(random_ids(10, 1), 4, 5)), Error);
  EXPECT_EQ(narrow.generate(search(random_ids(10, 1), 2, 5)).completions.size(), 2u);
}

// --- Beside greedy -------------------------------------------------------------------------------

TEST(BeamSearch, OneTokenIsTheGreedyOne) {
  Rig rig;
  for (uint32_t i = 0; i < 20; ++i) {
    Request greedy;
    greedy.prompt = random_ids(40, i);
    greedy.max_tokens = 1;
    Answer one = rig.engine->generate(greedy),
           best = rig.engine->generate(search(greedy.prompt, 3, 1));
    EXPECT_EQ(best.best().tokens, one.best().tokens);
    EXPECT_FLOAT_EQ(best.best().logprobs[0], one.best().logprobs[0]);
  }
}

TEST(BeamSearch, OnARealModelNeverBelowGreedy) {
  APUD_REQUIRE_MODEL("smollm2-135m.gguf");
  std::shared_ptr<const Model> model = load_model(test::models_dir() / "smollm2-135m.gguf");
  EngineOptions options;
  options.context = 512;
  CpuOptions cpu;
  cpu.threads = 2;
  Engine engine(model, make_cpu_executor(model->program(), model->weights(), cpu), options);
  int above = 0;
  for (const char* text : {"The lighthouse stood on the island of", "To mend a bicycle tyre, first",
                           "Once upon a time", "Water boils at",
                           "The three largest cities of France are", "Dear customer,\n"}) {
    Request greedy;
    greedy.prompt = model->tokenizer().encode(text);
    greedy.max_tokens = 16;
    greedy.ignore_end = true;
    Request four = greedy;
    four.beams = 4;
    double one = engine.generate(greedy).best().mean_logprob();
    Answer best = engine.generate(four);
    EXPECT_GE(best.best().score.value(), one - 1e-6) << text;
    above += best.best().score.value() > one + 1e-3;
  }
  EXPECT_GT(above, 2) << "a search finds more than greedy does";
}

}  // namespace
}  // namespace apud
