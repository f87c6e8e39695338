// `apud ask`: one question, one answer.
#include <fmt/format.h>

#include <chrono>

#include "app/answer.h"
#include "app/clock.h"
#include "app/generation.h"
#include "app/json_text.h"
#include "app/live_answer.h"
#include "app/opening.h"
#include "app/over_all.h"
#include "app/progress.h"
#include "app/prompts.h"
#include "app/runtime.h"
#include "app/signals.h"
#include "base/ascii.h"
#include "base/thread_pool.h"
#include "base/utf8.h"

namespace apud {

namespace {

constexpr int kSaveAfterAnswerMs = 30;

std::string question_text(const AskOptions& ask, const Terminal& terminal) {
  if (ask.words.size() == 1 && ask.words[0] == "-") {
    for (const std::string& file : ask.files) {
      if (file == "-")
        throw Error(ErrorKind::kUsage, "both the question and -f read standard input",
                    "give one of them otherwise");
    }
    std::string text = utf8_repair(read_stdin());
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
    if (is_blank(text)) throw Error(ErrorKind::kUsage, "the question on standard input is empty");
    return text;
  }
  std::string text;
  for (const std::string& word : ask.words) text += (text.empty() ? "" : " ") + word;
  text = utf8_repair(text);
  if (is_blank(text)) {
    throw Error(ErrorKind::kUsage, "no question",
                terminal.state().stdin_tty
                    ? "apud ask \"...\"; apud chat to talk"
                    : "apud ask \"...\", or apud ask - to read it from standard input");
  }
  return text;
}

/// What `--show-prompt --json` prints: the prompt with its length and what of it is evidence.
std::string prompt_json(const Evidence& evidence, const std::string& text, int tokens,
                        const EvidenceRequest& request) {
  ordered_json out = {{"schema", kJsonSchema},
                      {"prompt", text},
                      {"tokens", tokens},
                      {"context", request.context},
                      {"reserve", request.answer_tokens},
                      {"evidence_tokens", evidence.packed.tokens}};
  out["passages"] = ordered_json::array();
  for (const Passage& p : evidence.packed.passages) {
    out["passages"].push_back(
        {{"id", p.id}, {"path", p.path}, {"rank", p.chunk_rank}, {"text", p.text}});
  }
  return dump_json(out);
}

/// What `--only-sources --json` prints.
std::string passages_json(std::span<const Passage> passages) {
  ordered_json out = {{"schema", kJsonSchema}, {"passages", ordered_json::array()}};
  auto known = [](int number) { return number > 0 ? ordered_json(number) : ordered_json(); };
  for (const Passage& p : passages) {
    ordered_json one = {{"id", p.id}, {"path", p.path}};
    if (!p.from.member.empty()) one["member"] = p.from.member;
    one["page"] = known(p.from.page);
    one["line"] = known(p.from.line);
    one["text"] = p.text;
    out["passages"].push_back(one);
  }
  return dump_json(out);
}

/// Refused before the first token.
int refuse(Runtime& runtime, Finished& finished) {
  const Options& o = runtime.options;
  finished.refused = true;
  std::string text = not_in_documents_text(finished.evidence);
  finished.checked.text = "Not in the documents.";
  if (!o.ask.no_save) keep_answer(runtime, finished, "", "");
  if (o.common.json) {
    runtime.terminal.out(answer_json(finished, true) + "\n");
  } else {
    runtime.terminal.out_text(text);
  }
  runtime.terminal.flush();
  return 1;
}

constexpr int64_t kReadUnasked = 20'000;  // tokens: about a minute of two CPU cores

/// Whether every document is read: when asked to, and for a question about all of them where they
/// are few. Where they are many, says what it would take.
bool reads_all(Runtime& runtime, const EvidenceRequest& request, bool needs_model) {
  const Options& o = runtime.options;
  if (o.ask.over_all) {
    if (request.collections.empty())
      throw Error(ErrorKind::kUsage, "--over-all: no documents to read", "apud ingest FOLDER");
    if (!request.texts.empty())
      throw Error(ErrorKind::kUsage, "--over-all reads collections, not -f texts",
                  "leave one of them out");
    if (!needs_model)
      throw Error(ErrorKind::kUsage, "--over-all needs the chat model to read",
                  "leave out --show-prompt and --only-sources");
    return true;
  }
  if (!needs_model || request.collections.empty() || !request.texts.empty() ||
      !asks_about_all(request.question))
    return false;
  int64_t tokens = collection_tokens(runtime, request.collections);
  if (tokens <= kReadUnasked) return true;
  runtime.terminal.note(
      fmt::format("this asks about all documents, and a few passages will not answer it: "
                  "--over-all reads all {} tokens",
                  with_commas(tokens)));
  return false;
}

void print_sources(Runtime& runtime, const Finished& finished) {
  Terminal& terminal = runtime.terminal;
  for (const Passage& p : finished.evidence.packed.passages) {
    terminal.note(fmt::format("  passage [{}] {} score {:.3f} rank {}: {}", p.id,
                              place_of(shown_path(p.path), p.from), p.score, p.chunk_rank,
                              p.heading_path.empty() ? p.title : p.heading_path));
  }
}

}  // namespace

int verb_ask(Runtime& runtime) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  Finished finished;
  finished.question = question_text(o.ask, terminal);
  check_sampling(o, o.ask.samples);
  std::vector<NamedText> texts = read_named_texts(o.ask.files);
  std::vector<std::string> collections = runtime.collections();
  bool documents = !collections.empty() || !texts.empty();
  begin_interruptible();
  if (!collections.empty()) terminal.progress("searching the documents", true);

  runtime.preload_embedder(collections);
  const ChosenModel& chosen = runtime.chat_model();
  finished.model = chosen.installed.id;
  bool needs_model = !o.ask.only_sources && !o.ask.show_prompt;
  const int beams = o.settings.beams;
  runtime.want_engine({o.ask.samples, beams, beams, !o.ask.no_save});
  // Two cores are busy with the search, and what it says first would wait for the weights.
  const bool search_first = !collections.empty() && usable_cpus() <= 2 && !runtime.on_gpu();
  if (!search_first && (needs_model || o.settings.expand == "on")) runtime.preload_engine();

  EvidenceRequest request;
  request.question = finished.question;
  request.texts = std::move(texts);
  request.collections = collections;
  request.evidence_tokens = runtime.evidence_tokens();
  request.answer_tokens = o.generation.max_tokens.value_or(o.settings.answer);
  request.context = runtime.context();
  Opening opening = make_opening(runtime, system_prompt(o, o.ask.system, documents), collections,
                                 request.answer_tokens);
  request.retry = needs_model;
  Ledger ledger = opening.ledger();
  request.ledger = &ledger;
  Conversation conversation = Conversation::start(chosen.model, opening.system, unix_now());
  finished.pinned = opening.pinned;
  if (reads_all(runtime, request, needs_model)) {
    runtime.engine();
    finished.evidence =
        over_all_evidence(runtime, conversation, request, [&](const OverAllProgress& p) {
          terminal.progress(
              fmt::format("{} · {} of {}", p.joining ? "joining notes" : "reading all documents",
                          p.part + (p.joining ? 0 : 1), p.parts),
              true);
        });
  } else {
    finished.evidence = gather_evidence(runtime, conversation, request);
  }
  finished.warnings = opening.warnings;
  for (const std::string& warning : finished.evidence.warnings)
    finished.warnings.push_back(warning);
  std::vector<Passage> passages = citable(finished);

  terminal.progress("", true);
  if (finished.evidence.abstained) return refuse(runtime, finished);
  say_retry(terminal, finished.evidence);
  if (o.ask.only_sources) {
    if (o.common.json) {
      terminal.out(passages_json(passages) + "\n");
    } else {
      for (const Passage& p : passages) {
        terminal.out_text(
            fmt::format("[{}] {}\n{}\n\n", p.id, place_of(shown_path(p.path), p.from), p.text));
      }
    }
    terminal.flush();
    return passages.empty() ? 1 : 0;
  }

  conversation.add_user(finished.question, finished.evidence.frame, unix_now());
  Prompt prompt = conversation.prompt(request.context - request.answer_tokens,
                                      o.settings.think == "off" ? Think::kOff : Think::kOn);
  const Tokenizer& tokenizer = chosen.model->tokenizer();
  if (o.ask.show_prompt) {
    std::string text = tokenizer.decode(prompt.ids, true);
    if (o.common.json) {
      terminal.out(
          prompt_json(finished.evidence, text, static_cast<int>(prompt.ids.size()), request) +
          "\n");
    } else {
      terminal.out_text(text + "\n");
    }
    terminal.flush();
    return 0;
  }

  Request generate = make_request(o, prompt, request.answer_tokens, 0);
  generate.n = o.ask.samples;
  generate.beams = beams;
  generate.save = !o.ask.no_save;
  generate.tags = evidence_tags(passages);
  restrict_citations(generate, *chosen.model, passages);
  bool stream = !o.common.json && o.ask.samples == 1;
  LiveAnswer live(terminal, passages, citing(finished), stream, o.settings.think == "show");
  live.attach(generate);
  finished.answer = runtime.engine().generate(std::move(generate));
  live.finish();
  const Completion& best = finished.answer.best();
  check_finished(finished, best, passages);
  runtime.note_prefill_rate(finished.answer.receipt);
  if (!o.ask.no_save) keep_answer(runtime, finished, "", tokenizer.decode(prompt.ids, true));

  if (o.common.json) {
    terminal.out(answer_json(finished, true) + "\n");
  } else {
    if (!stream) {
      for (const Completion& completion : finished.answer.completions) {
        Finished one;
        one.evidence = finished.evidence;
        check_finished(one, completion, passages);
        terminal.out_text(one.checked.text + "\n\n");
      }
    }
    if (!o.ask.no_sources) {
      std::string legend =
          finished.refused ? nearest_text(finished.evidence) : legend_text(finished.checked);
      if (!legend.empty()) terminal.out_text("\n" + legend);
    }
  }
  terminal.flush();
  for (const std::string& warning : finished.warnings) terminal.warn(warning);
  if (best.finish_reason == FinishReason::kLength)
    terminal.warn(
        fmt::format("the answer was cut at {} tokens (--max-tokens)", request.answer_tokens));
  if (!o.ask.no_save) {
    // The answer is out; while its last pages are written, the receipt can still tell of a failure.
    std::string problem = runtime.engine().save_pending(kSaveAfterAnswerMs);
    if (!problem.empty()) finished.answer.receipt.not_saved = problem;
  }
  report_receipt(runtime, finished.answer.receipt);
  if (o.common.verbose) {
    if (!finished.id.empty())
      terminal.note("  answer " + finished.id + " (apud explain " + finished.id + ")");
    print_sources(runtime, finished);
  }
  if (best.finish_reason == FinishReason::kCancelled)
    return ending_signal() ? 128 + ending_signal() : 130;
  if (finished.refused) return 1;
  if (o.ask.strict && finished.citation_failed) return 3;
  return 0;
}

}  // namespace apud
