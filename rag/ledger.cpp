#include "rag/ledger.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/error.h"

namespace apud {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr size_t kMaxJson = 64u << 20;
constexpr int kMaxDepth = 8;

/// What a passage is still worth: cited ones far above all others, then recent use, then score.
double worth(const LedgerEntry& e, int turn) {
  double age = turn - e.last_hit;
  return 100.0 * std::min(e.citations, 3) + 4.0 * std::min(e.hits, 5) + e.passage.score - 2.0 * age;
}

json anchor_json(const Anchor& a) {
  return {{"offset", a.offset}, {"line", a.line}, {"page", a.page}, {"member", a.member}};
}

Anchor anchor_of(const json& j) {
  return {j.at("offset").get<size_t>(), j.at("line").get<int>(), j.at("page").get<int>(),
          j.at("member").get<std::string>()};
}

}  // namespace

std::vector<SentRange> Ledger::sent() const {
  std::vector<SentRange> ranges;
  for (const LedgerEntry& e : entries_) {
    if (e.in_prompt)
      ranges.push_back({e.passage.id, e.passage.document, e.passage.begin, e.passage.end});
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
    APUD_CHECK(id >= 1 && id < next_id(), "a referred passage is in the ledger");
    entries_[id - 1].last_hit = turn;
    ++entries_[id - 1].hits;
  }
}

void Ledger::note_citation(int id) {
  if (id >= 1 && id < next_id()) ++entries_[id - 1].citations;
}

Compaction Ledger::plan(int target, int turn) const {
  Compaction plan;
  std::vector<const LedgerEntry*> order;
  for (const LedgerEntry& e : entries_) {
    if (!e.in_prompt) continue;
    plan.tokens_before += e.tokens;
    if (e.turn < turn) order.push_back(&e);
  }
  plan.tokens_after = plan.tokens_before;
  std::stable_sort(order.begin(), order.end(), [&](const LedgerEntry* a, const LedgerEntry* b) {
    return worth(*a, turn) < worth(*b, turn);
  });
  // First what no answer used is dropped; then cited passages shrink to what was used of them.
  for (const LedgerEntry* e : order) {
    if (plan.tokens_after <= target) return plan;
    if (e->citations > 0) continue;
    plan.drop.push_back(e->passage.id);
    plan.tokens_after -= e->tokens;
  }
  std::vector<const LedgerEntry*> shrunk;
  for (const LedgerEntry* e : order) {
    if (plan.tokens_after <= target) return plan;
    if (e->citations == 0) continue;
    plan.condense.push_back(e->passage.id);
    plan.tokens_after -= e->tokens / 2;
    shrunk.push_back(e);
  }
  // Still too much: cited ones go, too, the least used first.
  for (const LedgerEntry* e : shrunk) {
    if (plan.tokens_after <= target) return plan;
    plan.condense.erase(std::find(plan.condense.begin(), plan.condense.end(), e->passage.id));
    plan.drop.push_back(e->passage.id);
    plan.tokens_after -= e->tokens - e->tokens / 2;
  }
  return plan;
}

void Ledger::apply(const Compaction& plan, std::span<const Passage> condensed,
                   std::span<const int> condensed_tokens) {
  APUD_CHECK(condensed.size() == condensed_tokens.size(), "one count for each passage");
  for (int id : plan.drop) {
    APUD_CHECK(id >= 1 && id < next_id(), "a dropped passage is in the ledger");
    entries_[id - 1].in_prompt = false;
    entries_[id - 1].tokens = 0;
  }
  for (size_t i = 0; i < condensed.size(); ++i) {
    int id = condensed[i].id;
    APUD_CHECK(std::find(plan.condense.begin(), plan.condense.end(), id) != plan.condense.end(),
               "only planned passages are condensed");
    // source_text stays: quotes of earlier answers were checked against it.
    LedgerEntry& e = entries_[id - 1];
    e.passage.text = condensed[i].text;
    e.tokens = condensed_tokens[i];
  }
}

void Ledger::truncate(int turn) {
  while (!entries_.empty() && entries_.back().turn >= turn) entries_.pop_back();
  for (LedgerEntry& e : entries_) e.last_hit = std::min(e.last_hit, turn - 1);
}

std::vector<Passage> Ledger::passages() const {
  std::vector<Passage> all;
  for (const LedgerEntry& e : entries_) all.push_back(e.passage);
  return all;
}

int Ledger::prompt_tokens() const {
  int sum = 0;
  for (const LedgerEntry& e : entries_) sum += e.in_prompt ? e.tokens : 0;
  return sum;
}

std::string Ledger::to_json() const {
  json list = json::array();
  for (const LedgerEntry& e : entries_) {
    const Passage& p = e.passage;
    list.push_back({{"id", p.id},
                    {"document", p.document},
                    {"collection", p.collection},
                    {"path", p.path},
                    {"title", p.title},
                    {"heading_path", p.heading_path},
                    {"begin", p.begin},
                    {"end", p.end},
                    {"from", anchor_json(p.from)},
                    {"to", anchor_json(p.to)},
                    {"text", p.text},
                    {"source_text", p.source_text},
                    {"score", p.score},
                    {"chunk_rank", p.chunk_rank},
                    {"turn", e.turn},
                    {"tokens", e.tokens},
                    {"last_hit", e.last_hit},
                    {"hits", e.hits},
                    {"citations", e.citations},
                    {"in_prompt", e.in_prompt}});
  }
  return json{{"version", kVersion}, {"entries", std::move(list)}}.dump(
      -1, ' ', false, json::error_handler_t::replace);
}

Ledger Ledger::from_json(const std::string& text) {
  auto bad = [](const std::string& why) {
    return Error(ErrorKind::kBadData, "evidence ledger: " + why,
                 "the session's file is damaged; restore a copy");
  };
  if (text.size() > kMaxJson) throw bad("larger than 64 MiB");
  json root = json::parse(
      text, [](int depth, json::parse_event_t, json&) { return depth < kMaxDepth; }, false);
  if (!root.is_object()) throw bad("not a JSON object");
  Ledger ledger;
  try {
    if (root.at("version").get<int>() != kVersion)
      throw bad("version is not " + std::to_string(kVersion));
    for (const json& j : root.at("entries")) {
      LedgerEntry e;
      Passage& p = e.passage;
      p.id = j.at("id").get<int>();
      if (p.id != ledger.next_id()) throw bad("ids do not count up from 1");
      p.document = j.at("document").get<int64_t>();
      p.collection = j.at("collection").get<std::string>();
      p.path = j.at("path").get<std::string>();
      p.title = j.at("title").get<std::string>();
      p.heading_path = j.at("heading_path").get<std::string>();
      p.begin = j.at("begin").get<size_t>();
      p.end = j.at("end").get<size_t>();
      if (p.begin > p.end) throw bad("a range ends before it begins");
      p.from = anchor_of(j.at("from"));
      p.to = anchor_of(j.at("to"));
      p.text = j.at("text").get<std::string>();
      p.source_text = j.at("source_text").get<std::string>();
      p.score = j.at("score").get<double>();
      p.chunk_rank = j.at("chunk_rank").get<int>();
      e.turn = j.at("turn").get<int>();
      e.tokens = j.at("tokens").get<int>();
      e.last_hit = j.at("last_hit").get<int>();
      e.hits = j.at("hits").get<int>();
      e.citations = j.at("citations").get<int>();
      e.in_prompt = j.at("in_prompt").get<bool>();
      if (e.tokens < 0 || e.hits < 0 || e.citations < 0) throw bad("a count is negative");
      if (!ledger.entries_.empty() && e.turn < ledger.entries_.back().turn)
        throw bad("turns go backwards");
      ledger.entries_.push_back(std::move(e));
    }
  } catch (const json::exception& e) {
    throw bad(e.what());
  }
  return ledger;
}

}  // namespace apud
