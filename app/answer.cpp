#include "app/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <set>

#include "app/clock.h"
#include "app/json_text.h"
#include "app/progress.h"
#include "app/prompts.h"
#include "app/rerank.h"
#include "app/reword.h"
#include "app/signals.h"
#include "base/utf8.h"

namespace apud {

namespace {

constexpr size_t kRefusalBytes = 200;  // of an answer, by which a refusal is told
constexpr size_t kNearestPlaces = 5;   // named where nothing was answered

}  // namespace

std::string place_of(const std::string& path, const Anchor& at) {
  std::string out = path;
  if (!at.member.empty()) out += " › " + printable(at.member, true);
  if (at.page > 0) return out + fmt::format(" p. {}", at.page);
  if (at.line > 0) return out + fmt::format(":{}", at.line);
  return out;
}

RetrieveOptions retrieve_options(const Settings& settings) {
  RetrieveOptions options;
  if (settings.dense_weight >= 0) options.dense_weight = settings.dense_weight;
  return options;
}

Evidence search_evidence(Runtime& runtime, const EvidenceRequest& request) {
  Evidence evidence;
  evidence.budget = request.evidence_tokens;
  if (evidence.budget == runtime.evidence_tokens()) evidence.why_less = runtime.evidence_note();
  bool nothing = true;
  if (!request.collections.empty()) {
    RetrieveOptions retrieve = retrieve_options(runtime.options.settings);
    retrieve.k = request.k;
    retrieve.previous_question = request.previous_question;
    if (runtime.options.settings.expand == "on") {
      evidence.imagined = imagine_answer(runtime, request.question);
      retrieve.also.push_back(evidence.imagined);
    }
    evidence.retrieval = runtime.retriever(request.collections)
                             .retrieve(request.question, request.collections, retrieve);
    if (!evidence.retrieval->below_line)
      evidence.reranked = rerank_hits(runtime, request, *evidence.retrieval, evidence.warnings);
    for (const std::string& warning : evidence.retrieval->warnings)
      evidence.warnings.push_back(warning);
    nothing = evidence.retrieval->hits.empty() || evidence.retrieval->below_line;
    evidence.abstained = nothing && request.texts.empty();
  }
  evidence.found = !nothing || !request.texts.empty();
  return evidence;
}

void pack_evidence(Runtime& runtime, const Conversation& conversation,
                   const EvidenceRequest& request, Evidence& evidence) {
  int limit = request.context - request.answer_tokens;
  int fixed = conversation.measure(request.question, "");
  int budget = std::min(evidence.budget, limit - fixed);
  if (budget < 64) {
    throw Error(ErrorKind::kUsage,
                fmt::format("no room for passages: window {} tokens, answer reserve {}, "
                            "conversation and question {}",
                            request.context, request.answer_tokens, fixed),
                "raise --ctx, lower --max-tokens, or start a new conversation");
  }
  bool search =
      evidence.retrieval && !evidence.retrieval->hits.empty() && !evidence.retrieval->below_line;
  const TokenCounter& counter = runtime.counter();
  PackOptions pack;
  pack.first_id = request.ledger ? request.ledger->next_id() : 1;
  if (request.ledger) pack.sent = request.ledger->sent();
  pack.sentence_vector_tokens = kSentenceVectorTokens;
  // The frame and the joints between the parts cost tokens that packing cannot see; what the whole
  // turn really takes is measured, and packing repeated with the difference taken off.
  evidence.budget = budget;
  for (int round = 0;; ++round) {
    evidence.packed = Packed{};
    PackOptions options = pack;
    options.budget = budget - request.recalled.tokens;
    options.first_id += static_cast<int>(request.recalled.passages.size());
    evidence.packed.passages = request.recalled.passages;
    for (const NamedText& text : request.texts) {
      Packed part = runtime.packer(request.collections)
                        .pack_text(text.name, text.text, request.question, counter, options);
      options.budget -= part.tokens;
      options.first_id += static_cast<int>(part.passages.size());
      for (Passage& passage : part.passages) evidence.packed.passages.push_back(std::move(passage));
      for (LeftOut& left : part.left_out) evidence.packed.left_out.push_back(std::move(left));
    }
    if (search && options.budget > 32) {
      Packed part = runtime.packer(request.collections)
                        .pack(evidence.retrieval->hits, request.question, counter, options);
      for (Passage& passage : part.passages) evidence.packed.passages.push_back(std::move(passage));
      for (LeftOut& left : part.left_out) evidence.packed.left_out.push_back(std::move(left));
      evidence.packed.referred = part.referred;
    }
    evidence.packed.referred.insert(evidence.packed.referred.end(),
                                    request.recalled.referred.begin(),
                                    request.recalled.referred.end());
    evidence.packed.evidence = render_evidence(evidence.packed.passages);
    evidence.packed.tokens = counter.count(evidence.packed.evidence);
    evidence.frame = evidence_frame(evidence.packed.evidence, request.question);
    int total = conversation.measure(request.question, evidence.frame);
    if (total <= limit || evidence.packed.passages.empty()) break;
    int over = total - limit;
    budget -= over + 8 * round;
    if (budget < 32) {
      evidence.packed = Packed{};
      evidence.frame.clear();
      evidence.warnings.push_back("no room for passages in the window");
      break;
    }
  }
}

void warn_left_out(Evidence& evidence) {
  int tokens = 0;
  for (const LeftOut& left : evidence.packed.left_out) {
    if (left.reason == "budget") tokens += left.tokens;
  }
  if (tokens > 0) {
    evidence.warnings.push_back(
        fmt::format("{} tokens of lesser passages left out (budget {}{}); --evidence raises it",
                    tokens, evidence.budget, evidence.why_less));
  }
}

Evidence gather_evidence(Runtime& runtime, const Conversation& conversation,
                         const EvidenceRequest& request) {
  Evidence evidence = search_evidence(runtime, request);
  if (evidence.abstained && request.retry) retry_search(runtime, request, evidence);
  if (evidence.found) pack_evidence(runtime, conversation, request, evidence);
  warn_left_out(evidence);
  return evidence;
}

std::vector<Passage> citable(const Finished& finished) {
  std::vector<Passage> passages = finished.pinned;
  for (const Passage& passage : finished.evidence.packed.passages) passages.push_back(passage);
  return passages;
}

Citing citing(const Finished& finished) {
  if (!finished.evidence.found) return Citing::kReply;
  const std::vector<Passage>& packed = finished.evidence.packed.passages;
  bool searched = finished.evidence.retrieval &&
                  std::all_of(packed.begin(), packed.end(),
                              [](const Passage& passage) { return passage.document > 0; });
  return searched ? Citing::kMust : Citing::kMay;
}

std::string AnswerStream::push(std::string_view text) {
  if (!cites_) return std::string(text);
  if (beginning_.size() < kRefusalBytes) beginning_ += text;
  return citations_.push(attribution_.push(text));
}

std::string AnswerStream::finish() {
  if (!cites_) return {};
  std::string shown = citations_.push(attribution_.finish(says_not_in_documents(beginning_)));
  return shown + citations_.finish();
}

void check_finished(Finished& finished, const Completion& completion,
                    std::span<const Passage> passages) {
  finished.reasoning = completion.reasoning;
  if (passages.empty()) {
    finished.checked.text = completion.text;
    return;
  }
  finished.refused = says_not_in_documents(completion.text);
  finished.checked = check_answer(
      finished.refused ? completion.text : attribute(completion.text, passages, citing(finished)),
      passages);
  if (finished.refused) finished.checked.citations.clear();
  bool empty = completion.text.find_first_not_of(" \n") == std::string::npos;
  if (citing(finished) == Citing::kMust && !finished.refused && !empty &&
      finished.checked.citations.empty()) {
    finished.refused = true;
    finished.warnings.push_back(
        "no passage holds the words of this answer: it is not from the documents");
  }
  finished.citation_failed = finished.checked.quotes_failed > 0 || finished.checked.invented > 0;
  for (const Citation& citation : finished.checked.citations)
    finished.citation_failed |= !citation.verified;
  if (int failed = finished.checked.quotes_failed) {
    finished.warnings.push_back(failed == 1
                                    ? "a quote in the answer is not in the passage it cites"
                                    : fmt::format("{} quotes in the answer are not in the passages "
                                                  "they cite",
                                                  failed));
  }
}

std::string legend_text(const CheckedAnswer& checked) {
  std::string out;
  for (Citation citation : checked.citations) {
    citation.path = shown_path(citation.path);
    out += legend_line(citation) + (citation.verified ? "\n" : "  (not verified)\n");
  }
  return out;
}

void say_retry(Terminal& terminal, const Evidence& evidence) {
  if (evidence.retried.empty() || evidence.abstained) return;
  terminal.note(fmt::format("nothing on the question as asked; searched instead: {}",
                            evidence.retrieval->query));
}

std::string nearest_text(const Evidence& evidence) {
  if (!evidence.retrieval) return {};
  std::string out;
  std::set<std::string> said;  // one place for each heading of a file
  for (const Hit& hit : evidence.retrieval->hits) {
    const std::string& heading = hit.heading_path.empty() ? hit.title : hit.heading_path;
    if (!said.insert(hit.path + "\n" + heading).second) continue;
    out += "  " + place_of(shown_path(hit.path), hit.from);
    if (!heading.empty()) out += " · " + printable(heading, true);
    out += "\n";
    if (said.size() == kNearestPlaces) break;
  }
  return out.empty() ? out : "Nearest:\n" + out;
}

std::string not_in_documents_text(const Evidence& evidence) {
  std::string out = "Not in the documents.\n";
  if (!evidence.retried.empty()) {
    out += "Searched also:\n";
    for (const std::string& question : evidence.retried) out += "  " + question + "\n";
  }
  return out + nearest_text(evidence);
}

namespace {

ordered_json citation_json(const Citation& c) {
  ordered_json out = {{"id", c.number}, {"path", c.path}};
  if (!c.member.empty()) out["member"] = c.member;
  out["page"] = c.page > 0 ? ordered_json(c.page) : ordered_json();
  if (c.page_end > c.page) out["page_end"] = c.page_end;
  out["line"] = c.line > 0 ? ordered_json(c.line) : ordered_json();
  out["line_end"] = c.line_end > 0 ? ordered_json(c.line_end) : ordered_json();
  out["start"] = c.start;
  out["end"] = c.end;
  out["quote"] = c.quote;
  out["verified"] = c.verified;
  return out;
}

ordered_json hit_json(const Hit& hit) {
  // Places, not words: a trace goes with the documents that were in the prompt, not with
  // candidates.
  ordered_json out = {{"rank", hit.rank},
                      {"path", hit.path},
                      {"line", hit.from.line},
                      {"page", hit.from.page},
                      {"score", hit.score}};
  if (!hit.from.member.empty()) out["member"] = hit.from.member;
  out["dense"] = hit.dense ? ordered_json(*hit.dense) : ordered_json();
  out["bm25"] = hit.bm25 ? ordered_json(*hit.bm25) : ordered_json();
  if (hit.match) out["match"] = *hit.match;
  if (hit.odds) out["odds"] = *hit.odds;
  return out;
}

ordered_json retrieval_json(const Evidence& evidence) {
  ordered_json out = ordered_json::object();
  if (!evidence.retrieval) return out;
  const Retrieval& r = *evidence.retrieval;
  out["query"] = r.query;
  if (!r.joined_query.empty()) out["joined_query"] = r.joined_query;
  if (!evidence.imagined.empty()) out["imagined"] = evidence.imagined;
  if (!evidence.retried.empty()) out["retried"] = evidence.retried;
  if (evidence.over_all) {
    const OverAllSummary& all = *evidence.over_all;
    out["over_all"] = {{"documents", all.documents},
                       {"parts", all.parts},
                       {"parts_with_notes", all.parts_with_notes},
                       {"notes_left_out", all.notes_left_out}};
  }
  out["candidates"] = r.hits.size();
  if (evidence.reranked > 0) out["reranked"] = evidence.reranked;
  out["best_dense"] = r.best_dense;
  out["relevance"] = r.relevance;
  out["abstain_line"] = r.abstain_line;
  out["below_line"] = r.below_line;
  out["passages"] = evidence.packed.passages.size();
  out["evidence_tokens"] = evidence.packed.tokens;
  out["budget"] = evidence.budget;
  out["left_out"] = evidence.packed.left_out.size();
  return out;
}

}  // namespace

std::string answer_json(const Finished& f, bool with_reasoning) {
  ordered_json out;
  out["schema"] = kJsonSchema;
  out["id"] = f.id.empty() ? ordered_json() : ordered_json(f.id);
  out["answer"] = f.checked.text;
  out["citations"] = ordered_json::array();
  for (const Citation& citation : f.checked.citations)
    out["citations"].push_back(citation_json(citation));
  out["retrieval"] = retrieval_json(f.evidence);
  ordered_json receipt = parse_json(receipt_json(f.answer.receipt));
  out["usage"] = receipt.value("usage", ordered_json::object());
  out["timing"] = receipt.value("timing", ordered_json::object());
  for (const char* part :
       {"cache_break", "tiers", "refined", "dropped_turns", "ignored_files", "not_saved"}) {
    if (receipt.contains(part)) out[part] = receipt[part];
  }
  out["model"] = f.model;
  out["seed"] = f.answer.receipt.seed;
  bool ran = !f.answer.completions.empty();
  out["finish_reason"] = ran ? finish_reason_name(f.answer.best().finish_reason) : "refused";
  out["no_evidence"] = f.refused;
  if (with_reasoning && !f.reasoning.empty()) out["reasoning"] = f.reasoning;
  if (ran && f.answer.best().score) {
    out["beams"] = ordered_json::array();
    for (const Completion& c : f.answer.completions) {
      out["beams"].push_back({{"text", c.text},
                              {"score", *c.score},
                              {"finish_reason", finish_reason_name(c.finish_reason)}});
    }
  } else if (f.answer.completions.size() > 1) {
    out["samples"] = ordered_json::array();
    for (const Completion& completion : f.answer.completions)
      out["samples"].push_back(completion.text);
  }
  ordered_json unsupported = ordered_json::array();
  for (const Unsupported& u : f.checked.unsupported)
    unsupported.push_back({{"start", u.begin}, {"end", u.end}, {"reason", u.reason}});
  out["unsupported"] = unsupported;
  out["warnings"] = f.warnings;
  return dump_json(out);
}

std::string shown_answer(const std::string& json) {
  ordered_json answer = parse_json(json);
  if (!answer.is_object() || !answer.contains("answer") || !answer["answer"].is_string()) return {};
  auto number = [](const ordered_json& from, const char* name) {
    return from.contains(name) && from[name].is_number_integer() ? from[name].get<int>() : 0;
  };
  auto text = [](const ordered_json& from, const char* name) {
    return from.contains(name) && from[name].is_string() ? from[name].get<std::string>() : "";
  };
  CheckedAnswer checked;
  if (answer.contains("citations") && answer["citations"].is_array()) {
    for (const ordered_json& c : answer["citations"]) {
      if (!c.is_object()) continue;
      Citation citation;
      citation.number = number(c, "id");
      citation.path = text(c, "path");
      citation.member = text(c, "member");
      citation.page = number(c, "page");
      citation.page_end = number(c, "page_end");
      citation.line = number(c, "line");
      citation.line_end = number(c, "line_end");
      citation.verified = c.contains("verified") && c["verified"] == true;
      checked.citations.push_back(std::move(citation));
    }
  }
  std::string legend = legend_text(checked);
  if (legend.empty()) return text(answer, "answer");
  legend.pop_back();  // its last newline
  return text(answer, "answer") + "\n\n" + legend;
}

std::string trace_json(const Finished& f, const std::string& prompt_text) {
  ordered_json out = parse_json(answer_json(f, true));
  ordered_json candidates = ordered_json::array();
  if (f.evidence.retrieval) {
    for (const Hit& hit : f.evidence.retrieval->hits) candidates.push_back(hit_json(hit));
  }
  out["candidates"] = candidates;
  ordered_json passages = ordered_json::array();
  for (const Passage& p : f.evidence.packed.passages) {
    passages.push_back({{"id", p.id},
                        {"path", p.path},
                        {"line", p.from.line},
                        {"page", p.from.page},
                        {"member", p.from.member},
                        {"start", p.begin},
                        {"end", p.end},
                        {"score", p.score},
                        {"rank", p.chunk_rank},
                        {"text", p.text}});
  }
  out["passages"] = passages;
  ordered_json left = ordered_json::array();
  for (const LeftOut& l : f.evidence.packed.left_out) {
    left.push_back({{"place", place_of(l.path, l.from)},
                    {"score", l.score},
                    {"tokens", l.tokens},
                    {"reason", l.reason}});
  }
  out["left_out"] = left;
  out["prompt"] = prompt_text;
  return dump_json(out);
}

std::string keep_answer(Runtime& runtime, Finished& f, const std::string& session,
                        const std::string& prompt_text) {
  if (!f.evidence.retrieval) return {};
  try {
    Store& store = runtime.writer();
    WriteLock lock(store);
    AnswerRecord record;
    record.created = unix_now();
    record.session = session;
    record.question = f.question;
    record.answer = f.checked.text;
    std::set<int64_t> documents;
    for (const Passage& passage : f.evidence.packed.passages) {
      if (passage.document > 0) documents.insert(passage.document);
    }
    for (const Passage& passage : f.pinned) documents.insert(passage.document);
    for (const Citation& citation : f.checked.citations) {
      if (citation.document > 0) documents.insert(citation.document);
    }
    record.documents.assign(documents.begin(), documents.end());
    record.trace = trace_json(f, prompt_text);
    f.id = store.save_answer(lock, std::move(record));
    return f.id;
  } catch (const Error& e) {
    // The answer stands without its trace: another process is writing, or the folder is read-only.
    f.warnings.push_back(std::string("not kept for apud explain: ") + e.what());
    return {};
  }
}

std::vector<std::string> evidence_tags(std::span<const Passage> passages) {
  std::set<std::string> tags;
  for (const Passage& passage : passages) {
    if (passage.document > 0) tags.insert(fmt::format("doc:{}", passage.document));
  }
  return {tags.begin(), tags.end()};
}

}  // namespace apud
