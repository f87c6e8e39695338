#include "app/reword.h"

#include <algorithm>
#include <cctype>

#include "app/rerank.h"
#include "app/side_prompt.h"
#include "base/utf8.h"

namespace apud {
namespace {

constexpr int kReplyTokens = 96;
constexpr int kImaginedTokens = 64;
constexpr size_t kMost = 2;
constexpr size_t kLongestRewording = 400;  // of a rewording: a longer one is chatter
constexpr size_t kLookedHits = 10;         // whose language counts

std::string_view trimmed(std::string_view text, std::string_view what) {
  size_t from = text.find_first_not_of(what);
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(what) - from + 1);
}

/// Letters, digits and Han only, lower case: "the same question" whatever its punctuation.
std::string bare(std::string_view text) {
  std::string out;
  for (unsigned char c : text) {
    if (c >= 0x80 || std::isalnum(c)) out += static_cast<char>(std::tolower(c));
  }
  return out;
}

}  // namespace

std::vector<std::string> parse_rewordings(std::string_view reply, std::string_view question) {
  auto asks = [](std::string_view text) { return text.ends_with('?') || text.ends_with("？"); };
  const bool asked = asks(trimmed(question, " \t\r\n"));
  std::vector<std::string> found;
  std::vector<std::string> seen = {bare(question)};
  while (!reply.empty() && found.size() < kMost) {
    size_t end = std::min(reply.find('\n'), reply.size());
    std::string_view line = reply.substr(0, end);
    reply.remove_prefix(std::min(end + 1, reply.size()));
    // "1. …", "Line 2: …", "- …", quotes around the whole.
    line = trimmed(line, " \t\r-*\"'`");
    for (std::string_view label : {"Line ", "line ", "Chinese", "English"}) {
      size_t colon = line.find(':');
      if (line.starts_with(label) && colon != std::string_view::npos && colon < label.size() + 4)
        line.remove_prefix(colon + 1);
    }
    size_t digits = line.find_first_not_of("0123456789");
    if (digits != std::string_view::npos && digits > 0 && digits < 3 &&
        std::string_view(".):").find(line[digits]) != std::string_view::npos)
      line.remove_prefix(digits + 1);
    line = trimmed(line, " \t\"'`");
    if (asked && !asks(line)) continue;
    std::string key = bare(line);
    if (key.empty() || line.size() > kLongestRewording) continue;
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    seen.push_back(std::move(key));
    found.emplace_back(line);
  }
  return found;
}

std::vector<std::string> reword_question(Runtime& runtime, std::string_view question,
                                         const std::vector<Hit>& hits) {
  const bool han = holds_cjk(question);
  bool own = false, other = false;  // languages of what was found
  for (size_t i = 0; i < std::min(hits.size(), kLookedHits); ++i)
    (holds_cjk(hits[i].text) == han ? own : other) = true;
  std::vector<std::string> found;
  // A prompt each: asked for both in one, small models answer the question or say it again. Half
  // translated is not: its words would be held against the other language's line.
  auto ask = [&](std::string_view system, std::string prompt, bool in_han) {
    prompt += "\n\n" + std::string(question);
    for (std::string& text : parse_rewordings(
             side_reply(runtime, std::string(system), prompt, kReplyTokens), question)) {
      if (holds_cjk(text) != in_han) continue;
      found.push_back(std::move(text));
      return;
    }
  };
  if (other) {
    ask("You translate questions.",
        std::string("Translate this question into ") + (han ? "English" : "Chinese (中文)") +
            ". Reply with the translation only.",
        !han);
  }
  if (own) {
    ask("You word search queries.",
        std::string("A search for this question found nothing. Say the question again so that a "
                    "search may find its answer: in other words, as a manual would put it. One "
                    "line, ") +
            (han ? "in Chinese (中文)." : "in the language of the question.") +
            " Write nothing else.",
        han);
  }
  return found;
}

std::string imagine_answer(Runtime& runtime, std::string_view question) {
  std::string text = side_reply(
      runtime,
      "You help a search engine. Do not talk to the user. Write one or two sentences as they would "
      "stand in the manual that answers the question, in the language of the question, with the "
      "technical terms, program names and file names that it would use.",
      "Question: " + std::string(question), kImaginedTokens);
  std::replace(text.begin(), text.end(), '`', ' ');
  return text;
}

void retry_search(Runtime& runtime, const EvidenceRequest& request, Evidence& evidence) {
  if (!evidence.abstained || !evidence.retrieval || evidence.retrieval->hits.empty()) return;
  evidence.retried = reword_question(runtime, request.question, evidence.retrieval->hits);
  std::optional<Retrieval> best;
  for (const std::string& question : evidence.retried) {
    RetrieveOptions options = retrieve_options(runtime.options.settings);
    options.k = request.k;
    Retrieval found =
        runtime.retriever(request.collections).retrieve(question, request.collections, options);
    if (found.hits.empty() || found.below_line) continue;
    if (!best || found.relevance - found.abstain_line > best->relevance - best->abstain_line)
      best = std::move(found);
  }
  if (!best) return;
  evidence.reranked = rerank_hits(runtime, request, *best, evidence.warnings);
  evidence.retrieval = std::move(best);
  evidence.abstained = false;
  evidence.found = true;
}

}  // namespace apud
