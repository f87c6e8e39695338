#include "rag/ledger.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/error.h"

namespace apud {
namespace {

using nlohmann::json;

constexpr int kVersion = 2;
constexpr size_t kMaxJson = 64u << 20;
constexpr int kMaxDepth = 8;

json anchor_json(const Anchor& a) {
  return {{"offset", a.offset}, {"line", a.line}, {"page", a.page}, {"member", a.member}};
}

Anchor anchor_of(const json& j) {
  return {j.at("offset").get<size_t>(), j.at("line").get<int>(), j.at("page").get<int>(),
          j.at("member").get<std::string>()};
}

json parts_json(const std::vector<TextRange>& parts) {
  json out = json::array();
  for (const TextRange& part : parts) out.push_back({part.begin, part.end});
  return out;
}

std::vector<TextRange> parts_of(const json& j) {
  std::vector<TextRange> parts;
  for (const json& pair : j) parts.push_back({pair.at(0).get<size_t>(), pair.at(1).get<size_t>()});
  return parts;
}

}  // namespace

std::string text_of_parts(const Passage& passage, std::span<const TextRange> parts) {
  std::string text;
  for (const TextRange& part : parts) {
    APUD_CHECK(part.begin >= passage.begin && part.end <= passage.end && part.begin <= part.end,
               "parts lie in their passage");
    if (!text.empty()) text += kGap;
    text.append(passage.source_text, part.begin - passage.begin, part.end - part.begin);
  }
  return text;
}

int pinned_id(int64_t document) {
  APUD_CHECK(document > 0 && document < 1'000'000'000, "a stored document");
  return kFirstPinnedId + static_cast<int>(document);
}

std::vector<SentRange> Ledger::sent() const {
  std::vector<SentRange> ranges;
  for (const Passage& p : pinned_) {
    for (const TextRange& part : p.parts)
      ranges.push_back({p.id, p.document, part.begin, part.end});
  }
  for (const LedgerEntry& e : entries_) {
    if (!e.in_prompt) continue;
    for (const TextRange& part : e.passage.parts)
      ranges.push_back({e.passage.id, e.passage.document, part.begin, part.end});
  }
  return ranges;
}

void Ledger::add_turn(int turn, std::span<const Passage> passages, std::span<const int> tokens,
                      std::span<const int> referred) {
  APUD_CHECK(passages.size() == tokens.size(), "one count for each passage");
  APUD_CHECK(entries_.empty() || turn >= entries_.back().turn, "turns only go forward");
  for (size_t i = 0; i < passages.size(); ++i) {
    APUD_CHECK(passages[i].id == next_id(), "ids continue without a gap");
    LedgerEntry e;
    e.passage = passages[i];
    e.turn = e.last_hit = turn;
    e.tokens = tokens[i];
    e.hits = 1;
    entries_.push_back(std::move(e));
  }
  for (int id : referred) {
    if (id > kFirstPinnedId) continue;  // always there
    APUD_CHECK(id >= 1 && id < next_id(), "a referred passage is in the ledger");
    entries_[id - 1].last_hit = turn;
    ++entries_[id - 1].hits;
  }
}

void Ledger::note_citation(int id, int turn) {
  if (id < 1 || id >= next_id()) return;
  std::vector<int>& cited = entries_[id - 1].cited;
  auto at = std::lower_bound(cited.begin(), cited.end(), turn);
  if (at == cited.end() || *at != turn) cited.insert(at, turn);
}

void Ledger::apply(const Refinement& plan) {
  for (const Refinement::Change& change : plan.changes) {
    APUD_CHECK(change.id >= 1 && change.id < next_id(), "a changed passage is in the ledger");
    LedgerEntry& e = entries_[change.id - 1];
    e.in_prompt = !change.keep.empty();
    e.tokens = e.in_prompt ? change.tokens : 0;
    if (!e.in_prompt) continue;
    e.passage.parts = change.keep;
    e.passage.text = text_of_parts(e.passage, change.keep);
  }
}

void Ledger::truncate(int turn) {
  while (!entries_.empty() && entries_.back().turn >= turn) entries_.pop_back();
  for (LedgerEntry& e : entries_) {
    e.last_hit = std::min(e.last_hit, turn - 1);
    std::erase_if(e.cited, [&](int cited) { return cited >= turn; });
  }
}

std::vector<Passage> Ledger::passages() const {
  std::vector<Passage> all = pinned_;
  for (const LedgerEntry& e : entries_) all.push_back(e.passage);
  return all;
}

std::vector<Passage> Ledger::standing_at(int turn, int first) const {
  std::vector<Passage> out;
  for (const LedgerEntry& e : entries_) {
    if (e.in_prompt && std::max(e.turn, first) == turn) out.push_back(e.passage);
  }
  return out;
}

int Ledger::prompt_tokens() const {
  int sum = 0;
  for (const LedgerEntry& e : entries_) sum += e.in_prompt ? e.tokens : 0;
  return sum;
}

namespace {

json passage_json(const Passage& p) {
  return {{"id", p.id},
          {"document", p.document},
          {"collection", p.collection},
          {"path", p.path},
          {"title", p.title},
          {"heading_path", p.heading_path},
          {"begin", p.begin},
          {"end", p.end},
          {"parts", parts_json(p.parts)},
          {"from", anchor_json(p.from)},
          {"to", anchor_json(p.to)},
          {"text", p.text},
          {"source_text", p.source_text},
          {"score", p.score},
          {"chunk_rank", p.chunk_rank}};
}

Error bad_ledger(const std::string& why) {
  return Error(ErrorKind::kBadData, "evidence ledger: " + why,
               "the session's file is damaged; restore a copy");
}

Passage passage_of(const json& j) {
  Passage p;
  p.id = j.at("id").get<int>();
  p.document = j.at("document").get<int64_t>();
  p.collection = j.at("collection").get<std::string>();
  p.path = j.at("path").get<std::string>();
  p.title = j.at("title").get<std::string>();
  p.heading_path = j.at("heading_path").get<std::string>();
  p.begin = j.at("begin").get<size_t>();
  p.end = j.at("end").get<size_t>();
  if (p.begin > p.end) throw bad_ledger("a range ends before it begins");
  p.parts = parts_of(j.at("parts"));
  p.from = anchor_of(j.at("from"));
  p.to = anchor_of(j.at("to"));
  p.text = j.at("text").get<std::string>();
  p.source_text = j.at("source_text").get<std::string>();
  // Parts are cut out of the source text.
  if (p.source_text.size() != p.end - p.begin) throw bad_ledger("a source text is not its range");
  size_t at = p.begin;
  for (const TextRange& part : p.parts) {
    if (part.begin < at || part.end < part.begin || part.end > p.end)
      throw bad_ledger("parts outside their passage");
    at = part.end;
  }
  p.score = j.at("score").get<double>();
  p.chunk_rank = j.at("chunk_rank").get<int>();
  return p;
}

}  // namespace

std::string Ledger::to_json() const {
  json list = json::array();
  for (const LedgerEntry& e : entries_) {
    json entry = passage_json(e.passage);
    entry.update({{"turn", e.turn},
                  {"tokens", e.tokens},
                  {"last_hit", e.last_hit},
                  {"hits", e.hits},
                  {"cited", e.cited},
                  {"in_prompt", e.in_prompt}});
    list.push_back(std::move(entry));
  }
  json pinned = json::array();
  for (const Passage& p : pinned_) pinned.push_back(passage_json(p));
  return json{{"version", kVersion}, {"pinned", std::move(pinned)}, {"entries", std::move(list)}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

Ledger Ledger::from_json(const std::string& text) {
  if (text.size() > kMaxJson) throw bad_ledger("larger than 64 MiB");
  json root = json::parse(
      text, [](int depth, json::parse_event_t, json&) { return depth < kMaxDepth; }, false);
  if (!root.is_object()) throw bad_ledger("not a JSON object");
  Ledger ledger;
  try {
    if (root.at("version").get<int>() != kVersion)
      throw bad_ledger("version is not " + std::to_string(kVersion));
    for (const json& j : root.at("pinned")) {
      ledger.pinned_.push_back(passage_of(j));
      if (ledger.pinned_.back().id <= kFirstPinnedId) throw bad_ledger("a pinned id is too small");
    }
    for (const json& j : root.at("entries")) {
      LedgerEntry e;
      e.passage = passage_of(j);
      if (e.passage.id != ledger.next_id()) throw bad_ledger("ids do not count up from 1");
      e.turn = j.at("turn").get<int>();
      e.tokens = j.at("tokens").get<int>();
      e.last_hit = j.at("last_hit").get<int>();
      e.hits = j.at("hits").get<int>();
      e.cited = j.at("cited").get<std::vector<int>>();
      e.in_prompt = j.at("in_prompt").get<bool>();
      if (e.tokens < 0 || e.hits < 0) throw bad_ledger("a count is negative");
      if (!std::is_sorted(e.cited.begin(), e.cited.end()))
        throw bad_ledger("citing turns go backwards");
      if (!ledger.entries_.empty() && e.turn < ledger.entries_.back().turn)
        throw bad_ledger("turns go backwards");
      ledger.entries_.push_back(std::move(e));
    }
  } catch (const json::exception& e) {
    throw bad_ledger(e.what());
  }
  return ledger;
}

}  // namespace apud
