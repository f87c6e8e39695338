#include "engine/impl/kv_memory.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"

namespace apud {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMeasuredPages = 12;  // read from the disk to learn how fast that is

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Hash of everything in the op list that decides what a KV page holds; the rotary frequencies are
/// not part of its print.
std::string program_hash(const Model& model) {
  std::string text = print_program(model.program(), model.weights());
  for (const Op& op : model.program().ops) {
    if (const auto* rotary = std::get_if<RotaryOp>(&op)) {
      const auto& freq = rotary->rotary.inv_freq;
      text.append(reinterpret_cast<const char*>(freq.data()), freq.size() * sizeof(float));
      text.append(reinterpret_cast<const char*>(&rotary->rotary.magnitude), sizeof(float));
    }
    if (const auto* attention = std::get_if<AttentionOp>(&op)) {
      for (float value :
           {attention->scale, attention->softcap, static_cast<float>(attention->window)}) {
        text.append(reinterpret_cast<const char*>(&value), sizeof(float));
      }
    }
  }
  return sha256_hex(text).substr(0, 32);
}

double cost_per_position(const Model& model) {
  ProgramCost cost = program_cost(model.program(), model.weights());
  if (cost.flops_per_token <= 0) return 0;
  return static_cast<double>(cost.attention_flops_per_kv) /
         static_cast<double>(cost.flops_per_token);
}

}  // namespace

KvMemory::KvMemory(const Model& model, Executor& executor, const Options& options)
    : executor_(executor),
      pool_(options.pages),
      prefix_cache_(options.prefix_cache),
      always_restore_(options.disk.always_restore),
      groups_(static_cast<int>(model.program().kv_groups.size())) {
  std::vector<int> pages(static_cast<size_t>(groups_), options.pages);
  store_ = executor.make_kv(pages, options.type);
  tree_ = std::make_unique<PrefixTree>(pool_, cost_per_position(model));
  for (int g = 0; g < groups_; ++g) page_bytes_ += store_->page_bytes(g);
  if (prefix_cache_ && store_->on_device() && options.host_bytes >= page_bytes_) {
    host_ = std::make_unique<HostTier>(*store_, page_bytes_, options.host_bytes,
                                       cost_per_position(model));
    tree_->set_on_evict(
        [this](std::span<const int32_t> tokens, int page) { keep_in_host(tokens, page); });
  }
  if (prefix_cache_ && !options.disk.folder.empty()) {
    DiskCacheKey key;
    key.model = model.config().name;
    key.fingerprint = model.fingerprint();
    key.layout = store_->layout_id();
    key.program = program_hash(model);
    key.executor = executor.name();
    try {
      disk_ = std::make_unique<DiskCache>(key, options.disk, page_bytes_);
      rates_ = disk_->rates();
    } catch (const Error& error) {
      // A cache that cannot be opened costs time, not answers; the receipt says so.
      save_problem_ = error.what();
    }
  }
}

KvMemory::~KvMemory() {
  settle();
  while (!saves_.empty()) drop_save();
}

uint64_t KvMemory::bytes() const {
  return static_cast<uint64_t>(page_bytes_) * static_cast<uint64_t>(pool_.page_count());
}

int KvMemory::alloc() {
  for (;;) {
    int page = pool_.alloc();
    if (page != kNone) return page;
    if (tree_->evict_one()) continue;
    if (!saves_.empty()) {
      drop_save();
      continue;
    }
    throw Error(ErrorKind::kBusy,
                "all " + std::to_string(pool_.page_count()) + " KV pages are in use",
                "run fewer requests at once, shorten the context, or unpin documents");
  }
}

void KvMemory::match(KvSequence& sequence, std::span<const int32_t> tokens, int limit) {
  APUD_CHECK(sequence.pages.empty() && sequence.computed == 0, "match for an empty sequence");
  if (!prefix_cache_ || limit <= 0) return;
  PrefixTree::Match match = tree_->match(tokens.first(static_cast<size_t>(limit)));
  sequence.pages = std::move(match.pages);
  sequence.computed = match.tokens;
  sequence.owns_tail = false;
}

// --- Tiers ---------------------------------------------------------------------------------------

std::vector<PageTransfer> KvMemory::transfers(int page, std::span<std::byte> host) const {
  std::vector<PageTransfer> out;
  for (int g = 0; g < groups_; ++g) {
    out.push_back({g, page, host.first(store_->page_bytes(g))});
    host = host.subspan(store_->page_bytes(g));
  }
  return out;
}

/// The tree gives this page up: it moves to host memory.
void KvMemory::keep_in_host(std::span<const int32_t> tokens, int page) {
  int block = (static_cast<int>(tokens.size()) - 1) / kKvPageTokens;
  int slot = host_->put(tokens, block);
  if (slot < 0) return;
  store_->export_pages(transfers(page, host_->bytes(slot)));
  host_->hold(slot);
  in_flight_ = true;
}

void KvMemory::settle() {
  if (!in_flight_) return;
  double seconds = store_->finish_transfers();
  if (host_moving_ >= kKvPageTokens && seconds > 0) host_rate_ = host_moving_ / seconds;
  host_moving_ = 0;
  host_->release_held();
  in_flight_ = false;
}

/// Puts a restored page into its place.
void KvMemory::place(KvSequence& sequence, int block, int page, int valid_tokens) {
  if (block < static_cast<int>(sequence.pages.size())) {
    pool_.release(sequence.pages[static_cast<size_t>(block)]);
    sequence.pages[static_cast<size_t>(block)] = page;
  } else {
    sequence.pages.push_back(page);
  }
  sequence.owns_tail = true;
  sequence.computed = block * kKvPageTokens + valid_tokens;
}

/// Whether moving pages is predicted to be faster than computing their tokens. Pages move whole,
/// however few of their tokens are wanted.
TierChoice KvMemory::choose(const char* tier, const KvSequence& sequence, int found,
                            double rate) const {
  TierChoice choice;
  choice.tier = tier;
  choice.tokens = found - sequence.computed;
  choice.used = true;
  if (rates_.prefill_tokens_per_second > 0 && rate > 0) {
    int pages = kv_blocks(found) - sequence.computed / kKvPageTokens;
    choice.restore_seconds = pages * kKvPageTokens / rate;
    choice.compute_seconds = choice.tokens / rates_.prefill_tokens_per_second;
    choice.used = always_restore_ || choice.restore_seconds <= choice.compute_seconds;
  }
  return choice;
}

void KvMemory::restore_host(KvSequence& sequence, std::span<const int32_t> tokens,
                            Restored& result) {
  int from = sequence.computed;
  int found = host_->match_length(tokens, from);
  if (found <= from) return;
  result.tiers.push_back(choose("host", sequence, found, host_rate_));
  if (!result.tiers.back().used) return;
  auto start = Clock::now();
  std::vector<std::pair<int, HostTier::Page>> there;
  for (int block = from / kKvPageTokens; block * kKvPageTokens < found; ++block) {
    there.emplace_back(block, host_->find(tokens, block));
    host_->hold(there.back().second.slot);  // alloc() may put others in its place
  }
  in_flight_ = true;
  std::vector<PageTransfer> moves;
  for (auto& [block, host] : there) {
    int page = alloc();
    for (const PageTransfer& move : transfers(page, host_->bytes(host.slot))) moves.push_back(move);
    place(sequence, block, page, host.valid_tokens);
  }
  store_->import_pages(moves);
  result.host = sequence.computed - from;
  host_moving_ += result.host;
  if (!store_->on_device() && result.host >= kKvPageTokens)
    host_rate_ = result.host / std::max(seconds_since(start), 1e-6);
}

void KvMemory::restore_disk(KvSequence& sequence, std::span<const int32_t> tokens,
                            Restored& result) {
  int from = sequence.computed;
  int found = disk_->match_length(tokens);
  if (found <= from) return;
  result.tiers.push_back(choose("disk", sequence, found, rates_.restore_tokens_per_second));
  if (!result.tiers.back().used) return;
  // A speed that is not known yet is taken from the first pages: the rest may be faster computed.
  int some = result.tiers.back().restore_seconds > 0 ? kv_blocks(found) : kMeasuredPages;
  auto start = Clock::now();
  for (int block = from / kKvPageTokens; block < kv_blocks(found); some = kv_blocks(found)) {
    const int begin = block, end = std::min(begin + some, kv_blocks(found));
    std::vector<int32_t> pages;
    while (begin + static_cast<int>(pages.size()) < end) pages.push_back(alloc());
    std::vector<int> valid(pages.size());
    int good = store_->read_pages(pages, groups_, [&](int index, PageSink& sink) {
      int& tokens_read = valid[static_cast<size_t>(index)];
      tokens_read = disk_->read(tokens, begin + index, sink);
      return tokens_read > 0;
    });
    bool whole = good == static_cast<int>(pages.size());
    for (int i = 0; i < static_cast<int>(pages.size()); ++i) {
      const int32_t page = pages[static_cast<size_t>(i)];
      const int reached = block * kKvPageTokens + valid[static_cast<size_t>(i)];
      if (i < good && block == begin + i && reached > sequence.computed) {
        place(sequence, block, page, valid[static_cast<size_t>(i)]);
        if (valid[static_cast<size_t>(i)] == kKvPageTokens) ++block;
      } else {
        pool_.release(page);
        whole = false;
      }
    }
    if (!whole || block < end) break;
    if (end < kv_blocks(found)) {
      double rate = (sequence.computed - from) / std::max(seconds_since(start), 1e-6);
      TierChoice rest = choose("disk", sequence, found, rate);
      if (!rest.used) {
        result.tiers.back().tokens = sequence.computed - from;
        result.tiers.push_back(rest);
        break;
      }
    }
  }
  result.disk = sequence.computed - from;
  if (result.disk >= kKvPageTokens) {
    rates_.restore_tokens_per_second = result.disk / std::max(seconds_since(start), 1e-6);
    disk_->set_rates(rates_);
  }
}

KvMemory::Restored KvMemory::restore(KvSequence& sequence, std::span<const int32_t> tokens,
                                     int limit) {
  Restored result;
  if ((!host_ && !disk_) || limit <= sequence.computed) return result;
  tokens = tokens.first(static_cast<size_t>(limit));
  auto start = Clock::now();
  settle();
  if (host_) restore_host(sequence, tokens, result);
  if (disk_) {
    int64_t before = disk_->counters().pages_rejected;
    restore_disk(sequence, tokens, result);
    result.ignored = static_cast<int>(disk_->counters().pages_rejected - before);
  }
  result.seconds = result.host + result.disk > 0 ? seconds_since(start) : 0;
  if (result.host + result.disk > 0) publish(sequence, tokens);
  return result;
}

int KvMemory::reachable(std::span<const int32_t> tokens, int device) {
  int end = host_ ? host_->match_length(tokens, device) : device;
  return disk_ ? std::max(end, disk_->match_length(tokens)) : end;
}

void KvMemory::clear() {
  settle();
  tree_->set_on_evict({});
  tree_->clear();
  if (host_) {
    host_->clear();
    tree_->set_on_evict(
        [this](std::span<const int32_t> tokens, int page) { keep_in_host(tokens, page); });
  }
}

int KvMemory::pages_to_grow(const KvSequence& sequence, int upto) const {
  int pages = std::max(0, kv_blocks(upto) - static_cast<int>(sequence.pages.size()));
  if (!sequence.owns_tail && sequence.computed % kKvPageTokens != 0) ++pages;
  return pages;
}

void KvMemory::grow(KvSequence& sequence, int upto) {
  int partial = sequence.computed % kKvPageTokens;
  if (!sequence.owns_tail && partial != 0) {
    int page = alloc();
    int32_t& last = sequence.pages[static_cast<size_t>(sequence.computed / kKvPageTokens)];
    for (int g = 0; g < groups_; ++g) store_->copy_page(g, last, page, partial);
    pool_.release(last);
    last = page;
  }
  sequence.owns_tail = true;
  while (static_cast<int>(sequence.pages.size()) < kv_blocks(upto)) {
    sequence.pages.push_back(alloc());
  }
}

void KvMemory::fork(const KvSequence& from, KvSequence& to) {
  APUD_CHECK(to.pages.empty() && to.computed == 0, "fork into an empty sequence");
  to = from;
  to.owns_tail = false;
  for (int32_t page : to.pages) pool_.retain(page);
}

void KvMemory::publish(const KvSequence& sequence, std::span<const int32_t> tokens) {
  if (!prefix_cache_ || sequence.computed == 0) return;
  tree_->insert(tokens.first(static_cast<size_t>(sequence.computed)), sequence.pages);
}

void KvMemory::release(KvSequence& sequence) {
  for (int32_t page : sequence.pages) pool_.release(page);
  sequence = KvSequence();
}

int KvMemory::available(int wanted) {
  for (;;) {
    int pages = pool_.free_count() + tree_->evictable_pages();
    if (pages >= wanted || saves_.empty()) return pages;
    drop_save();
  }
}

// --- Saving --------------------------------------------------------------------------------------

void KvMemory::save(const KvSequence& sequence, std::span<const int32_t> tokens,
                    std::span<const std::string> tags, bool only_full) {
  int upto = only_full ? sequence.computed / kKvPageTokens * kKvPageTokens : sequence.computed;
  if (!disk_ || upto == 0) return;
  if (std::string why = disk_->why_not_writing(); !why.empty()) {
    save_problem_ = std::move(why);
    return;
  }
  Save save;
  save.tokens.assign(tokens.begin(), tokens.begin() + upto);
  save.pages.assign(sequence.pages.begin(), sequence.pages.begin() + kv_blocks(upto));
  save.tags.assign(tags.begin(), tags.end());
  for (int32_t page : save.pages) pool_.retain(page);
  saves_.push_back(std::move(save));
}

void KvMemory::drop_save() {
  Save& save = saves_.front();
  if (save.block * kKvPageTokens < static_cast<int>(save.tokens.size())) {
    save_problem_ = "KV memory was needed before its pages were written";
  }
  for (int32_t page : save.pages) pool_.release(page);
  saves_.pop_front();
}

std::vector<std::byte> KvMemory::export_page(int page) {
  std::vector<std::byte> bytes(page_bytes_);
  std::span<std::byte> rest = bytes;
  for (int g = 0; g < groups_; ++g) {
    store_->export_page(g, page, rest.first(store_->page_bytes(g)));
    rest = rest.subspan(store_->page_bytes(g));
  }
  return bytes;
}

bool KvMemory::save_step() {
  while (!saves_.empty()) {
    Save& save = saves_.front();
    int blocks = kv_blocks(static_cast<int>(save.tokens.size()));
    while (save.block < blocks && disk_->has(save.tokens, save.block)) ++save.block;
    if (save.block >= blocks) {
      drop_save();
      continue;
    }
    if (!disk_->can_write()) return false;
    int partial = static_cast<int>(save.tokens.size()) - save.block * kKvPageTokens;
    int page = save.pages[static_cast<size_t>(save.block)];
    std::vector<std::byte> bytes;
    if (partial < kKvPageTokens) {
      // The rest of the page holds remains of other texts: they must not reach the disk.
      int clean = pool_.alloc();
      if (clean == kNone) {
        ++save.block;
        continue;
      }
      std::vector<std::byte> zero(page_bytes_);
      std::span<const std::byte> rest = zero;
      for (int g = 0; g < groups_; ++g) {
        store_->import_page(g, clean, rest.first(store_->page_bytes(g)));
        store_->copy_page(g, page, clean, partial);
      }
      bytes = export_page(clean);
      pool_.release(clean);
    } else {
      bytes = export_page(page);
    }
    if (!disk_->write(save.tokens, save.block, std::move(bytes), save.tags)) {
      save_problem_ = disk_->counters().write_error;
      if (save_problem_.empty()) save_problem_ = "the disk did not keep up";
      save.block = blocks;
      drop_save();
      return false;
    }
    ++save.block;
    return true;
  }
  return false;
}

void KvMemory::save_until(Clock::time_point deadline) {
  if (!disk_) return;
  while (!saves_.empty() && Clock::now() < deadline) {
    if (!save_step() && !saves_.empty()) {
      // The writer is behind; let it catch up.
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
      disk_->flush(std::min(left, std::chrono::milliseconds(20)), false);
    }
  }
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  disk_->flush(std::max(left, std::chrono::milliseconds(0)), false);
}

std::string KvMemory::take_save_problem() {
  if (disk_ && save_problem_.empty()) save_problem_ = disk_->counters().write_error;
  return std::exchange(save_problem_, {});
}

void KvMemory::measured_prefill(int tokens, double seconds) {
  if (tokens < kKvPageTokens || seconds <= 0) return;
  rates_.prefill_tokens_per_second = tokens / seconds;
  if (disk_) disk_->set_rates(rates_);
}

}  // namespace apud
