// Whole conversations of real models: documents, edits, undos, regenerated answers, forks, a
// restart in the middle. Every answer is computed three times, from scratch, with whatever the
// cache holds, and once more warm; all bits of all logits must agree.
//
// APUD_TEST_FULL=1: 200 conversations of ten turns for each model; otherwise a few.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>

#include "base/utf8.h"
#include "engine/conversation.h"
#include "engine/engine.h"
#include "tests/support/models.h"
#include "tests/support/paths.h"
#include "tests/support/recorder.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

/// An engine and the rows of logits of its last answer.
struct Side {
  Side(std::shared_ptr<const Model> model, bool cache, const Path& folder) {
    EngineOptions options;
    options.context = 1024;
    options.prefix_cache = cache;
    // Memory for a context and a half: pages are evicted and come back from the disk.
    uint64_t page = kv_bytes_per_token(model->program(), KvType::kF16) * kKvPageTokens;
    options.kv_bytes = page * 26;
    options.disk.folder = folder;
    options.disk.free_share = 1;
    options.disk.always_restore = true;
    CpuOptions cpu;
    cpu.threads = 1;  // beside other tests two threads wait for each other more than they compute
    auto executor = std::make_unique<test::Recorder>(
        make_cpu_executor(model->program(), model->weights(), cpu), rows);
    engine = std::make_unique<Engine>(model, std::move(executor), options);
  }
  Answer ask(const std::vector<int32_t>& prompt, int max_tokens) {
    rows.clear();
    Request request;
    request.prompt = prompt;
    request.max_tokens = max_tokens;
    return engine->generate(request);
  }
  std::vector<test::LogitRow> rows;
  std::unique_ptr<Engine> engine;
};

/// Paragraphs of the sample documents, for evidence.
std::vector<std::string> paragraphs() {
  std::vector<std::string> out;
  for (const char* name : {"samples/english/lending-rules.md", "samples/english/observing-log.txt",
                           "samples/中文/茶园笔记.txt", "samples/中文/古桥修缮记录.md"}) {
    std::ifstream in(Path(test::source_dir()) / name);
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

const char* const kQuestions[] = {"What does this say about time?",
                                  "Who is responsible, and since when?",
                                  "这里面提到了什么日期？",
                                  "Write one line about it.",
                                  "And what would that cost?",
                                  "Please repeat the most important number.",
                                  "谢谢，再说一遍。",
                                  "def first(items):"};

class Talks {
 public:
  Talks(const char* file, int conversations)
      : model_(load_model(test::models_dir() / file)), conversations_(conversations) {}

  void run() {
    scratch_ = std::make_unique<Side>(model_, false, Path());
    restart();
    for (int c = 0; c < conversations_ && !testing::Test::HasFailure(); ++c) {
      conversation_ = c;
      converse();
      if (c % 20 == 19 && !testing::Test::HasFailure()) {
        std::printf("%d conversations, %d answers\n", c + 1, answers_);
        std::fflush(stdout);
      }
    }
    std::printf(
        "%s: %d conversations, %d answers (%d edits, %d undos, %d regenerated, %d forks, "
        "%d restarts), %lld prompt tokens, %lld reused, of them %lld from disk; %lld rows of "
        "logits equal in every bit\n",
        model_->config().name.c_str(), conversations_, answers_, edits_, undos_, again_, forks_,
        restarts_, static_cast<long long>(prompt_tokens_), static_cast<long long>(reused_),
        static_cast<long long>(disk_), static_cast<long long>(rows_));
    EXPECT_GT(edits_, 0);
    EXPECT_GT(undos_, 0);
    EXPECT_GT(forks_, 0);
    EXPECT_GT(again_, 0);
    EXPECT_GT(disk_, 0) << "nothing was restored";
    EXPECT_GT(reused_ * 2, prompt_tokens_) << "the cache was hardly used";
  }

 private:
  int random(int n) { return static_cast<int>(rng_() % static_cast<uint64_t>(n)); }

  /// As if the process had ended and another had begun.
  void restart() {
    if (cached_) {
      cached_->engine->save_pending(5000);
      cached_.reset();
      ++restarts_;
    }
    cached_ = std::make_unique<Side>(model_, true, folder_.path());
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
        ++undos_;
        break;
      case 1:
        chat.edit(2 * random(rounds), question, evidence, turn);
        ++edits_;
        return;
      case 2:
        chat.drop_answer();
        ++again_;
        return;
      case 3:
        other.emplace(model_, chat.data());
        ++forks_;
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
    compare(truth, got, turn, "with the cache");
    const Usage& usage = got.receipt.usage;
    EXPECT_EQ(usage.cached + usage.computed, usage.prompt);
    prompt_tokens_ += usage.prompt;
    reused_ += usage.cached;
    disk_ += usage.cached_disk;
    if (random(4) == 0) {
      Answer warm = cached_->ask(prompt.ids, tokens);
      EXPECT_EQ(warm.receipt.usage.computed, 1);
      compare(truth, warm, turn, "warm");
    }
    // A prompt of before, perhaps of a branch that was left: nobody may have written into its
    // pages.
    asked_.push_back({prompt.ids, truth.best().tokens, scratch_->rows});
    const Asked& old = asked_[static_cast<size_t>(random(static_cast<int>(asked_.size())))];
    Answer again =
        cached_->ask(old.prompt, static_cast<int>(std::max<size_t>(1, old.tokens.size())));
    std::vector<test::LogitRow> known(
        old.rows.begin(), old.rows.begin() + static_cast<ptrdiff_t>(cached_->rows.size()));
    ASSERT_TRUE(cached_->rows == known)
        << "an earlier prompt, asked again: conversation " << conversation_ << ", turn " << turn;
    ++answers_;
    rows_ += static_cast<int64_t>(scratch_->rows.size());
    chat.add_answer(got.best(), "", turn);
  }

  void compare(const Answer& truth, const Answer& got, int turn, const char* what) {
    ASSERT_EQ(got.best().tokens, truth.best().tokens)
        << "conversation " << conversation_ << ", turn " << turn << ", " << what;
    // The recorder sees a row for each token drawn, and no other: prompts are run without logits.
    ASSERT_TRUE(cached_->rows == scratch_->rows)
        << "logits differ in a bit: conversation " << conversation_ << ", turn " << turn << ", "
        << what;
  }

  struct Asked {
    std::vector<int32_t> prompt, tokens;
    std::vector<test::LogitRow> rows;
  };

  std::shared_ptr<const Model> model_;
  int conversations_;
  int conversation_ = 0;
  std::vector<Asked> asked_;  // in this conversation
  test::TempDir folder_;
  std::vector<std::string> passages_ = paragraphs();
  std::unique_ptr<Side> scratch_, cached_;
  std::mt19937_64 rng_{20261128};
  int answers_ = 0, edits_ = 0, undos_ = 0, again_ = 0, forks_ = 0, restarts_ = 0;
  int64_t prompt_tokens_ = 0, reused_ = 0, disk_ = 0, rows_ = 0;
};

int conversations(int few) {
  const char* full = std::getenv("APUD_TEST_FULL");
  return full && *full ? 200 : few;
}

TEST(RealConversations, SmolLM2IsBitIdentical) {
  APUD_REQUIRE_MODEL("smollm2-135m.gguf");
  Talks("smollm2-135m.gguf", conversations(4)).run();
}

TEST(RealConversations, Qwen25IsBitIdentical) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-0.5b.gguf");
  Talks("qwen2.5-coder-0.5b.gguf", conversations(2)).run();
}

}  // namespace
}  // namespace apud
