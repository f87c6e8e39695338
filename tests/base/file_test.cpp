#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

TEST(File, AtomicWriteReplacesAndIsPrivate) {
  test::TempDir dir;
  Path path = dir.path() / "f";
  write_file_atomic(path, "one");
  write_file_atomic(path, "two");
  EXPECT_EQ(read_file(path), "two");
  struct stat st {};
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(File, AbandonedWriterLeavesTheOldFile) {
  test::TempDir dir;
  Path path = dir.path() / "f";
  write_file_atomic(path, "old");
  {
    AtomicFileWriter writer(path);
    writer.write("half of the new");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(File, SpecialFilesAreRefusedWithoutBlocking) {
  test::TempDir dir;
  Path fifo = dir.path() / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THROW(open_regular(fifo), Error);
  EXPECT_THROW(open_regular("/dev/zero"), Error);
  EXPECT_THROW(open_regular(dir.path()), Error);
  Path link = dir.path() / "link";
  write_file_atomic(dir.path() / "target", "x");
  std::filesystem::create_symlink("target", link);
  EXPECT_NO_THROW(open_regular(link));
  EXPECT_THROW(open_regular(link, false), Error);
}

TEST(File, MissingFileIsNoInputAndNamesThePath) {
  try {
    read_file("/nowhere/at/all");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kNoInput);
    EXPECT_NE(std::string(e.what()).find("/nowhere/at/all"), std::string::npos);
  }
  EXPECT_FALSE(read_file_if_exists("/nowhere/at/all").has_value());
}

TEST(File, LimitIsKept) {
  test::TempDir dir;
  write_file_atomic(dir.path() / "f", std::string(100, 'x'));
  EXPECT_THROW(read_file(dir.path() / "f", 99), Error);
  EXPECT_EQ(read_file(dir.path() / "f", 100).size(), 100u);
}

TEST(File, LockExcludesAndDiesWithItsHolder) {
  test::TempDir dir;
  Path path = dir.path() / "lock";
  {
    auto lock = FileLock::try_acquire(path);
    ASSERT_TRUE(lock.has_value());
    EXPECT_FALSE(FileLock::try_acquire(path).has_value());
    EXPECT_EQ(FileLock::holder(path), ::getpid());
  }
  pid_t child = ::fork();
  if (child == 0) {
    auto lock = FileLock::try_acquire(path);
    ::_exit(lock ? 0 : 1);  // no destructor: the kernel releases it
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(FileLock::try_acquire(path).has_value());
}

TEST(File, MapGivesTheBytes) {
  test::TempDir dir;
  write_file_atomic(dir.path() / "f", "abc");
  MappedFile map(dir.path() / "f");
  MappedFile moved = std::move(map);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(moved.data()), moved.size()), "abc");
}

}  // namespace
}  // namespace apud
