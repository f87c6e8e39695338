// `apud chat`: the loop, its commands, one turn.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>

#include "app/chat_turn.h"
#include "app/generation.h"
#include "app/json_text.h"
#include "app/line_editor.h"
#include "app/live_answer.h"
#include "app/progress.h"
#include "app/prompts.h"
#include "app/runtime.h"
#include "app/signals.h"
#include "base/ascii.h"
#include "base/file.h"
#include "base/utf8.h"

namespace apud {

namespace {

/// Pages go to disk while the user reads; a prompt typed at once waits no longer than this.
constexpr int kSaveBetweenTurnsMs = 100;

/// What a shell would make of "~/talk.md".
Path home_expanded(const std::string& path) {
  const char* home = std::getenv("HOME");
  return path.starts_with("~/") && home && *home ? Path(home) / path.substr(2) : Path(path);
}

class Chat {
 public:
  explicit Chat(Runtime& runtime)
      : runtime_(runtime),
        terminal_(runtime.terminal),
        options_(runtime.options),
        session_(runtime.chat_model().model, runtime.chat_model().installed.id,
                 !runtime.options.chat.no_save) {}

  int run();

 private:
  struct Command {
    const char* name;
    const char* help;
    std::function<void(const std::string& rest)> run;
  };

  void open_session();
  void start_session(const std::string& wanted, const Opening& opening);
  void greet();
  /// False: leave the loop.
  bool handle(const std::string& input);
  int answer_tokens() const {
    return options_.generation.max_tokens.value_or(options_.settings.answer);
  }
  Think think() const { return options_.settings.think == "off" ? Think::kOff : Think::kOn; }
  void turn(const std::string& question, bool again);
  void take_back_question();
  Finished answer_turn(const std::string& question, bool again);
  void keep_round(Finished& finished, const Completion& completion);
  std::vector<Command> commands();

  void sources();
  void show_evidence();
  void set_docs(const std::string& names);

  Runtime& runtime_;
  Terminal& terminal_;
  const Options& options_;
  ChatSession session_;
  std::optional<ChatMemory> memory_;  // with --memory
  std::vector<std::string> collections_;
  std::optional<Receipt> last_receipt_;
  bool leave_ = false;
  bool unsaved_ = false;  // the last round is not on disk, although it should be
};

void Chat::open_session() {
  std::string wanted = options_.chat.session;
  if (options_.chat.resume_last) {
    auto last = SessionStore(SessionStore::default_folder()).last();
    if (!last) throw Error(ErrorKind::kNoInput, "no session to continue", "apud chat starts one");
    wanted = last->id;
  }
  bool known = false;
  if (!wanted.empty()) {
    for (const SessionInfo& info : SessionStore(SessionStore::default_folder()).list()) {
      known |= info.id == wanted || info.name == wanted;
    }
  }
  if (wanted.empty() || (!known && !options_.chat.resume_last)) {
    collections_ = runtime_.collections();
    Opening opening =
        make_opening(runtime_, system_prompt(options_, options_.chat.system, !collections_.empty()),
                     collections_, answer_tokens());
    for (const std::string& warning : opening.warnings) terminal_.warn(warning);
    start_session(wanted, opening);
    return;
  }
  std::string model_now = session_.session().info.model;
  session_.open(wanted, options_.chat.fork);
  const SessionInfo& info = session_.session().info;
  terminal_.note(fmt::format(
      "session {} ({} messages), model {}, documents: {}", info.name, info.turns, model_now,
      info.collections.empty() ? "none" : fmt::format("{}", fmt::join(info.collections, ", "))));
  if (session_.conversation().other_model()) {
    terminal_.warn(
        "this session was made with another model: its text is kept, its cache cannot be used");
  }
  // The session's own collections, unless the command line names others.
  if (!options_.common.collections.empty() || options_.common.no_docs) {
    collections_ = runtime_.collections();
  } else {
    std::vector<std::string> there;
    for (const std::string& name : info.collections) {
      if (runtime_.has_store() && runtime_.store().find_collection(name)) {
        there.push_back(name);
      } else {
        terminal_.warn(fmt::format(
            "collection {} of this session no longer exists: going on without it", name));
      }
    }
    collections_ = there;
  }
  if (!options_.chat.system.empty()) session_.set_system(options_.chat.system);
}

/// With --fork, beside a window that has just begun a chat of this name.
void Chat::start_session(const std::string& wanted, const Opening& opening) {
  std::string name = wanted;
  for (int i = 2;; ++i) {
    try {
      return session_.start(name, opening, collections_);
    } catch (const Error& e) {
      bool taken = e.kind() == ErrorKind::kBusy || e.kind() == ErrorKind::kUsage;
      if (!taken || !options_.chat.fork || wanted.empty()) throw;
    }
    name = fmt::format("{} ({})", wanted, i);
  }
}

void Chat::greet() {
  if (!terminal_.state().stdin_tty) return;
  terminal_.dim(fmt::format("{} · /help lists the commands, /exit leaves",
                            runtime_.chat_model().installed.id));
}

void Chat::sources() {
  ordered_json data = parse_json(session_.last_answer_data());
  if (!data.is_object() || !data.contains("citations") || data["citations"].empty()) {
    terminal_.note("the last answer cites nothing");
    return;
  }
  for (const auto& citation : data["citations"]) {
    auto number = [&](const char* key) {
      return citation[key].is_number() ? citation[key].get<int>() : 0;
    };
    Anchor at{0, number("line"), number("page"), citation.value("member", "")};
    terminal_.note(fmt::format("[{}] {}{}", citation.value("id", 0),
                               place_of(shown_path(citation.value("path", "")), at),
                               citation.value("verified", false) ? "" : "  (not verified)"));
    std::string quote = citation.value("quote", "");
    if (!quote.empty()) terminal_.note("    " + quote);
  }
}

void Chat::show_evidence() {
  if (session_.ledger().entries().empty()) {
    terminal_.note("no passages yet");
    return;
  }
  for (const LedgerEntry& e : session_.ledger().entries()) {
    terminal_.note(fmt::format("[{}] {} · turn {} · {} tokens · found {}× · cited {}×{}",
                               e.passage.id, place_of(shown_path(e.passage.path), e.passage.from),
                               e.turn, e.tokens, e.hits, e.cited.size(),
                               e.in_prompt ? "" : " · left the prompt"));
  }
}

void Chat::set_docs(const std::string& names) {
  if (names.empty()) {
    if (runtime_.has_store()) {
      for (const CollectionInfo& info : runtime_.store().collections()) {
        bool used =
            std::find(collections_.begin(), collections_.end(), info.name) != collections_.end();
        terminal_.note(
            fmt::format("{} {} · {} files", used ? "*" : " ", info.name, info.documents));
      }
    } else {
      terminal_.note("no documents yet: apud ingest FOLDER");
    }
    return;
  }
  std::vector<std::string> chosen;
  size_t begin = 0;
  while (begin < names.size()) {
    size_t end = names.find_first_of(" ,", begin);
    if (end == std::string::npos) end = names.size();
    if (end > begin) {
      std::string name = names.substr(begin, end - begin);
      runtime_.store().collection(name);  // throws with the nearest names
      chosen.push_back(name);
    }
    begin = end + 1;
  }
  collections_ = chosen;
  session_.set_collections(chosen);
  terminal_.note(fmt::format("documents: {}", fmt::join(chosen, ", ")));
}

std::vector<Chat::Command> Chat::commands() {
  return {
      {"help", "this list",
       [this](const std::string&) {
         for (const Command& command : commands())
           terminal_.note(fmt::format("  /{:<10} {}", command.name, command.help));
         terminal_.note(
             "  a line ending in \\ goes on; \"\"\" … \"\"\" holds several lines; Ctrl-C stops an "
             "answer");
       }},
      {"undo", "take the last question and answer back",
       [this](const std::string&) {
         terminal_.note(session_.undo() ? "taken back" : "nothing to take back");
       }},
      {"regen", "answer the last question again",
       [this](const std::string&) {
         if (!session_.drop_answer()) return terminal_.note("no answer yet");
         turn(session_.conversation().turns().back().content, true);
       }},
      {"edit", "TEXT: ask this instead of the last question",
       [this](const std::string& rest) {
         if (rest.empty()) return terminal_.note("/edit TEXT");
         if (!session_.undo()) return terminal_.note("no question yet");
         turn(rest, false);
       }},
      {"fork", "[NAME]: go on in a copy of this chat",
       [this](const std::string& rest) {
         if (!session_.saving()) return terminal_.note("this chat is not saved (--no-save)");
         session_.fork(rest);
         terminal_.note("now in " + session_.session().info.name);
       }},
      {"sources", "what the last answer cites", [this](const std::string&) { sources(); }},
      {"evidence", "the passages of this chat", [this](const std::string&) { show_evidence(); }},
      {"stats", "what the last answer cost and reused",
       [this](const std::string&) {
         terminal_.note(last_receipt_ ? receipt_details(*last_receipt_) : "no answer yet");
       }},
      {"docs", "[NAME …]: list collections, or choose",
       [this](const std::string& rest) { set_docs(rest); }},
      {"nodocs", "talk without documents",
       [this](const std::string&) {
         collections_.clear();
         session_.set_collections({});
         terminal_.note("documents: none");
       }},
      {"system", "TEXT: change the system prompt",
       [this](const std::string& rest) {
         if (rest.empty()) return terminal_.note(session_.conversation().data().system);
         session_.set_system(rest);
         terminal_.note("system prompt changed (the cached prefix starts anew)");
       }},
      {"save", "NAME: name this chat",
       [this](const std::string& rest) {
         if (!session_.saving()) return terminal_.note("this chat is not saved (--no-save)");
         if (rest.empty()) return terminal_.note("/save NAME");
         session_.rename(rest);
         terminal_.note("saved as " + rest);
       }},
      {"export", "FILE.md or FILE.json: write this chat",
       [this](const std::string& rest) {
         if (rest.empty()) return terminal_.note("/export FILE.md or FILE.json");
         session_.save();
         write_file_atomic(home_expanded(rest),
                           session_.export_text(Path(rest).extension() == ".json"));
         terminal_.note("written: " + rest);
       }},
      {"exit", "leave", [this](const std::string&) { leave_ = true; }},
  };
}

bool Chat::handle(const std::string& input) {
  if (is_blank(input)) return true;
  try {
    if (input[0] == '/' && input.size() > 1 && input[1] != '/' &&
        input.find('\n') == std::string::npos) {
      size_t space = input.find(' ');
      std::string name = input.substr(1, space == std::string::npos ? space : space - 1);
      std::string rest = space == std::string::npos
                             ? ""
                             : input.substr(input.find_first_not_of(' ', space) == std::string::npos
                                                ? input.size()
                                                : input.find_first_not_of(' ', space));
      if (name == "quit") name = "exit";
      for (const Command& command : commands()) {
        if (name == command.name) {
          command.run(rest);
          return !leave_;
        }
      }
      // A path such as /etc/hosts is a question, not a command.
      if (name.find('/') == std::string::npos) {
        terminal_.note("no command /" + name + "; /help lists them");
        return true;
      }
    }
    turn(input, false);
  } catch (const Error& e) {
    if (terminal_.broken()) throw;
    terminal_.error("error: " + std::string(e.what()));
    if (!e.advice().empty()) terminal_.note("  " + e.advice());
  }
  return ending_signal() == 0;
}

Finished Chat::answer_turn(const std::string& question, bool again) {
  TurnRequest turn;
  turn.question = question;
  turn.again = again;
  turn.collections = collections_;
  turn.answer_tokens = answer_tokens();
  turn.think = think();
  turn.memory = memory_ ? &*memory_ : nullptr;
  turn.searching = [&](bool begin) {
    terminal_.progress(begin ? "searching the documents" : "", true);
  };
  PreparedTurn prepared = prepare_turn(runtime_, session_, turn);
  Finished& finished = prepared.finished;
  if (prepared.recalled > 0) {
    terminal_.dim(fmt::format("recalled {} passage{} of earlier chats", prepared.recalled,
                              prepared.recalled == 1 ? "" : "s"));
  }
  say_retry(terminal_, finished.evidence);
  if (finished.evidence.abstained) {
    finished.refused = true;
    finished.checked.text = "Not in the documents.";
    terminal_.out_text(not_in_documents_text(finished.evidence));
    terminal_.flush();
    Completion refusal;
    refusal.text = finished.checked.text;
    keep_round(finished, refusal);
    return std::move(finished);
  }

  std::vector<Passage> passages = session_.citable(finished);
  double temperature = collections_.empty() ? 0.7 : 0.2;
  Request request =
      make_request(options_, prepared.prompt, turn.answer_tokens, again ? 0.7 : temperature);
  request.save = session_.saving();
  request.tags = evidence_tags(passages);
  restrict_citations(request, *runtime_.chat_model().model, passages);
  request.tags.push_back("session:" + session_.session().info.id);
  LiveAnswer live(terminal_, passages, citing(finished), true, options_.settings.think == "show");
  live.attach(request);
  finished.answer = runtime_.engine().generate(std::move(request));
  complete_receipt(finished.answer.receipt, prepared.prompt);
  finished.answer.receipt.refined = prepared.refined;
  live.finish();
  const Completion& best = finished.answer.best();
  // Stopped while the prompt was read: there is no answer to keep.
  if (best.finish_reason == FinishReason::kCancelled && best.tokens.empty()) throw Interrupted();
  check_finished(finished, best, passages);
  std::string legend =
      finished.refused ? nearest_text(finished.evidence) : legend_text(finished.checked);
  if (!legend.empty()) terminal_.out_text("\n" + legend);
  terminal_.flush();
  runtime_.note_prefill_rate(finished.answer.receipt);
  if (session_.saving()) {
    keep_answer(runtime_, finished,
                session_.session().info.name.empty() ? session_.session().info.id
                                                     : session_.session().info.name,
                runtime_.chat_model().model->tokenizer().decode(prepared.prompt.ids, true));
  }
  keep_round(finished, best);
  return std::move(finished);
}

/// Where the chat cannot be written (a full disk), it goes on in memory.
void Chat::keep_round(Finished& finished, const Completion& completion) {
  try {
    session_.finish_round(finished, completion, runtime_.counter());
    unsaved_ = false;
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kIo) throw;
    unsaved_ = true;
    finished.warnings.push_back(std::string("this chat is not saved: ") + e.what());
  }
}

/// A question without an answer does not stay in the conversation.
void Chat::take_back_question() {
  const std::vector<Turn>& turns = session_.conversation().turns();
  if (!turns.empty() && turns.back().role == "user") session_.undo();
}

void Chat::turn(const std::string& question, bool again) {
  Finished finished;
  try {
    finished = answer_turn(question, again);
  } catch (const Error&) {
    take_back_question();
    throw;
  } catch (const Interrupted&) {  // before the answer began
    take_back_question();
    terminal_.progress("", true);
    terminal_.note("(stopped)");
    return;
  }
  for (const std::string& warning : finished.warnings) terminal_.warn(warning);
  if (finished.answer.completions.empty()) return;
  last_receipt_ = finished.answer.receipt;
  report_receipt(runtime_, *last_receipt_);
  FinishReason reason = finished.answer.best().finish_reason;
  if (reason == FinishReason::kCancelled) terminal_.note("(stopped)");
  if (reason == FinishReason::kLength) terminal_.note("(cut: --max-tokens)");
}

int Chat::run() {
  runtime_.want_engine({.save = session_.saving()});
  open_session();
  if (options_.chat.memory) {
    memory_.emplace(runtime_);
    terminal_.progress("looking through earlier chats", true);
    std::string warning = memory_->sync();
    terminal_.progress("", true);
    if (!warning.empty()) terminal_.warn(warning);
  }
  runtime_.preload_embedder(collections_);
  runtime_.preload_engine();
  greet();
  bool terminal = terminal_.state().stdin_tty && terminal_.state().stderr_tty;
  Path history;
  if (session_.saving() && terminal) {
    make_private_dir(state_dir());
    history = state_dir() / "history";
  }
  LineEditor editor(terminal, history);
  for (;;) {
    begin_interruptible();
    LineEditor::Input input = editor.read("> ");
    if (input.kind == LineEditor::Input::kInterrupted) {
      terminal_.note("");
      return 130;
    }
    if (input.kind == LineEditor::Input::kEnd) break;
    if (!handle(input.text)) break;
    terminal_.out(terminal_.state().stdout_tty ? "\n" : "");
    terminal_.flush();
    if (last_receipt_ && session_.saving()) {
      std::string problem = runtime_.engine().save_pending(kSaveBetweenTurnsMs);
      if (!problem.empty()) last_receipt_->not_saved = problem;  // for /stats
    }
  }
  if (int number = ending_signal()) return 128 + number;
  return unsaved_ ? exit_code(ErrorKind::kIo) : 0;
}

}  // namespace

int verb_chat(Runtime& runtime) { return Chat(runtime).run(); }

}  // namespace apud
