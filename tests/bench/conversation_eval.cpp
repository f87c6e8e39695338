// Scripted conversations through the product's own turn (app/chat_turn.h): is the needed passage in
// the window, how much of each prompt was there before, how often was it rebuilt, are the answers
// right. Driven by scripts/eval-conversations, which writes the tables.
//
// Answers are the model's, or scripted ones: the sentence that the script's gold string stands in,
// cited, when it is in the window, else that it is not known. The second need no model run: prompts
// and their reuse do not depend on who wrote the answers.
//
// Every turn is a JSON line in --out; a rerun goes on after the last whole conversation.
//
// With --save the conversations become sessions named by their ids; with --memory each line of
// --scripts is a question to a new chat that recalls from them.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>

#include "app/chat_turn.h"
#include "app/cli.h"
#include "app/generation.h"
#include "app/prompts.h"
#include "base/error.h"
#include "rag/chunker.h"
#include "rag/recall.h"

namespace apud {
namespace {

using nlohmann::ordered_json;

struct Arguments {
  std::string scripts, out, model, only;
  bool afresh = false;    // passages pasted anew each turn instead of the ledger
  bool scripted = false;  // answers
  bool save = false;
  bool memory = false;
  bool ids = false;  // of the prompt, in every line
  int context = 4096;
  int reserve = 600;     // tokens kept free for an answer
  int max_tokens = 100;  // that an answer may really have
  int threads = 0;       // 0: as many as the program takes by itself; changes no answer
};

std::string squeezed(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c != ' ' && c != '\n' && c != '\t' && c != '\r') out += c;
  }
  return out;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return text;
}

/// The passage of the window that shows a gold text ("file#text"), or null.
const Passage* holder(const std::vector<Passage>& window, const ordered_json& golds) {
  for (const auto& gold : golds) {
    std::string whole = gold.get<std::string>();
    size_t mark = whole.find('#');
    std::string file = "/" + whole.substr(0, mark), text = squeezed(whole.substr(mark + 1));
    for (const Passage& passage : window) {
      if (passage.path.ends_with(file) && squeezed(passage.text).find(text) != std::string::npos)
        return &passage;
    }
  }
  return nullptr;
}

/// The sentence of the passage that shows the gold text.
std::string gold_sentence(const Passage& passage, const ordered_json& golds) {
  for (const Sentence& s : split_sentences(passage.text)) {
    std::string text = passage.text.substr(s.begin, s.end - s.begin);
    for (const auto& gold : golds) {
      std::string whole = gold.get<std::string>();
      if (squeezed(text).find(squeezed(whole.substr(whole.find('#') + 1))) != std::string::npos)
        return text;
    }
  }
  return passage.text.substr(0, 200);
}

class Evaluation {
 public:
  explicit Evaluation(const Arguments& a) : a_(a), terminal_(TerminalState{}) {
    Options options;
    options.verb = "chat";
    options.settings = load_settings();
    options.settings.model = a.model;
    options.settings.ctx = a.context;
    options.settings.threads = a.threads;
    options.settings.evidence = 2000;  // on any machine
    runtime_ = std::make_unique<Runtime>(options, terminal_);
    runtime_->want_engine({.save = false});
  }

  void run(const ordered_json& script, std::ofstream& out) {
    const std::vector<std::string>& collections = runtime_->collections();
    ChatSession session(runtime_->chat_model().model, a_.model, a_.save);
    session.start(
        a_.save ? script["id"].get<std::string>() : "",
        make_opening(*runtime_, std::string(system_with_documents()), collections, a_.reserve),
        collections);
    int number = 0;
    for (const auto& asked : script["turns"]) {
      ++number;
      ordered_json row = turn(session, asked, collections);
      ordered_json line = {{"conversation", script["id"]}, {"turn", number}};
      line["back"] = asked.contains("back");
      line.update(row);
      out << line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << std::endl;
    }
  }

  /// What a new chat without documents recalls for a question.
  void recall(const ordered_json& asked, std::ofstream& out) {
    if (!memory_) {
      memory_.emplace(*runtime_);
      std::string warning = memory_->sync();
      if (!warning.empty()) throw Error(ErrorKind::kBusy, warning);
    }
    ChatSession session(runtime_->chat_model().model, a_.model, false);
    Opening opening;
    opening.system = std::string(system_without_documents());
    session.start("", opening, {});
    TurnRequest request;
    request.question = asked["question"];
    request.memory = &*memory_;
    PreparedTurn prepared = prepare_turn(*runtime_, session, request);
    ordered_json line = asked;
    line["recalled"] = ordered_json::array();
    for (const Passage& p : prepared.finished.evidence.packed.passages)
      line["recalled"].push_back({{"conversation", p.title}, {"round", p.heading_path}});
    line["hits"] = ordered_json::array();
    std::vector<std::string> collections = {kMemoryCollection};
    RetrieveOptions options;
    options.k = 5;
    for (const Hit& hit :
         runtime_->retriever(collections).retrieve(request.question, collections, options).hits) {
      RecallEvidence evidence = recall_evidence(runtime_->store(), hit, request.question);
      line["hits"].push_back({{"round", hit.heading_path},
                              {"score", hit.score},
                              {"cosine", evidence.cosine},
                              {"overlap", evidence.overlap}});
    }
    out << line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << std::endl;
  }

 private:
  PreparedTurn prepare(ChatSession& session, const std::string& question,
                       const std::vector<std::string>& collections) {
    if (!a_.afresh) {
      TurnRequest request;
      request.question = question;
      request.collections = collections;
      request.answer_tokens = a_.reserve;
      return prepare_turn(*runtime_, session, request);
    }
    // What others do: history without its passages, then the passages of this question.
    Conversation& conversation = session.conversation();
    std::vector<std::string> bare(conversation.turns().size());
    conversation.set_window(conversation.data().first_turn, bare);
    EvidenceRequest request;
    request.question = question;
    request.previous_question = previous_;
    request.collections = collections;
    request.evidence_tokens = runtime_->evidence_tokens();
    request.answer_tokens = a_.reserve;
    request.context = a_.context;
    PreparedTurn prepared;
    prepared.finished.question = question;
    prepared.finished.evidence = gather_evidence(*runtime_, conversation, request);
    conversation.add_user(question, prepared.finished.evidence.frame, 0);
    prepared.prompt = conversation.prompt(a_.context - a_.reserve);
    return prepared;
  }

  ordered_json turn(ChatSession& session, const ordered_json& asked,
                    const std::vector<std::string>& collections) {
    std::string question = asked["question"];
    PreparedTurn prepared = prepare(session, question, collections);
    previous_ = question;
    Finished& finished = prepared.finished;
    std::vector<Passage> window = finished.evidence.packed.passages;
    int in_ledger = 0;
    if (!a_.afresh) {
      for (const LedgerEntry& entry : session.ledger().entries()) {
        if (entry.in_prompt) window.push_back(entry.passage);
      }
      in_ledger = session.ledger().prompt_tokens();
    }
    const Passage* gold = holder(window, asked["gold"]);
    Completion completion = finished.evidence.abstained ? refusal()
                            : a_.scripted               ? scripted(gold, asked["gold"])
                                                        : generated(prepared, session, finished);
    std::vector<Passage> citable = window;
    if (finished.evidence.abstained) {
      finished.refused = true;
      finished.checked.text = completion.text;
    } else {
      check_finished(finished, completion, citable);
    }
    if (a_.afresh) finished.evidence.packed = Packed{};
    session.finish_round(finished, completion, runtime_->counter());

    bool right = false;
    for (const auto& answer : asked["answer"])
      right |=
          lower(squeezed(finished.checked.text)).find(lower(squeezed(answer.get<std::string>()))) !=
          std::string::npos;
    ordered_json row;
    if (a_.ids) row["ids"] = prepared.prompt.ids;
    row["in_window"] = gold != nullptr;
    row["fresh"] =
        gold && gold->chunk_rank >= 0 &&
        gold - window.data() < static_cast<ptrdiff_t>(finished.evidence.packed.passages.size());
    row["refused"] = finished.evidence.abstained;
    row["prompt"] = prepared.prompt.ids.size();
    row["reuse"] = prepared.prompt.expected_reuse;
    row["ledger"] = in_ledger;
    row["added"] = finished.evidence.packed.tokens;
    row["rebuilt"] = prepared.refined.has_value() || prepared.prompt.newly_dropped > 0;
    row["dropped_turns"] = prepared.prompt.dropped_turns;
    row["right"] = right;
    row["answer"] = finished.checked.text;
    if (!finished.answer.completions.empty()) {
      const Receipt& receipt = finished.answer.receipt;
      row["cached"] = receipt.usage.cached;
      row["computed"] = receipt.usage.computed;
      row["generated"] = receipt.usage.generated;
      row["ttft"] = receipt.timing.ttft;
    }
    return row;
  }

  Completion written(const std::string& text) {
    Completion completion;
    completion.text = text;
    completion.tokens = runtime_->chat_model().model->tokenizer().encode(text);
    return completion;
  }
  Completion refusal() { return written("Not in the documents."); }
  Completion scripted(const Passage* gold, const ordered_json& golds) {
    if (!gold) return written("I do not know.");
    return written(fmt::format("{} [{}]", gold_sentence(*gold, golds), gold->id));
  }
  Completion generated(const PreparedTurn& prepared, const ChatSession& session,
                       Finished& finished) {
    Request request;
    request.prompt = prepared.prompt.ids;
    request.max_tokens = a_.max_tokens;
    request.reasoning = prepared.prompt.reasoning;
    request.save = false;
    restrict_citations(request, *runtime_->chat_model().model, session.citable(finished));
    finished.answer = runtime_->engine().generate(std::move(request));
    return finished.answer.best();
  }

  const Arguments& a_;
  Terminal terminal_;
  std::unique_ptr<Runtime> runtime_;
  std::string previous_;
  std::optional<ChatMemory> memory_;
};

/// Conversations of which every turn is in the file.
std::set<std::string> complete(const std::string& path) {
  std::map<std::string, int> turns;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    auto json = ordered_json::parse(line, nullptr, false);
    if (json.is_object()) ++turns[json.value("conversation", "")];
  }
  std::set<std::string> done;
  for (const auto& [id, count] : turns) {
    if (count >= 10) done.insert(id);
  }
  return done;
}

int conversation_eval(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    auto value = [&]() -> std::string { return i + 1 < argc ? argv[++i] : ""; };
    if (word == "--scripts")
      a.scripts = value();
    else if (word == "--out")
      a.out = value();
    else if (word == "--model")
      a.model = value();
    else if (word == "--only")
      a.only = value();
    else if (word == "--afresh")
      a.afresh = true;
    else if (word == "--scripted")
      a.scripted = true;
    else if (word == "--save")
      a.save = true;
    else if (word == "--ids")
      a.ids = true;
    else if (word == "--memory")
      a.memory = true;
    else if (word == "--ctx")
      a.context = std::stoi(value());
    else if (word == "--reserve")
      a.reserve = std::stoi(value());
    else if (word == "--threads")
      a.threads = std::stoi(value());
    else if (word == "--max-tokens")
      a.max_tokens = std::stoi(value());
    else {
      std::cerr << "unknown " << word << "\n";
      return 2;
    }
  }
  std::set<std::string> done = complete(a.out);
  std::ofstream out(a.out, std::ios::app);
  std::ifstream in(a.scripts);
  Evaluation evaluation(a);
  for (std::string line; std::getline(in, line);) {
    auto script = ordered_json::parse(line);
    if (a.memory) {
      evaluation.recall(script, out);
      continue;
    }
    std::string id = script["id"];
    if (done.contains(id) || (!a.only.empty() && id.find(a.only) == std::string::npos)) continue;
    std::cerr << id << std::endl;
    evaluation.run(script, out);
  }
  return 0;
}

}  // namespace
}  // namespace apud

int main(int argc, char** argv) {
  try {
    return apud::conversation_eval(argc, argv);
  } catch (const apud::Error& e) {
    std::cerr << "error: " << e.what() << "\n  " << e.advice() << "\n";
    return 1;
  }
}
