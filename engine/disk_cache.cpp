#include "engine/disk_cache.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <unordered_map>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "engine/impl/kv_file.h"
#include "engine/impl/token_chain.h"
#include "kernels/program.h"

namespace apud {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

std::string DiskCacheKey::hash() const {
  std::string text = "apud kv 5";  // rises with the format, and when an executor's sums change
  for (const std::string* part : {&model, &fingerprint, &layout, &program, &executor}) {
    text += '\0';
    text += *part;
  }
  return sha256_hex(text).substr(0, 32);
}

std::string kv_chain_hash(const std::string& key_hash, const std::string& parent,
                          std::span<const int32_t> tokens) {
  std::string text = key_hash + (parent.empty() ? kKvRoot : parent);
  text.append(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  return sha256_hex(text).substr(0, 32);
}

namespace {

constexpr int kCountedPages = 32;  // written between two looks at the whole folder

/// What the cache may hold on this disk, `used` of it already.
uint64_t limit_on_disk(const Path& folder, const DiskCacheOptions& options, uint64_t used) {
  double share = options.free_share * static_cast<double>(free_space(folder) + used);
  return std::min(options.limit_bytes, static_cast<uint64_t>(share));
}

uint64_t cached_bytes(const Path& folder) {
  uint64_t total = 0;
  for (const Path& key : list_kv_keys(folder)) {
    for (const KvFileEntry& entry : list_kv_files(key)) total += entry.bytes;
  }
  return total;
}

/// Last change of a folder; zero where there is none.
timespec changed_at(const Path& folder) {
  struct stat st;
  return stat(folder.c_str(), &st) == 0 ? st.st_mtim : timespec{};
}

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

std::string no_room(uint64_t limit) {
  return "the KV cache may hold " + std::to_string(limit >> 20) +
         " MiB on this disk: too little for a page";
}

}  // namespace

struct DiskCache::Impl {
  struct Page {
    KvFileName name;
    std::vector<int32_t> tokens;  // empty: head not read yet
  };
  struct Job {
    KvFileHead head;
    KvFileName name;
    std::vector<std::byte> payload;
  };

  std::string key;
  Path folder;  // of all keys
  Path key_folder;
  DiskCacheOptions options;
  size_t page_bytes = 0;
  Json about;  // key.json

  std::unique_ptr<TokenChain> chain;

  mutable std::mutex mutex;  // guards everything below
  std::condition_variable changed;
  std::unordered_map<std::string, std::vector<Page>> pages;  // by parent
  timespec listed{};
  std::deque<Job> queue;
  std::set<std::string> queued;  // names in queue or being written
  uint64_t queued_bytes = 0;
  bool stop = false;
  bool writing = false;
  Counters counters;
  Rates rates;
  Rates stored_rates;  // as in the file
  std::thread writer;
  // The writer's own: bytes in the folder, counted again every few pages (others write too).
  uint64_t used_bytes = 0;
  int until_count = 0;

  void make_folder() const;
  void list();
  const Page* find(const std::string& parent, std::span<const int32_t> block_tokens, int* common);
  void run_writer();
  void write_one(Job& job);
  bool make_room(uint64_t bytes);
};

void DiskCache::Impl::make_folder() const {
  make_private_dir(key_folder);
  Path path = key_folder / "key.json";
  if (std::filesystem::exists(path)) return;
  write_file_atomic(path, about.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

/// Reads the folder again when another process (or the writer) changed it. REQUIRES: mutex held.
void DiskCache::Impl::list() {
  timespec now = changed_at(key_folder);
  if (now.tv_sec != 0 && same_time(now, listed)) return;
  std::unordered_map<std::string, std::vector<Page>> fresh;
  for (KvFileName& name : list_kv_names(key_folder)) {
    Page page{std::move(name), {}};
    auto known = pages.find(page.name.parent);
    if (known != pages.end()) {
      for (Page& old : known->second) {
        if (old.name.self == page.name.self) page.tokens = std::move(old.tokens);
      }
    }
    std::string parent = page.name.parent;
    fresh[parent].push_back(std::move(page));
  }
  pages = std::move(fresh);
  listed = now;
}

/// The page after `parent` that shares most tokens. REQUIRES: mutex held.
const DiskCache::Impl::Page* DiskCache::Impl::find(const std::string& parent,
                                                   std::span<const int32_t> block_tokens,
                                                   int* common) {
  *common = 0;
  auto found = pages.find(parent);
  if (found == pages.end()) return nullptr;
  std::string self = kv_chain_hash(key, parent, block_tokens).substr(0, 16);
  const Page* best = nullptr;
  for (Page& page : found->second) {
    if (page.name.self == self) {
      *common = static_cast<int>(block_tokens.size());
      return &page;
    }
  }
  std::erase_if(found->second, [&](Page& page) {
    if (!page.tokens.empty()) return false;
    Path path = key_folder / page.name.str();
    std::optional<KvFileHead> head = read_kv_head(path);
    if (head) {
      page.tokens = std::move(head->tokens);
    } else if (unlink(path.c_str()) == 0) {  // else another process removed it
      ++counters.pages_rejected;
    }
    return !head;
  });
  for (Page& page : found->second) {
    auto differ = std::mismatch(page.tokens.begin(), page.tokens.end(), block_tokens.begin(),
                                block_tokens.end());
    int same = static_cast<int>(differ.first - page.tokens.begin());
    if (same > *common) {
      *common = same;
      best = &page;
    }
  }
  return best;
}

DiskCache::DiskCache(const DiskCacheKey& key, const DiskCacheOptions& options, size_t page_bytes)
    : impl_(std::make_unique<Impl>()) {
  impl_->key = key.hash();
  impl_->chain = std::make_unique<TokenChain>(impl_->key);
  impl_->options = options;
  impl_->folder = options.folder;
  impl_->key_folder = options.folder / impl_->key;
  impl_->page_bytes = page_bytes;
  impl_->about = {{"version", 1},
                  {"model", key.model},
                  {"fingerprint", key.fingerprint},
                  {"layout", key.layout},
                  {"program", key.program},
                  {"executor", key.executor},
                  {"page_bytes", page_bytes}};
  if (options.write) {
    impl_->make_folder();
    remove_stale_kv_files(impl_->key_folder);
  }
  if (auto text = read_file_if_exists(impl_->key_folder / "rates.json", 1 << 16)) {
    Json json = Json::parse(*text, nullptr, false);
    auto number = [&](const char* name) {
      if (!json.is_object() || !json.contains(name) || !json[name].is_number()) return 0.0;
      double value = json[name].get<double>();
      return value > 0 && value < 1e12 ? value : 0.0;
    };
    impl_->rates = {number("prefill_tokens_per_second"), number("restore_tokens_per_second")};
    impl_->stored_rates = impl_->rates;
  }
  impl_->writer = std::thread([impl = impl_.get()] { impl->run_writer(); });
}

DiskCache::~DiskCache() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->counters.pages_dropped += static_cast<int64_t>(impl_->queue.size());
    impl_->queue.clear();
    impl_->stop = true;
  }
  impl_->changed.notify_all();
  impl_->writer.join();
  if (!impl_->options.write) return;
  Rates rates = impl_->rates;
  auto near = [](double a, double b) { return a > 0.8 * b && a < 1.25 * b; };
  if (near(rates.prefill_tokens_per_second, impl_->stored_rates.prefill_tokens_per_second) &&
      near(rates.restore_tokens_per_second, impl_->stored_rates.restore_tokens_per_second)) {
    return;
  }
  if (rates.prefill_tokens_per_second <= 0 && rates.restore_tokens_per_second <= 0) return;
  Json json = {{"prefill_tokens_per_second", rates.prefill_tokens_per_second},
               {"restore_tokens_per_second", rates.restore_tokens_per_second}};
  // Speeds are a convenience: as torn as they may be, they are read with care.
  std::string text = json.dump() + "\n";
  Path path = impl_->key_folder / "rates.json";
  if (FILE* file = std::fopen(path.c_str(), "we")) {
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
    chmod(path.c_str(), 0600);
  }
}

int DiskCache::match_length(std::span<const int32_t> tokens) {
  std::lock_guard lock(impl_->mutex);
  impl_->list();
  int length = 0;
  for (int block = 0; length < static_cast<int>(tokens.size()); ++block) {
    int common = 0;
    if (!impl_->find(impl_->chain->before(tokens, block), block_tokens(tokens, block), &common))
      break;
    length += common;
    if (common < kKvPageTokens) break;
  }
  return length;
}

int DiskCache::read(std::span<const int32_t> tokens, int block, PageSink& out) {
  auto start = Clock::now();
  std::string parent;
  std::span<const int32_t> wanted = block_tokens(tokens, block);
  Path path;
  {
    std::lock_guard lock(impl_->mutex);
    parent = impl_->chain->before(tokens, block);
    int common = 0;
    const Impl::Page* page = impl_->find(parent, wanted, &common);
    if (!page) return 0;
    path = impl_->key_folder / page->name.str();
  }
  std::optional<KvFileHead> head = read_kv_file(path, impl_->page_bytes, out);
  bool gone = !head && !std::filesystem::exists(path);
  int valid = 0;
  if (head) {
    auto differ =
        std::mismatch(head->tokens.begin(), head->tokens.end(), wanted.begin(), wanted.end());
    valid = static_cast<int>(differ.first - head->tokens.begin());
  }
  std::lock_guard lock(impl_->mutex);
  if (gone) return 0;  // another process removed it
  if (!head || head->key != impl_->key || head->parent != parent ||
      head->block != static_cast<uint32_t>(block) || valid == 0) {
    ++impl_->counters.pages_rejected;
    unlink(path.c_str());
    return 0;
  }
  touch_kv_file(path);
  ++impl_->counters.pages_read;
  impl_->counters.read_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  return valid;
}

bool DiskCache::has(std::span<const int32_t> tokens, int block) {
  std::string parent = impl_->chain->before(tokens, block);
  std::span<const int32_t> wanted = block_tokens(tokens, block);
  KvFileName name{parent, kv_chain_hash(impl_->key, parent, wanted).substr(0, 16),
                  static_cast<uint32_t>(block), static_cast<int>(wanted.size())};
  std::lock_guard lock(impl_->mutex);
  if (impl_->queued.contains(name.str())) return true;
  int common = 0;
  return impl_->find(parent, wanted, &common) && common == static_cast<int>(wanted.size());
}

bool DiskCache::can_write() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->queued_bytes + impl_->page_bytes <= impl_->options.queue_bytes ||
         impl_->queue.empty();
}

std::string DiskCache::why_not_writing() const {
  {
    std::lock_guard lock(impl_->mutex);
    if (!impl_->counters.write_error.empty()) return impl_->counters.write_error;
  }
  // The folder is counted only where the disk is nearly full.
  if (limit_on_disk(impl_->folder, impl_->options, 0) >= impl_->page_bytes) return {};
  uint64_t limit = limit_on_disk(impl_->folder, impl_->options, cached_bytes(impl_->folder));
  return limit < impl_->page_bytes ? no_room(limit) : std::string();
}

bool DiskCache::write(std::span<const int32_t> tokens, int block, std::vector<std::byte> bytes,
                      std::span<const std::string> tags) {
  APUD_CHECK(bytes.size() == impl_->page_bytes, "size of a page to write");
  if (!impl_->options.write || !can_write()) return false;
  Impl::Job job;
  std::span<const int32_t> wanted = block_tokens(tokens, block);
  job.head.key = impl_->key;
  job.head.parent = impl_->chain->before(tokens, block);
  job.head.block = static_cast<uint32_t>(block);
  job.head.tokens.assign(wanted.begin(), wanted.end());
  job.head.payload_bytes = bytes.size();
  for (const std::string& tag : tags) {
    APUD_CHECK(tag.find('\n') == std::string::npos, "tags are single lines");
    job.head.tags.push_back(tag);
  }
  job.name = {job.head.parent, kv_chain_hash(impl_->key, job.head.parent, wanted).substr(0, 16),
              job.head.block, static_cast<int>(wanted.size())};
  job.payload = std::move(bytes);
  {
    std::lock_guard lock(impl_->mutex);
    if (!impl_->counters.write_error.empty()) return false;
    impl_->queued.insert(job.name.str());
    impl_->queued_bytes += job.payload.size();
    impl_->queue.push_back(std::move(job));
  }
  impl_->changed.notify_all();
  return true;
}

int DiskCache::flush(std::chrono::milliseconds budget, bool drop_rest) {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait_for(lock, budget, [&] { return impl_->queue.empty() && !impl_->writing; });
  int left = static_cast<int>(impl_->queue.size());
  if (drop_rest) {
    for (const Impl::Job& job : impl_->queue) {
      impl_->queued_bytes -= job.payload.size();
      impl_->queued.erase(job.name.str());
    }
    impl_->queue.clear();
    impl_->counters.pages_dropped += left;
  }
  return left;
}

DiskCache::Counters DiskCache::counters() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->counters;
}

DiskCache::Rates DiskCache::rates() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->rates;
}

void DiskCache::set_rates(const Rates& rates) {
  std::lock_guard lock(impl_->mutex);
  impl_->rates = rates;
}

// --- Writer --------------------------------------------------------------------------------------

void DiskCache::Impl::run_writer() {
  std::unique_lock lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return stop || !queue.empty(); });
    if (queue.empty()) return;
    Job job = std::move(queue.front());
    queue.pop_front();
    writing = true;
    lock.unlock();
    write_one(job);
    lock.lock();
    writing = false;
    queued_bytes -= job.payload.size();
    queued.erase(job.name.str());
    changed.notify_all();
  }
}

void DiskCache::Impl::write_one(Job& job) {
  std::string error;
  bool shrunk = false;
  timespec before{}, after{};
  try {
    shrunk = make_room(job.payload.size() + 8192);
    before = changed_at(key_folder);
    bool removed = false;
    error = write_kv_file(key_folder / job.name.str(), job.head, job.payload, &removed);
    if (removed) {  // `apud cache clear` beside a chat that goes on
      make_folder();
      error = write_kv_file(key_folder / job.name.str(), job.head, job.payload, &removed);
    }
    after = changed_at(key_folder);
  } catch (const Error& caught) {
    error = caught.what();
  }
  std::lock_guard lock(mutex);
  // Our own page is no reason to read the folder again. A page that another process adds in between
  // is seen with the next change.
  if (error.empty() && !shrunk && same_time(before, listed)) listed = after;
  if (!error.empty()) {
    counters.write_error = error;
    counters.pages_dropped += 1 + static_cast<int64_t>(queue.size());
    for (const Job& left : queue) {
      queued_bytes -= left.payload.size();
      queued.erase(left.name.str());
    }
    queue.clear();
    return;
  }
  ++counters.pages_written;
  // Shorter pages of the same place that this one continues are of no use any more.
  std::vector<Page>& siblings = pages[job.name.parent];
  std::erase_if(siblings, [&](Page& page) {
    if (page.name.self == job.name.self) return true;
    if (page.name.tokens >= job.name.tokens) return false;
    if (page.tokens.empty()) {
      std::optional<KvFileHead> head = read_kv_head(key_folder / page.name.str());
      if (!head) return false;
      page.tokens = std::move(head->tokens);
    }
    if (!std::equal(page.tokens.begin(), page.tokens.end(), job.head.tokens.begin())) return false;
    unlink((key_folder / page.name.str()).c_str());
    return true;
  });
  siblings.push_back({job.name, job.head.tokens});
}

/// Keeps the folder within its limit; true when pages were removed. Called by the writer alone.
bool DiskCache::Impl::make_room(uint64_t bytes) {
  if (until_count-- <= 0) {
    used_bytes = cached_bytes(folder);
    until_count = kCountedPages;
  }
  uint64_t used = used_bytes;
  used_bytes += bytes;
  uint64_t limit = limit_on_disk(folder, options, used);
  if (bytes > limit) {
    throw Error(ErrorKind::kIo, no_room(limit),
                "free some disk space or raise the limit (apud cache limit)");
  }
  bool full = used + bytes > limit;
  if (full) limit_kv_cache(folder, limit - std::max(bytes, limit / 10));
  // Near the limit every page counts: other processes write too.
  if (used + 4 * kCountedPages * bytes > limit) until_count = 0;
  return full;
}

}  // namespace apud
