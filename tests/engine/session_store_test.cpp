#include "engine/session_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <random>
#include <thread>

#include "base/error.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::TempDir;

Session sample(const SessionStore& store, const std::string& name = {}) {
  Session session = store.create(name, 1000);
  session.info.model = "smollm2:135m";
  session.info.collections = {"default", "中文"};
  session.extra_json = R"({"ledger":[1,2]})";
  ConversationData& data = session.conversation;
  data.system = "Be brief.\n";
  data.template_now = 1'700'000'000;
  data.model_fingerprint = std::string(32, 'a');
  data.sent = {1, 2, 3};
  for (int i = 0; i < 2; ++i) {
    Turn question;
    question.role = "user";
    question.content = "What is \"it\"? 它是什么\x1b[2J " + std::to_string(i);
    question.evidence = "[1] passage\n";
    question.time = 1001 + i;
    Turn answer;
    answer.role = "assistant";
    answer.content = "It.";
    answer.reasoning = "hm";
    answer.ids = {7, 8, 9};
    answer.finish_reason = "stop";
    answer.data_json = R"({"citations":[]})";
    answer.time = 1002 + i;
    data.turns.push_back(question);
    data.turns.push_back(answer);
  }
  return session;
}

TEST(SessionStore, ComesBackAsItWas) {
  TempDir dir;
  SessionStore store(dir.path() / "sessions");
  Session session = sample(store);
  store.save(session, 2000);
  Session back = store.load(session.info.id);
  EXPECT_EQ(export_session_json(back), export_session_json(session));
  EXPECT_EQ(back.conversation.turns[1].ids, (std::vector<int32_t>{7, 8, 9}));
  EXPECT_EQ(back.conversation.sent, session.conversation.sent);
  EXPECT_EQ(back.extra_json, session.extra_json);
  EXPECT_EQ(back.conversation.turns[1].data_json, R"({"citations":[]})");
  struct stat st;
  ASSERT_EQ(stat((dir.path() / "sessions" / (session.info.id + ".json")).c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_EQ(back.info.name.find('\x1b'), std::string::npos) << "names are printable";
  EXPECT_EQ(export_session_markdown(back).substr(0, 2), "# ");
}

TEST(SessionStore, FindsByNameIdAndBeginning) {
  TempDir dir;
  SessionStore store(dir.path());
  EXPECT_FALSE(store.last());
  Session a = sample(store, "alpha");
  store.save(a, 10);
  Session b = sample(store);
  store.save(b, 30);
  Session c = sample(store);
  store.save(c, 20);
  EXPECT_EQ(store.load("alpha").info.id, a.info.id);
  EXPECT_EQ(store.load(b.info.id.substr(0, 8)).info.id, b.info.id);
  EXPECT_NE(b.info.name, c.info.name) << "names are unique";
  EXPECT_EQ(store.last()->id, b.info.id);
  EXPECT_EQ(store.list().size(), 3u);
  // Within one second the file says which was written later, whatever the ids.
  for (Session* session : {&a, &b, &a}) {
    store.save(*session, 5000);
    EXPECT_EQ(store.last()->id, session->info.id);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  try {
    store.load("alpah");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kNoInput);
    EXPECT_NE(error.advice().find("alpha"), std::string::npos);
  }
  EXPECT_THROW(store.create("alpha", 1), Error);
  store.rename("alpha", "beta");
  EXPECT_EQ(store.load("beta").info.id, a.info.id);
  EXPECT_THROW(store.rename("beta", b.info.name), Error);
  Session fork = store.fork("beta", "", 2, 50);
  EXPECT_NE(fork.info.id, a.info.id);
  EXPECT_EQ(store.load(fork.info.id).conversation.turns.size(), 2u);
  EXPECT_EQ(store.load("beta").conversation.turns.size(), 4u);
  EXPECT_EQ(store.remove("beta"), a.info.id);
  EXPECT_THROW(store.load("beta"), Error);
  EXPECT_FALSE(std::filesystem::exists(dir.path() / (a.info.id + ".json")));
  EXPECT_FALSE(std::filesystem::exists(dir.path() / (a.info.id + ".lock")));
}

TEST(SessionStore, OpenElsewhereIsRefused) {
  TempDir dir;
  SessionStore store(dir.path());
  Session session = sample(store, "s");
  store.save(session, 1);
  {
    SessionStore::Lock lock = store.open(session.info);
    try {
      store.open(session.info);
      FAIL() << "opened twice";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBusy);
      EXPECT_NE(error.advice().find("--fork"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find(std::to_string(getpid())), std::string::npos);
    }
    EXPECT_THROW(store.remove("s"), Error);
  }
  {  // A name that is not saved yet.
    SessionStore::Lock lock = store.reserve("new");
    try {
      store.reserve("new");
      FAIL() << "reserved twice";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBusy);
      EXPECT_NE(std::string(error.what()).find("session new is open"), std::string::npos);
    }
    EXPECT_THROW(store.rename("s", "new"), Error);
  }
  store.reserve("new");
  store.open(session.info);
}

TEST(SessionStore, DamagedFilesAreRefusedAndLeftAlone) {
  TempDir dir;
  SessionStore store(dir.path());
  Session session = sample(store, "s");
  store.save(session, 1);
  Path path = dir.path() / (session.info.id + ".json");
  const std::string good = read_file(path);
  std::mt19937 rng(2);
  auto refused = [&](const std::string& text) {
    write_file_atomic(path, text);
    EXPECT_THROW(store.load(session.info.id), Error) << text.substr(0, 60);
    std::vector<std::string> damaged;
    EXPECT_TRUE(store.list(&damaged).empty());
    EXPECT_EQ(damaged.size(), 1u);
    EXPECT_EQ(read_file(path), text) << "the file is not touched";
  };
  for (int i = 0; i < 60; ++i) refused(good.substr(0, rng() % (good.size() - 2)));
  auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    refused(text.replace(at, from.size(), to));
  };
  with("\"apud_session\": 1", "\"apud_session\": 2");
  with("\"apud_session\": 1", "\"apud_session\": \"1\"");
  with("\"role\": \"user\"", "\"role\": \"assistant\"");
  with("\"role\": \"user\"", "\"role\": \"system\"");
  with("\"named\": true", "\"named\": 1");
  with("\"first_turn\": 0", "\"first_turn\": 4");
  with("\"first_turn\": 0", "\"first_turn\": -1");
  with("\"first_turn\": 0", "\"first_turn\": 1");
  with("\"id\": \"", "\"id\": \"0");
  with("\"template_now\"", "\"template_then\"");
  refused(std::string(100'000, '['));
  refused("{\"apud_session\":" + std::string(100'000, '['));
  write_file_atomic(path, good);
  EXPECT_EQ(store.load("s").info.id, session.info.id);
}

}  // namespace
}  // namespace apud
