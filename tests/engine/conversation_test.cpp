// Conversations: ids are the history. Templates are the families' own, cut to what matters here.
#include "engine/conversation.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/fake_model.h"

namespace apud {
namespace {

using test::FakeExecutor;
using test::FakeLog;
using test::FakeModel;
using test::FakeTokenizer;

constexpr const char* kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}"
    "{% endif %}{# system #}";
constexpr const char* kTrims =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "| "
    "trim + '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\n' }}{# system #}";
constexpr const char* kThinks =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ "
    "'<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined "
    "and "
    "enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{# system #}";
constexpr const char* kNoRoleOfThatName =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ "
    "'<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\n' }}";

std::shared_ptr<FakeModel> model_with(const char* source, char fingerprint = 'f') {
  return std::make_shared<FakeModel>(
      std::make_shared<const ChatTemplate>(std::string(source), std::string(),
                                           std::string("<|im_end|>")),
      std::string(32, fingerprint));
}

std::string text_of(const std::vector<int32_t>& ids) { return FakeTokenizer().decode(ids, true); }

Completion completion(const std::string& text, std::vector<int32_t> tokens) {
  Completion c;
  c.text = text;
  c.tokens = std::move(tokens);
  return c;
}
Completion completion(const std::string& text) {
  return completion(text, FakeTokenizer().encode(std::string_view(text)));
}

TEST(Conversation, EachPromptContinuesTheLast) {
  auto model = model_with(kChatMl);
  Conversation chat = Conversation::start(model, "Be brief.", 0);
  chat.add_user("Hello", "", 1);
  Prompt first = chat.prompt(1000);
  EXPECT_EQ(text_of(first.ids),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_FALSE(first.cache_break);
  // Same text as the question, so that the two must be told apart.
  chat.add_answer(completion("Hello"), "", 2);
  chat.add_user("More", "passage\n\n", 3);
  Prompt second = chat.prompt(1000);
  EXPECT_EQ(text_of(second.ids),
            text_of(first.ids) +
                "Hello<|im_end|>\n<|im_start|>user\npassage\n\nMore<|im_end|>\n"
                "<|im_start|>assistant\n");
  EXPECT_EQ(second.expected_reuse, static_cast<int>(first.ids.size()) + 5);
  EXPECT_FALSE(second.cache_break);
}

TEST(Conversation, GeneratedIdsStandForTheirText) {
  // The fake tokenizer would never encode a text with this control token in it: the model wrote it.
  auto model = model_with(kChatMl);
  Conversation chat = Conversation::start(model, "", 0);
  chat.add_user("Hi", "", 1);
  Prompt first = chat.prompt(1000);
  std::vector<int32_t> generated = {'H', FakeTokenizer::kThink, 'i'};
  chat.add_answer(completion("Hi", generated), "", 2);
  EXPECT_EQ(chat.turns()[1].ids, generated);
  chat.add_user("Hi", "", 3);
  Prompt second = chat.prompt(1000);
  std::vector<int32_t> expected = first.ids;
  expected.insert(expected.end(), generated.begin(), generated.end());
  ASSERT_GE(second.ids.size(), expected.size());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), second.ids.begin()));
  EXPECT_EQ(std::count(second.ids.begin(), second.ids.end(), FakeTokenizer::kThink), 1)
      << "only the answer's ids, not the questions of the same text";
}

TEST(Conversation, ATemplateThatRewritesIsNamed) {
  Conversation chat = Conversation::start(model_with(kTrims), "", 0);
  chat.add_user("Q", "", 1);
  Prompt first = chat.prompt(1000);
  chat.add_answer(completion(" padded "), "", 2);
  chat.add_user("R", "", 3);
  Prompt second = chat.prompt(1000);
  ASSERT_TRUE(second.cache_break);
  EXPECT_EQ(second.cache_break->cause, CacheBreak::Cause::kTemplate);
  EXPECT_EQ(second.cache_break->position, static_cast<int>(first.ids.size()));
  EXPECT_EQ(second.cache_break->expected_text.substr(0, 4), " pad");
  EXPECT_EQ(second.cache_break->new_text.substr(0, 3), "pad");
}

TEST(Conversation, ReasoningNeverComesBack) {
  Conversation chat = Conversation::start(model_with(kThinks), "", 0);
  EXPECT_TRUE(chat.can_think());
  EXPECT_FALSE(chat.always_thinks());
  chat.add_user("Q", "", 1);
  Prompt off = chat.prompt(1000);
  EXPECT_TRUE(text_of(off.ids).ends_with("<think>\n\n</think>\n\n")) << "off by default";
  ASSERT_TRUE(off.reasoning);
  EXPECT_FALSE(off.reasoning->starts_open);
  Prompt on = chat.prompt(1000, Think::kOn);
  EXPECT_TRUE(text_of(on.ids).ends_with("assistant\n"));
  Completion answer = completion("yes");
  answer.reasoning = "hm";
  answer.tokens = {FakeTokenizer::kThink, 'h', 'm', FakeTokenizer::kUnthink, 'y', 'e', 's'};
  answer.answer_begin = 4;
  chat.add_answer(answer, "", 2);
  EXPECT_EQ(chat.turns()[1].reasoning, "hm");
  EXPECT_EQ(text_of(chat.turns()[1].ids), "yes");
  chat.add_user("R", "", 3);
  EXPECT_EQ(text_of(chat.prompt(1000, Think::kOn).ids).find("hm"), std::string::npos);
}

TEST(Conversation, SystemPromptWithoutASystemRole) {
  Conversation chat = Conversation::start(model_with(kNoRoleOfThatName), "Be brief.", 0);
  chat.add_user("Q", "", 1);
  EXPECT_EQ(text_of(chat.prompt(1000).ids),
            "<|im_start|>user\nBe brief.\n\nQ<|im_end|><|im_start|>assistant\n");
}

TEST(Conversation, OldRoundsLeaveThePromptNeverTheHistory) {
  Conversation chat = Conversation::start(model_with(kChatMl), "System.", 0);
  int drops = 0, most = 0;
  for (int i = 0; i < 30; ++i) {
    std::string question = "question " + std::to_string(i) + std::string(40, 'q');
    chat.add_user(question, std::string(60, 'e'), i);
    Prompt prompt = chat.prompt(600);
    EXPECT_LE(prompt.ids.size(), 600u);
    most = std::max(most, static_cast<int>(prompt.ids.size()));
    EXPECT_EQ(text_of(prompt.ids).find("System."), std::string("<|im_start|>system\n").size());
    EXPECT_NE(text_of(prompt.ids).find(question), std::string::npos);
    if (prompt.newly_dropped > 0) {
      ++drops;
      ASSERT_TRUE(prompt.cache_break);
      EXPECT_EQ(prompt.cache_break->cause, CacheBreak::Cause::kTurnsDropped);
    } else {
      EXPECT_FALSE(prompt.cache_break) << "turn " << i;
    }
    chat.add_answer(completion("answer " + std::to_string(i)), "", i);
  }
  EXPECT_EQ(chat.turns().size(), 60u);
  EXPECT_GT(drops, 5);
  EXPECT_LT(drops, 20) << "several rounds leave at once";
  EXPECT_GT(most, 450) << "the window is used";
  Conversation one = Conversation::start(model_with(kChatMl), "System.", 0);
  one.add_user(std::string(300, 'x'), "", 0);
  int exact = static_cast<int>(one.prompt(1 << 20).ids.size());
  EXPECT_EQ(one.prompt(exact).ids.size(), static_cast<size_t>(exact));
  EXPECT_THROW(one.prompt(exact - 1), Error) << "not one token above the limit";
  chat.add_user(std::string(700, 'x'), "", 99);
  try {
    chat.prompt(600);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("600"), std::string::npos);
  }
}

TEST(Conversation, UndoRegenerateEdit) {
  Conversation chat = Conversation::start(model_with(kChatMl), "", 0);
  EXPECT_FALSE(chat.undo());
  EXPECT_FALSE(chat.drop_answer());
  for (int i = 0; i < 3; ++i) {
    chat.add_user("q" + std::to_string(i), "", i);
    chat.prompt(1000);
    chat.add_answer(completion("a" + std::to_string(i)), "{}", i);
  }
  ASSERT_TRUE(chat.drop_answer());
  Prompt again = chat.prompt(1000);
  EXPECT_FALSE(again.cache_break) << "the same prompt once more";
  EXPECT_EQ(again.expected_reuse, static_cast<int>(again.ids.size()));
  chat.add_answer(completion("b2"), "", 9);
  ASSERT_TRUE(chat.undo());
  EXPECT_EQ(chat.turns().size(), 4u);
  chat.edit(2, "edited", "", 10);
  Prompt edited = chat.prompt(1000);
  EXPECT_EQ(chat.turns().size(), 3u);
  ASSERT_TRUE(edited.cache_break);
  EXPECT_EQ(edited.cache_break->cause, CacheBreak::Cause::kEdited);
  EXPECT_NE(text_of(edited.ids).find("a0"), std::string::npos);
  EXPECT_EQ(text_of(edited.ids).find("q1"), std::string::npos);
}

TEST(Conversation, AnotherModelKeepsTheText) {
  Conversation chat = Conversation::start(model_with(kChatMl), "", 0);
  chat.add_user("q", "", 1);
  chat.prompt(1000);
  chat.add_answer(completion("a", {'a', FakeTokenizer::kThink}), "", 2);
  Conversation same(model_with(kChatMl), chat.data());
  EXPECT_FALSE(same.other_model());
  Conversation other(model_with(kChatMl, 'e'), chat.data());
  EXPECT_TRUE(other.other_model());
  EXPECT_TRUE(other.turns()[1].ids.empty());
  other.add_user("r", "", 3);
  Prompt prompt = other.prompt(1000);
  EXPECT_NE(text_of(prompt.ids).find("a<|im_end|>"), std::string::npos);
  ASSERT_TRUE(prompt.cache_break);
  EXPECT_EQ(prompt.cache_break->cause, CacheBreak::Cause::kOtherModel);
  EXPECT_THROW(Conversation(std::make_shared<FakeModel>(), ConversationData()), Error);
}

/// The whole way: 200 conversations of up to 10 turns with evidence, edits, undos and forks, cache
/// on and off, every answer equal; from turn 2 on only what is new is computed.
TEST(Conversation, TwoHundredConversations) {
  auto model = model_with(kChatMl);
  auto make = [&](bool cache) {
    EngineOptions options;
    options.context = 1200;
    options.prefix_cache = cache;
    auto executor = std::make_unique<FakeExecutor>(model->program(), std::make_shared<FakeLog>());
    executor->end_chance = 30;
    return std::make_unique<Engine>(model, std::move(executor), options);
  };
  auto cached = make(true), scratch = make(false);
  std::mt19937 rng(17);
  int64_t prompt_tokens = 0, reused = 0;
  for (int c = 0; c < 200; ++c) {
    Conversation chat = Conversation::start(model, "Answer from the passages.", 0);
    for (int turn = 0; turn < 10; ++turn) {
      switch (rng() % 8) {
        case 0:
          chat.undo();
          break;
        case 1: {
          auto copy = chat.data();  // fork
          chat = Conversation(model, std::move(copy));
          break;
        }
        case 2:
          if (!chat.turns().empty()) {
            int rounds = static_cast<int>(chat.turns().size()) / 2;
            int index = 2 * static_cast<int>(rng() % static_cast<unsigned>(rounds));
            chat.edit(index, "edited " + std::to_string(rng() % 100), "", turn);
            break;
          }
          [[fallthrough]];
        default:
          chat.add_user("question " + std::to_string(rng() % 1000),
                        rng() % 2 ? "[1] " + std::string(rng() % 120, 'p') + "\n" : "", turn);
      }
      if (chat.turns().empty() || chat.turns().back().role != "user") continue;
      Prompt prompt = chat.prompt(1100);
      Request request;
      request.prompt = prompt.ids;
      request.max_tokens = 60;
      Answer a = cached->generate(request);
      Answer b = scratch->generate(request);
      ASSERT_EQ(a.best().tokens, b.best().tokens) << "conversation " << c << " turn " << turn;
      ASSERT_EQ(a.best().logprobs, b.best().logprobs);
      // The last token that was generated was never run, the prompt's last one always is.
      EXPECT_GE(a.receipt.usage.cached + 2, prompt.expected_reuse);
      complete_receipt(a.receipt, prompt);
      EXPECT_FALSE(a.receipt.cache_break &&
                   a.receipt.cache_break->cause == CacheBreak::Cause::kEvicted);
      prompt_tokens += a.receipt.usage.prompt;
      reused += a.receipt.usage.cached;
      chat.add_answer(a.best(), "", turn);
    }
  }
  EXPECT_GT(reused * 10, prompt_tokens * 6) << reused << " of " << prompt_tokens;
}

/// Two conversations in memory for one: each finds its own tokens gone, and is told from where on.
TEST(Conversation, WhatWasEvictedIsNamedWithItsPlace) {
  auto model = model_with(kChatMl);
  EngineOptions options;
  options.context = 640;
  options.kv_bytes = kv_bytes_per_token(model->program(), KvType::kF16) * kKvPageTokens * 11;
  Engine engine(model,
                std::make_unique<FakeExecutor>(model->program(), std::make_shared<FakeLog>()),
                options);
  std::vector<Conversation> chats;
  for (const char* system : {"One.", "Another."})
    chats.push_back(Conversation::start(model, system + std::string(350, 's'), 0));
  auto turn = [&](Conversation& chat, int number) {
    chat.add_user("question " + std::to_string(number), "", number);
    Prompt prompt = chat.prompt(600);
    Request request;
    request.prompt = prompt.ids;
    request.max_tokens = 8;
    Answer answer = engine.generate(request);
    complete_receipt(answer.receipt, prompt);
    chat.add_answer(answer.best(), "", number);
    return answer.receipt;
  };
  EXPECT_FALSE(turn(chats[0], 0).cache_break);
  EXPECT_FALSE(turn(chats[0], 1).cache_break) << "still there";
  EXPECT_FALSE(turn(chats[1], 0).cache_break);
  Receipt back = turn(chats[0], 2);
  ASSERT_TRUE(back.cache_break);
  EXPECT_EQ(back.cache_break->cause, CacheBreak::Cause::kEvicted);
  EXPECT_EQ(back.cache_break->position, back.usage.cached);
  EXPECT_LT(back.usage.cached, 300);
  EXPECT_NE(receipt_details(back).find("reuse ended at token " + std::to_string(back.usage.cached) +
                                       ": the tokens were no longer in the cache"),
            std::string::npos);
}

TEST(Receipt, TokensThatWereFasterComputedAreNotCalledGone) {
  Prompt prompt;
  prompt.expected_reuse = 300;
  prompt.cache_break = CacheBreak{CacheBreak::Cause::kSystemPrompt, 300, "a librarian", "a poet"};
  Receipt receipt;
  receipt.usage.cached = 64;
  receipt.tiers = {{"disk", 236, false, 0.013, 0.008}};
  complete_receipt(receipt, prompt);
  ASSERT_TRUE(receipt.cache_break);
  EXPECT_EQ(receipt.cache_break->cause, CacheBreak::Cause::kSystemPrompt);
  EXPECT_EQ(receipt.cache_break->position, 300);
  receipt.tiers[0].tokens = 100;
  complete_receipt(receipt, prompt);
  EXPECT_EQ(receipt.cache_break->cause, CacheBreak::Cause::kEvicted);
  EXPECT_EQ(receipt.cache_break->position, 64);
}

TEST(Receipt, OneLineFitsEightyColumns) {
  Receipt receipt;
  receipt.usage = {1480, 1234, 1200, 0, 34, 246, 113, 0};
  receipt.timing.ttft = 0.41;
  receipt.timing.tpot = 1 / 24.2;
  EXPECT_EQ(receipt_line(receipt),
            "1.2k reused · 246 read · 113 written · first word 0.4 s · 24 tok/s");
  receipt.usage.cached = 999'499;
  receipt.usage.computed = 123'456;
  receipt.usage.generated = 99'999;
  receipt.timing.ttft = 99.4;
  receipt.timing.tpot = 1e-4;
  receipt.not_saved = "No space left on device";
  EXPECT_LE(display_width(receipt_line(receipt)), 80);
  EXPECT_NE(receipt_details(receipt).find("reused 999,499: device 1,200, disk 34"),
            std::string::npos);
  EXPECT_NE(receipt_json(receipt).find("\"cached_disk\":34"), std::string::npos);
  receipt.timing.prefill_tokens_per_second = 11;
  EXPECT_NE(receipt_details(receipt).find("reading 11 tok/s"), std::string::npos);
  receipt.usage.computed = 1;  // the last token of a prompt that was all there
  EXPECT_EQ(receipt_details(receipt).find("reading"), std::string::npos);
}

}  // namespace
}  // namespace apud
