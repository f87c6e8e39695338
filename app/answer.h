// One question to one answer: evidence, prompt, generation, citations. Shared by ask, chat and
// batch.
//
// Threads: one thread.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/named_texts.h"
#include "app/runtime.h"
#include "engine/conversation.h"
#include "rag/attribution.h"
#include "rag/citations.h"
#include "rag/ledger.h"
#include "rag/packer.h"
#include "rag/retriever.h"

namespace apud {

/// What reading every document came to (app/over_all.h).
struct OverAllSummary {
  int documents = 0;
  int parts = 0;             // prompts that read them
  int parts_with_notes = 0;  // of these, with something on the question
  int notes_left_out = 0;    // for want of room in the last prompt
};

/// What was found for a question, ready to be put before it.
struct Evidence {
  std::optional<Retrieval> retrieval;  // absent: nothing was searched
  bool found = false;                  // there is something to pack
  Packed packed;                       // new passages; empty where nothing was found or needed
  std::string frame;                   // evidence_frame of them, "" for none
  int budget = 0;                      // tokens that were allowed
  std::string why_less;                // than the default, as Runtime::evidence_note() says it
  bool abstained = false;              // searched, and the best score stays under the line
  std::optional<OverAllSummary> over_all;
  std::string imagined;              // with --expand: what was searched beside the question
  int reranked = 0;                  // hits that the chat model judged
  std::vector<std::string> retried;  // other wordings that were searched then (app/reword.h)
  std::vector<std::string> warnings;
};

/// Tokens of candidate sentences that get vectors for a question where the embedder has no tokens
/// of its own to match: 4,000 and 10,000 packed no more of the answers (docs/performance.md).
inline constexpr int kSentenceVectorTokens = 2500;

struct EvidenceRequest {
  std::string question;
  std::string previous_question;  // chat: the user turn before
  std::vector<NamedText> texts;   // -f
  std::vector<std::string> collections;
  const Ledger* ledger = nullptr;  // what the conversation holds already
  Packed recalled;                 // from earlier chats, ids from the ledger's next on
  int evidence_tokens = 2000;
  int answer_tokens = 600;
  int context = kDefaultContext;
  int k = 50;          // hits that are packed from
  bool retry = false;  // under the abstain line the chat model rewords the question once
};
/// What the settings say about a search.
RetrieveOptions retrieve_options(const Settings& settings);
/// Searches: everything but packed and frame.
Evidence search_evidence(Runtime& runtime, const EvidenceRequest& request);
/// Packs what was found (again, with another request) so that conversation + question + evidence +
/// answer reserve fit the window.
void pack_evidence(Runtime& runtime, const Conversation& conversation,
                   const EvidenceRequest& request, Evidence& evidence);
/// Says in the warnings what found no room.
void warn_left_out(Evidence& evidence);
/// All three.
Evidence gather_evidence(Runtime& runtime, const Conversation& conversation,
                         const EvidenceRequest& request);

/// A finished answer with everything that output needs.
struct Finished {
  std::string id;  // of the answer record; empty: not kept
  std::string question;
  CheckedAnswer checked;
  std::string reasoning;
  Answer answer;
  Evidence evidence;
  std::vector<Passage> pinned;  // in the system prompt
  std::string model;
  std::vector<std::string> warnings;
  bool refused = false;          // by the abstain line or by the model: no evidence
  bool citation_failed = false;  // a quote or citation does not hold
};

/// An answer to a search has to cite; not one to a turn that brought no passages ("thanks",
/// "shorter"), and not where texts were given ("translate this").
Citing citing(const Finished& finished);

/// What a question of its own (ask, batch) may cite: pinned documents, then what was packed.
std::vector<Passage> citable(const Finished& finished);

/// What stands between the model and the reader: marks added where a passage bears a sentence, ids
/// turned into shown numbers, inventions dropped. Without passages text passes as it is.
class AnswerStream {
 public:
  AnswerStream(std::span<const Passage> passages, Citing citing)
      : cites_(!passages.empty()), attribution_(passages, citing), citations_(passages) {}
  std::string push(std::string_view text);
  std::string finish();

 private:
  bool cites_;
  std::string beginning_;  // as far as a refusal shows
  AttributionStream attribution_;
  CitationStream citations_;
};

/// The same for a finished answer: fills checked, refused and citation_failed.
void check_finished(Finished& finished, const Completion& completion,
                    std::span<const Passage> passages);

/// "path p. 3", "path:12", "path › member:12".
std::string place_of(const std::string& path, const Anchor& at);
/// The legend after an answer, one line per citation, "" for none.
std::string legend_text(const CheckedAnswer& checked);
/// Where another wording found the evidence: one line that says which.
void say_retry(Terminal& terminal, const Evidence& evidence);
/// Where the best that was found stands, for a reader who gets no answer; "" where nothing was
/// searched.
std::string nearest_text(const Evidence& evidence);
/// What is said instead of an answer when the abstain line decides.
std::string not_in_documents_text(const Evidence& evidence);
/// docs/json.md: answer.
std::string answer_json(const Finished& finished, bool with_reasoning);
/// Text and legend as the reader saw them, from what answer_json wrote; empty where it is none.
std::string shown_answer(const std::string& answer_json);
/// The trace that `apud explain` reads.
std::string trace_json(const Finished& finished, const std::string& prompt_text);
/// Keeps the answer in the store; "" when the store is busy or read-only (said as a warning).
std::string keep_answer(Runtime& runtime, Finished& finished, const std::string& session,
                        const std::string& prompt_text);
/// Tags of the pages made from this evidence, for removal with their documents.
std::vector<std::string> evidence_tags(std::span<const Passage> passages);

}  // namespace apud
