// Whole conversations of real models: documents, edits, undos, regenerated answers, forks, a
// restart in the middle. Every answer is computed from scratch, with whatever the cache holds, at
// times once more warm, and an earlier one is asked for again.
//
// APUD_TEST_FULL=1: 200 conversations of ten turns for each model; otherwise a few.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <random>

#include "base/utf8.h"
#include "engine/conversation.h"
#include "engine/engine.h"
#include "tests/kernels/tolerance.h"
#include "tests/support/models.h"
#include "tests/support/paths.h"
#include "tests/support/recorder.h"
#include "tests/support/temp_dir.h"

namespace apud::test {

using MakeExecutor = std::function<std::unique_ptr<Executor>(const Model&)>;

/// What happened in some conversations.
struct TalksSums {
  int64_t answers = 0, edits = 0, undos = 0, regenerated = 0, forks = 0, restarts = 0;
  int64_t prompt_tokens = 0, reused = 0, disk = 0;
  int64_t rows = 0;                 // of logits from scratch
  int64_t compared = 0, equal = 0;  // answers of the cached side
  double widest = 0;  // gap of the two highest logits where answers part, of the row's size
};

/// An engine and the rows of logits of its last answer.
struct Side {
  Side(std::shared_ptr<const Model> model, const MakeExecutor& make, bool cache,
       const Path& folder) {
    EngineOptions options;
    options.context = 1024;
    options.prefix_cache = cache;
    // Memory for a context and a half: pages are evicted and come back from the disk.
    uint64_t page = kv_bytes_per_token(model->program(), KvType::kF16) * kKvPageTokens;
    options.kv_bytes = page * 26;
    options.disk.folder = folder;
    options.disk.free_share = 1;
    options.disk.always_restore = true;
    engine =
        std::make_unique<Engine>(model, std::make_unique<Recorder>(make(*model), rows), options);
  }
  Answer ask(const std::vector<int32_t>& prompt, int max_tokens) {
    rows.clear();
    Request request;
    request.prompt = prompt;
    request.max_tokens = max_tokens;
    return engine->generate(request);
  }
  std::vector<LogitRow> rows;
  std::unique_ptr<Engine> engine;
};

/// Paragraphs of the sample documents, for evidence.
inline std::vector<std::string> paragraphs() {
  std::vector<std::string> out;
  for (const char* name : {"samples/english/lending-rules.md", "samples/english/observing-log.txt",
                           "samples/中文/茶园笔记.txt", "samples/中文/古桥修缮记录.md"}) {
    std::ifstream in(Path(source_dir()) / name);
    std::string paragraph;
    for (std::string line; std::getline(in, line);) {
      if (!line.empty()) {
        paragraph += line + "\n";
      } else if (!paragraph.empty()) {
        out.push_back(std::move(paragraph));
        paragraph.clear();
      }
    }
    if (!paragraph.empty()) out.push_back(std::move(paragraph));
  }
  return out;
}

inline const char* const kQuestions[] = {"What does this say about time?",
                                         "Who is responsible, and since when?",
                                         "这里面提到了什么日期？",
                                         "Write one line about it.",
                                         "And what would that cost?",
                                         "Please repeat the most important number.",
                                         "谢谢，再说一遍。",
                                         "def first(items):"};

struct TalksOptions {
  MakeExecutor executor;
  int conversations = 1;
  int first = 0;      // number of the first one: what is said depends on it
  bool exact = true;  // all bits of all logits agree; else answers may part where it is close
};

class Talks {
 public:
  Talks(std::shared_ptr<const Model> model, TalksOptions options)
      : model_(std::move(model)), options_(std::move(options)) {}

  void run() {
    scratch_ = std::make_unique<Side>(model_, options_.executor, false, Path());
    restart();
    for (int c = 0; c < options_.conversations && !testing::Test::HasFailure(); ++c) {
      conversation_ = options_.first + c;
      rng_.seed(20261128 + static_cast<uint64_t>(conversation_));
      converse();
      if (c % 20 == 19 && !testing::Test::HasFailure()) {
        std::printf("%d conversations, %lld answers\n", c + 1,
                    static_cast<long long>(sums_.answers));
        std::fflush(stdout);
      }
    }
  }
  const TalksSums& sums() const { return sums_; }

 private:
  int random(int n) { return static_cast<int>(rng_() % static_cast<uint64_t>(n)); }

  /// As if the process had ended and another had begun.
  void restart() {
    if (cached_) {
      cached_->engine->save_pending(5000);
      cached_.reset();
      ++sums_.restarts;
    }
    cached_ = std::make_unique<Side>(model_, options_.executor, true, folder_.path());
  }

  void converse() {
    std::string system = random(3) ? "Answer from the passages, in one sentence." : "";
    Conversation chat = Conversation::start(model_, system, 0);
    std::optional<Conversation> other;  // a fork that goes on beside it
    int restart_at = random(10);
    asked_.clear();
    for (int turn = 0; turn < 10 && !testing::Test::HasFailure(); ++turn) {
      if (turn == restart_at) restart();
      if (other && random(3) == 0) std::swap(chat, *other);
      next_question(chat, other, turn);
      answer(chat, turn);
    }
  }

  void next_question(Conversation& chat, std::optional<Conversation>& other, int turn) {
    std::string evidence;
    if (random(3) == 0) {
      evidence =
          "[" + std::to_string(turn + 1) + "] notes\n" +
          passages_[static_cast<size_t>(random(static_cast<int>(passages_.size())))].substr(0, 500);
      while (!utf8_valid(evidence)) evidence.pop_back();
      evidence += "\n\n";
    }
    std::string question = kQuestions[random(static_cast<int>(std::size(kQuestions)))];
    int rounds = static_cast<int>(chat.turns().size()) / 2;
    switch (rounds > 0 ? random(8) : 7) {
      case 0:
        chat.undo();
        ++sums_.undos;
        break;
      case 1:
        chat.edit(2 * random(rounds), question, evidence, turn);
        ++sums_.edits;
        return;
      case 2:
        chat.drop_answer();
        ++sums_.regenerated;
        return;
      case 3:
        other.emplace(model_, chat.data());
        ++sums_.forks;
        break;
      default:
        break;
    }
    chat.add_user(question, evidence, turn);
  }

  void answer(Conversation& chat, int turn) {
    Prompt prompt = chat.prompt(960);
    int tokens = 4 + random(9);
    Answer truth = scratch_->ask(prompt.ids, tokens);
    if (random(6) == 0) cached_->engine->clear_cache();  // cold but for the disk
    Answer got = cached_->ask(prompt.ids, tokens);
    compare(scratch_->rows, truth.best().tokens, got, turn, "with the cache");
    if (options_.exact) {
      EXPECT_EQ(cached_->rows.size(), scratch_->rows.size());
    }
    const Usage& usage = got.receipt.usage;
    EXPECT_EQ(usage.cached + usage.computed, usage.prompt);
    sums_.prompt_tokens += usage.prompt;
    sums_.reused += usage.cached;
    sums_.disk += usage.cached_disk;
    if (random(4) == 0) {
      Answer warm = cached_->ask(prompt.ids, tokens);
      EXPECT_EQ(warm.receipt.usage.computed, 1);
      compare(scratch_->rows, truth.best().tokens, warm, turn, "warm");
    }
    // A prompt of before, perhaps of a branch that was left: nobody may have written into its
    // pages.
    asked_.push_back({prompt.ids, truth.best().tokens, scratch_->rows});
    const Asked& old = asked_[static_cast<size_t>(random(static_cast<int>(asked_.size())))];
    Answer again =
        cached_->ask(old.prompt, static_cast<int>(std::max<size_t>(1, old.tokens.size())));
    compare(old.rows, old.tokens, again, turn, "an earlier prompt, asked again");
    ++sums_.answers;
    sums_.rows += static_cast<int64_t>(scratch_->rows.size());
    chat.add_answer(truth.best(), "", turn);
  }

  /// The cached side's last answer against one from scratch and its rows. The recorder sees a row
  /// for each token drawn, and no other: prompts are run without logits.
  void compare(const std::vector<LogitRow>& rows, const std::vector<int32_t>& tokens,
               const Answer& got, int turn, const char* what) {
    ++sums_.compared;
    const std::vector<LogitRow>& mine = cached_->rows;
    const bool same = got.best().tokens == tokens;
    sums_.equal += same;
    if (options_.exact) {
      ASSERT_EQ(got.best().tokens, tokens) << place(turn, what);
      ASSERT_LE(mine.size(), rows.size()) << place(turn, what);
      ASSERT_TRUE(std::equal(mine.begin(), mine.end(), rows.begin()))
          << "logits differ in a bit: " << place(turn, what);
      return;
    }
    if (same) return;
    const auto at =
        static_cast<size_t>(std::mismatch(tokens.begin(), tokens.end(), got.best().tokens.begin(),
                                          got.best().tokens.end())
                                .first -
                            tokens.begin());
    ASSERT_LT(at, std::min(rows.size(), mine.size())) << place(turn, what);
    for (const LogitRow* row : {&rows[at], &mine[at]})
      sums_.widest = std::max<double>(sums_.widest, row->gap / row->size);
    EXPECT_LT(rows[at].gap, kPathGap * rows[at].size) << place(turn, what);
    EXPECT_LT(mine[at].gap, kPathGap * mine[at].size) << place(turn, what);
  }
  std::string place(int turn, const char* what) const {
    return "conversation " + std::to_string(conversation_) + ", turn " + std::to_string(turn) +
           ", " + what;
  }

  struct Asked {
    std::vector<int32_t> prompt, tokens;
    std::vector<LogitRow> rows;
  };

  std::shared_ptr<const Model> model_;
  TalksOptions options_;
  int conversation_ = 0;
  std::vector<Asked> asked_;  // in this conversation
  TempDir folder_;
  std::vector<std::string> passages_ = paragraphs();
  std::unique_ptr<Side> scratch_, cached_;
  std::mt19937_64 rng_;
  TalksSums sums_;
};

/// Holds `options.conversations` of them, prints what happened, and fails where one of the ways to
/// an answer was never taken.
inline void run_talks(const char* file, const TalksOptions& options) {
  std::shared_ptr<const Model> model = load_model(models_dir() / file);
  Talks talks(model, options);
  talks.run();
  const TalksSums& sums = talks.sums();
  auto number = [](int64_t n) { return static_cast<long long>(n); };
  std::printf(
      "%s: %d conversations, %lld answers (%lld edits, %lld undos, %lld regenerated, %lld forks, "
      "%lld restarts), %lld prompt tokens, %lld reused, of them %lld from disk; %lld of %lld "
      "answers with the cache equal those from scratch (%lld rows of logits), %s\n",
      model->config().name.c_str(), options.conversations, number(sums.answers), number(sums.edits),
      number(sums.undos), number(sums.regenerated), number(sums.forks), number(sums.restarts),
      number(sums.prompt_tokens), number(sums.reused), number(sums.disk), number(sums.equal),
      number(sums.compared), number(sums.rows),
      options.exact ? "every bit of every logit compared"
                    : ("widest gap where they part " + std::to_string(sums.widest) +
                       " of the logits' root mean square, allowed " + std::to_string(kPathGap))
                          .c_str());
  EXPECT_GT(sums.edits, 0);
  EXPECT_GT(sums.undos, 0);
  EXPECT_GT(sums.forks, 0);
  EXPECT_GT(sums.regenerated, 0);
  EXPECT_GT(sums.disk, 0) << "nothing was restored";
  EXPECT_GT(sums.reused * 2, sums.prompt_tokens) << "the cache was hardly used";
}

/// How many, and from which on: $APUD_TEST_CONVERSATIONS (FIRST+COUNT, so that several processes
/// share the work), 200 with APUD_TEST_FULL=1, else `few`.
inline void choose_conversations(TalksOptions& options, int few) {
  const char* full = std::getenv("APUD_TEST_FULL");
  options.conversations = full && *full ? 200 : few;
  if (const char* range = std::getenv("APUD_TEST_CONVERSATIONS"))
    std::sscanf(range, "%d+%d", &options.first, &options.conversations);
}

}  // namespace apud::test
