// The disk tier: a second process starts where the first ended; nothing that does not verify is
// used.
#include "engine/disk_cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <set>

#include "engine/engine.h"
#include "engine/impl/kv_file.h"
#include "tests/support/fake_model.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::FakeExecutor;
using test::FakeLog;
using test::FakeModel;
using test::TempDir;

std::vector<int32_t> numbers(int n, int start = 0) {
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back((start + i * 7 + i * i % 5) % 251);
  return out;
}

/// One process: an engine over the folder.
struct Process {
  explicit Process(const Path& folder, std::string fingerprint = std::string(32, 'f'),
                   uint64_t limit = 1 << 30, bool write = true, bool choose = false)
      : model(std::make_shared<FakeModel>(nullptr, std::move(fingerprint))) {
    EngineOptions options;
    options.context = 2048;
    options.disk.folder = folder;
    options.disk.limit_bytes = limit;
    options.disk.write = write;
    options.disk.always_restore = !choose;  // the fake computes faster than any disk reads
    auto executor = std::make_unique<FakeExecutor>(model->program(), log);
    executor->end_chance = 0;
    engine = std::make_unique<Engine>(model, std::move(executor), options);
  }
  Answer ask(std::vector<int32_t> prompt, int max_tokens = 20, std::vector<std::string> tags = {}) {
    Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.tags = std::move(tags);
    return engine->generate(request);
  }
  std::shared_ptr<FakeModel> model;
  std::shared_ptr<FakeLog> log = std::make_shared<FakeLog>();
  std::unique_ptr<Engine> engine;
};

Answer from_scratch(std::vector<int32_t> prompt, int max_tokens = 20) {
  return Process({}).ask(std::move(prompt), max_tokens);
}

std::vector<Path> page_files(const Path& folder) {
  std::vector<Path> out;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".kv") out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

void overwrite(const Path& path, const std::string& content) {
  std::filesystem::remove(path);
  FILE* file = std::fopen(path.c_str(), "wb");
  ASSERT_TRUE(file);
  std::fwrite(content.data(), 1, content.size(), file);
  std::fclose(file);
}

TEST(DiskTier, TheSecondProcessComputesOnlyWhatIsNew) {
  TempDir dir;
  auto prompt = numbers(500);
  Answer first = Process(dir.path()).ask(prompt, 30);
  EXPECT_EQ(first.receipt.usage.computed, 500);
  EXPECT_EQ(first.receipt.not_saved, "");

  // The same question: everything but the last prompt token, partial page included.
  Process second(dir.path());
  EXPECT_EQ(second.engine->reusable(prompt).total, 500);
  Answer again = second.ask(prompt, 30);
  EXPECT_EQ(again.receipt.usage.cached_disk, 499);
  EXPECT_EQ(again.receipt.usage.computed, 1);
  ASSERT_EQ(again.receipt.tiers.size(), 1u);
  EXPECT_TRUE(again.receipt.tiers[0].used);
  EXPECT_EQ(again.best().tokens, first.best().tokens);
  EXPECT_EQ(again.best().logprobs, first.best().logprobs);

  // The next turn: prompt, answer and new words.
  auto next = prompt;
  next.insert(next.end(), first.best().tokens.begin(), first.best().tokens.end());
  for (int32_t token : numbers(17, 99)) next.push_back(token);
  Answer turn = Process(dir.path()).ask(next, 30);
  EXPECT_EQ(turn.receipt.usage.cached_disk, 529);
  EXPECT_EQ(turn.receipt.usage.computed, 18);
  EXPECT_EQ(turn.best().tokens, from_scratch(next, 30).best().tokens);

  // Another question that leaves the prompt in the middle of a page.
  auto other = prompt;
  other.resize(150);
  other.push_back(250);
  Answer branch = Process(dir.path()).ask(other, 30);
  EXPECT_EQ(branch.receipt.usage.cached_disk, 150);
  EXPECT_EQ(branch.best().tokens, from_scratch(other, 30).best().tokens);
}

TEST(DiskTier, FilesArePrivateAndNothingElseIsLeft) {
  TempDir dir;
  Process(dir.path()).ask(numbers(300), 5);
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir.path())) {
    struct stat st;
    ASSERT_EQ(lstat(entry.path().c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0077, 0u) << entry.path();
    EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp")) << entry.path();
    ++files;
  }
  EXPECT_GE(files, 6);
}

TEST(DiskTier, NoWritingWhenToldSo) {
  TempDir dir;
  Process(dir.path(), std::string(32, 'f'), 1 << 30, false).ask(numbers(300));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  {
    Process process(dir.path());
    Request request;
    request.prompt = numbers(300);
    request.max_tokens = 3;
    request.save = false;
    process.engine->generate(request);
  }
  EXPECT_TRUE(page_files(dir.path()).empty());
}

TEST(DiskTier, AnotherModelFindsNothing) {
  TempDir dir;
  Process(dir.path()).ask(numbers(300));
  Process other(dir.path(), std::string(32, 'e'));
  EXPECT_EQ(other.ask(numbers(300)).receipt.usage.cached, 0);
  EXPECT_EQ(list_kv_cache(dir.path()).size(), 2u);
}

/// 200 damaged or mismatched files (X4): none used, the answer right.
TEST(DiskTier, DamagedFilesAreNeverUsed) {
  TempDir dir;
  auto prompt = numbers(330);
  Answer good = Process(dir.path()).ask(prompt, 25);
  std::vector<Path> files = page_files(dir.path());
  ASSERT_GE(files.size(), 6u);
  std::vector<std::string> content;
  for (const Path& path : files) content.push_back(read_file(path));
  std::mt19937 rng(11);
  for (int round = 0; round < 200; ++round) {
    for (size_t i = 0; i < files.size(); ++i) overwrite(files[i], content[i]);
    size_t victim = rng() % files.size();
    std::string bytes = content[victim];
    switch (round % 7) {
      case 0:
        bytes[rng() % bytes.size()] ^= static_cast<char>(1 << rng() % 8);
        break;
      case 1:
        bytes.resize(rng() % bytes.size());
        break;
      case 2:
        bytes += "x";
        break;
      case 3:
        bytes.clear();
        break;
      case 4:
        bytes = content[(victim + 1) % files.size()];
        break;  // another page's file
      case 5:
        std::fill(bytes.begin() + 200, bytes.end(), '\0');
        break;
      default: {  // every field of the head, one at a time
        size_t at = rng() % 96;
        bytes[at] = static_cast<char>(rng());
      }
    }
    if (bytes == content[victim]) continue;
    overwrite(files[victim], bytes);
    Process process(dir.path());
    Answer answer = process.ask(prompt, 25);
    ASSERT_EQ(answer.best().tokens, good.best().tokens) << "round " << round;
    ASSERT_EQ(answer.best().logprobs, good.best().logprobs) << "round " << round;
  }
}

TEST(DiskTier, AWholeFileThatClaimsAnotherPlaceIsRefused) {
  // Checksums are right, the key or the chain is not: a file copied by hand.
  TempDir dir;
  auto prompt = numbers(200);
  Answer good = Process(dir.path()).ask(prompt, 10);
  for (const Path& path : page_files(dir.path())) {
    std::vector<std::byte> payload(kKvPageTokens * sizeof(uint64_t));
    KvFileHead head = *read_kv_file(path, payload);
    if (head.block != 1) continue;
    std::fill(payload.begin(), payload.end(), std::byte{7});
    KvFileHead wrong = head;
    wrong.key = std::string(32, '0');
    ASSERT_EQ(write_kv_file(path, wrong, payload), "");
    EXPECT_EQ(Process(dir.path()).ask(prompt, 10).best().tokens, good.best().tokens);
    wrong = head;
    wrong.parent = std::string(32, 'a');
    ASSERT_EQ(write_kv_file(path, wrong, payload), "");
    EXPECT_EQ(Process(dir.path()).ask(prompt, 10).best().tokens, good.best().tokens);
    wrong = head;
    payload.resize(payload.size() - 8);
    wrong.payload_bytes = payload.size();
    ASSERT_EQ(write_kv_file(path, wrong, payload), "");
    EXPECT_EQ(Process(dir.path()).ask(prompt, 10).best().tokens, good.best().tokens);
  }
}

TEST(DiskTier, RemainsOfOtherTextsDoNotReachTheDisk) {
  TempDir dir;
  {
    Process process(dir.path());
    process.ask(numbers(500, 3), 40);  // fills pages
    process.engine->save_pending(1000);
    process.engine->clear_cache();
    process.ask(numbers(70), 5);  // its partial page takes one of them
  }
  int partial = 0;
  for (const Path& path : page_files(dir.path())) {
    std::vector<std::byte> payload(kKvPageTokens * sizeof(uint64_t));
    KvFileHead head = *read_kv_file(path, payload);
    for (size_t slot = head.tokens.size(); slot < kKvPageTokens; ++slot) {
      uint64_t value;
      std::memcpy(&value, payload.data() + slot * 8, 8);
      EXPECT_EQ(value, 0u) << "slot " << slot << " of " << path;
      ++partial;
    }
  }
  EXPECT_GT(partial, 0);
}

TEST(DiskTier, TheLimitHoldsAndTheBeginningsStay) {
  TempDir dir;
  uint64_t page = 64 * 8 + 512;
  auto first = numbers(640);
  Process(dir.path()).ask(first, 2);
  uint64_t limit = 14 * page;
  for (int i = 1; i < 8; ++i)
    Process(dir.path(), std::string(32, 'f'), limit).ask(numbers(640, i), 2);
  uint64_t total = 0;
  for (const Path& path : page_files(dir.path())) total += std::filesystem::file_size(path);
  EXPECT_LE(total, limit);
  EXPECT_GT(total, limit / 3);
  uint64_t freed = limit_kv_cache(dir.path(), 3 * page);
  EXPECT_GT(freed, 0u);
  // What is left is the start of a chain, not a middle that nothing leads to.
  int longest = 0;
  for (int i = 0; i < 8; ++i) {
    longest = std::max(longest, Process(dir.path()).engine->reusable(numbers(640, i)).total);
  }
  EXPECT_GE(longest, 64);
}

TEST(DiskTier, NeverMoreThanItsShareOfTheFreeSpace) {
  TempDir dir;
  constexpr uint64_t kShare = 60 << 10;
  auto used = [&] {
    uint64_t total = 0;
    for (const Path& path : page_files(dir.path())) total += std::filesystem::file_size(path);
    return total;
  };
  EngineOptions options;
  options.context = 2048;
  options.disk.folder = dir.path();
  options.disk.always_restore = true;
  // Other files come and go on this disk: twice the share still tells that it was kept.
  options.disk.free_share =
      static_cast<double>(kShare) / static_cast<double>(free_space(dir.path()));
  for (int i = 0; i < 8; ++i) {  // of about 27 KB each
    auto model = std::make_shared<FakeModel>();
    auto executor = std::make_unique<FakeExecutor>(model->program(), std::make_shared<FakeLog>());
    Engine engine(model, std::move(executor), options);
    Request request;
    request.prompt = numbers(1900, i);
    request.max_tokens = 2;
    engine.generate(request);
    engine.save_pending(1000);
    EXPECT_LE(used(), 2 * kShare);
  }
  EXPECT_GT(used(), kShare / 4);
  // Not even a page's worth: nothing is written, and the receipt of the same answer says so.
  options.disk.free_share = 1e-30;
  auto model = std::make_shared<FakeModel>();
  Engine engine(model,
                std::make_unique<FakeExecutor>(model->program(), std::make_shared<FakeLog>()),
                options);
  Request request;
  request.prompt = numbers(640, 50);
  request.max_tokens = 2;
  EXPECT_NE(engine.generate(request).receipt.not_saved, "");
}

TEST(DiskTier, EverythingThatDecidesAPageIsInItsKey) {
  DiskCacheKey key{"model", "fingerprint", "layout", "program", "executor"};
  std::set<std::string> hashes = {key.hash()};
  for (std::string DiskCacheKey::*field :
       {&DiskCacheKey::model, &DiskCacheKey::fingerprint, &DiskCacheKey::layout,
        &DiskCacheKey::program, &DiskCacheKey::executor}) {
    DiskCacheKey other = key;
    other.*field += "x";
    hashes.insert(other.hash());
  }
  // Nor does a letter that moves from one field to the next go unnoticed.
  hashes.insert(DiskCacheKey{"modelf", "ingerprint", "layout", "program", "executor"}.hash());
  EXPECT_EQ(hashes.size(), 7u);
}

TEST(DiskTier, DamagedHeadsAndRemainsOfKilledWritersGo) {
  TempDir dir;
  auto prompt = numbers(300);
  Process(dir.path()).ask(prompt, 5);
  std::vector<Path> files = page_files(dir.path());
  std::string head = read_file(files[0]);
  head[3] = 'x';
  overwrite(files[0], head);
  auto other = prompt;  // shares the first tokens of each block only: heads are read
  other[40] += 1;
  for (const Path& path : files) {
    std::string bytes = read_file(path);
    bytes[20] = static_cast<char>(bytes[20] + 1);
    overwrite(path, bytes);
  }
  Answer answer = Process(dir.path(), std::string(32, 'f'), 1 << 30, false).ask(other, 5);
  EXPECT_EQ(answer.receipt.usage.cached, 0);
  EXPECT_EQ(answer.receipt.ignored_files, 1) << "the first block's; nothing leads to the others";
  EXPECT_NE(receipt_details(answer.receipt).find("1 damaged cache file ignored"),
            std::string::npos);
  EXPECT_EQ(page_files(dir.path()).size(), files.size() - 1);

  Path key = files[0].parent_path();
  std::string mine = ".tmp-" + std::to_string(getpid()) + "-999";
  overwrite(key / mine, "being written");
  overwrite(key / ".tmp-999999999-0", "left by a process that is gone");
  Process(dir.path()).ask(numbers(10), 1);
  EXPECT_TRUE(std::filesystem::exists(key / mine));
  EXPECT_FALSE(std::filesystem::exists(key / ".tmp-999999999-0"));
}

TEST(DiskTier, AFullDiskCostsNoAnswer) {
  TempDir dir;
  Process process(dir.path());
  Path key = dir.path() / list_kv_cache(dir.path()).at(0).key;
  // As if the disk had gone: the folder cannot be made again.
  std::filesystem::remove_all(key);
  overwrite(key, "no folder");
  Answer first = process.ask(numbers(300), 30);
  EXPECT_EQ(first.best().tokens.size(), 30u);
  process.engine->save_pending(500);
  Answer second = process.ask(numbers(300, 5), 30);
  EXPECT_NE(second.receipt.not_saved, "");
}

TEST(DiskTier, RemovingATagRemovesItsPages) {
  TempDir dir;
  Process(dir.path()).ask(numbers(200), 5, {"doc:1", "session:a"});
  Process(dir.path()).ask(numbers(200, 50), 5, {"doc:2"});
  auto keys = list_kv_cache(dir.path());
  ASSERT_EQ(keys.size(), 1u);
  EXPECT_EQ(keys[0].model, "fake");
  EXPECT_EQ(keys[0].pages, 8);
  EXPECT_EQ(show_kv_cache(dir.path(), keys[0].key).size(), 8u);
  EXPECT_EQ(remove_kv_pages_tagged(dir.path(), "doc:3"), 0);
  EXPECT_EQ(remove_kv_pages_tagged(dir.path(), "doc:1"), 4);
  EXPECT_EQ(Process(dir.path()).engine->reusable(numbers(200)).total, 0);
  EXPECT_EQ(Process(dir.path()).engine->reusable(numbers(200, 50)).total, 200);
  EXPECT_GT(clear_kv_cache(dir.path()), 0u);
  EXPECT_TRUE(list_kv_cache(dir.path()).empty());
  EXPECT_THROW(show_kv_cache(dir.path(), "nothing"), Error);
}

TEST(DiskTier, WhatCannotBeReadIsRemovedWithAnyTag) {
  TempDir dir;
  Process(dir.path()).ask(numbers(100), 2, {"doc:1"});
  std::vector<Path> files = page_files(dir.path());
  ASSERT_EQ(files.size(), 2u);
  std::string bytes = read_file(files[0]);
  size_t at = bytes.find("doc:1");
  ASSERT_NE(at, std::string::npos);
  bytes[at + 4] = '7';  // the tag was damaged: nobody knows what the page was made from
  overwrite(files[0], bytes);
  EXPECT_EQ(remove_kv_pages_tagged(dir.path(), "doc:1"), 2);
}

TEST(DiskTier, RecomputesWhereThatIsFaster) {
  TempDir dir;
  {
    Process process(dir.path());
    process.ask(numbers(500), 30);
  }
  Path key = dir.path() / list_kv_cache(dir.path()).at(0).key;
  auto choosing = [&] { return Process(dir.path(), std::string(32, 'f'), 1 << 30, false, true); };
  overwrite(key / "rates.json",
            R"({"prefill_tokens_per_second": 1e9, "restore_tokens_per_second": 10})");
  EXPECT_EQ(choosing().ask(numbers(500)).receipt.usage.cached_disk, 0);
  overwrite(key / "rates.json",
            R"({"prefill_tokens_per_second": 10, "restore_tokens_per_second": 1e9})");
  EXPECT_EQ(choosing().ask(numbers(500)).receipt.usage.cached_disk, 499);
  overwrite(key / "rates.json", "{\"prefill_tok");
  EXPECT_EQ(choosing().ask(numbers(500)).receipt.usage.cached_disk, 499);
}

/// Killed at any moment: old or new, never a mixture.
TEST(DiskTier, KilledWriters) {
  TempDir dir;
  auto prompt = numbers(1500);
  Answer good = from_scratch(prompt, 20);
  for (int round = 0; round < 12; ++round) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Process process(dir.path());
      process.ask(prompt, 20 + round);
      process.engine->save_pending(1000);
      _exit(0);
    }
    usleep(static_cast<useconds_t>(1500 * round));
    kill(child, SIGKILL);
    int status;
    waitpid(child, &status, 0);
    Process process(dir.path(), std::string(32, 'f'), 1 << 30, false);
    ASSERT_EQ(process.ask(prompt, 20).best().tokens, good.best().tokens);
  }
}

TEST(DiskTier, AChatGoesOnSavingAfterTheCacheWasCleared) {
  TempDir dir;
  Process chat(dir.path());
  EXPECT_EQ(chat.ask(numbers(300), 5).receipt.not_saved, "");
  chat.engine->save_pending(2000);
  ASSERT_GT(clear_kv_cache(dir.path()), 0u);
  ASSERT_TRUE(page_files(dir.path()).empty());
  EXPECT_EQ(chat.ask(numbers(400, 9), 5).receipt.not_saved, "");
  EXPECT_EQ(chat.engine->save_pending(2000), "");
  EXPECT_EQ(list_kv_cache(dir.path()).at(0).model, "fake") << "the folder says whose it is";
  EXPECT_EQ(Process(dir.path()).ask(numbers(400, 9)).receipt.usage.cached_disk, 399);
}

/// Writers under a limit that two of them fill, one that clears and shrinks, and one that dies:
/// every answer is right, and what is left verifies.
TEST(DiskTier, ManyProcessesWriteShrinkAndClearAtOnce) {
  TempDir dir;
  constexpr int kTexts = 6;
  constexpr uint64_t kLimit = 120'000;  // about four of the texts
  std::vector<Answer> good;
  for (int text = 0; text < kTexts; ++text) good.push_back(from_scratch(numbers(900, text), 6));
  std::vector<pid_t> children;
  for (int number = 0; number < 5; ++number) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    int wrong = 0;
    std::mt19937 rng(static_cast<unsigned>(number));
    for (int round = 0; round < 40; ++round) {
      if (number == 4) {  // the one that clears up
        usleep(3000);
        if (round % 8 == 7) {
          clear_kv_cache(dir.path());
        } else {
          limit_kv_cache(dir.path(), kLimit / 3);
        }
        continue;
      }
      if (number == 3 && round == 20) raise(SIGKILL);
      int text = static_cast<int>(rng() % kTexts);
      Process process(dir.path(), std::string(32, 'f'), kLimit);
      Answer answer = process.ask(numbers(900, text), 6);
      wrong += answer.best().tokens != good[static_cast<size_t>(text)].best().tokens;
      process.engine->save_pending(20);
    }
    _exit(wrong);
  }
  for (size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    waitpid(children[i], &status, 0);
    if (i == 3) continue;
    ASSERT_TRUE(WIFEXITED(status)) << "process " << i << ", status " << status;
    EXPECT_EQ(WEXITSTATUS(status), 0) << "wrong answers of process " << i;
  }
  Process last(dir.path(), std::string(32, 'f'), kLimit);
  for (int text = 0; text < kTexts; ++text) {
    EXPECT_EQ(last.ask(numbers(900, text), 6).best().tokens,
              good[static_cast<size_t>(text)].best().tokens);
  }
  last.engine->save_pending(2000);
  uint64_t total = 0;
  for (const Path& path : page_files(dir.path())) total += std::filesystem::file_size(path);
  EXPECT_LE(total, kLimit);
  EXPECT_GT(total, kLimit / 4);
}

TEST(DiskTier, TwoProcessesShareTheFolder) {
  TempDir dir;
  Process a(dir.path());
  Process b(dir.path());
  a.ask(numbers(300), 10);
  a.engine->save_pending(1000);
  EXPECT_EQ(b.ask(numbers(300), 10).receipt.usage.cached_disk, 299) << "seen without a restart";
}

}  // namespace
}  // namespace apud
