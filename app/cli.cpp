#include "app/cli.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>

#include "base/nearest.h"
#include "base/error.h"
#include "engine/engine.h"

namespace apud {

namespace {

constexpr const char* kDescription =
    "apud: chat with your documents, on this machine.\n"
    "stdout carries the answer only; progress and notes go to stderr.\n"
    "Exit codes: 0 ok, 1 nothing found or no evidence, 2 usage, 3 a citation failed (--strict),\n"
    "65 bad data, 66 no input, 69 GPU or model unavailable, 70 our bug, 74 I/O, 75 busy, 78 "
    "configuration.";

constexpr const char* kEnvironment =
    "Environment: APUD_MODELS (folder of models), NO_COLOR; for model pull HF_TOKEN, APUD_HUB_HOST "
    "(a mirror),\nSSL_CERT_FILE; XDG_DATA_HOME, XDG_CACHE_HOME, XDG_CONFIG_HOME, XDG_STATE_HOME.";

// CLI11 splits a word such as "[what, is it]" into a list. A mark in front of it keeps it whole
// until each option takes the mark off again.
constexpr char kGuard = '\x1f';
std::string guarded(std::string word) {
  if (word.size() > 1 && word.front() == '[' && word.back() == ']')
    word.insert(word.begin(), kGuard);
  return word;
}
std::string unguarded(std::string word) {
  if (!word.empty() && word.front() == kGuard) word.erase(word.begin());
  return word;
}

/// CLI11's own names of values are its checks: "INT:INT in [0 - 1024]", "TEXT:{auto,cuda,cpu}".
class HelpText : public CLI::Formatter {
 public:
  HelpText() { column_width(28); }
  std::string make_option_opts(const CLI::Option* option) const override {
    std::string type = option->get_type_name();
    if (type.empty()) return {};  // a flag
    std::string kind = type.substr(0, type.find(':'));
    if (size_t list = type.find(":{"); list != std::string::npos) {
      kind = option->get_positional() ? "" : type.substr(list + 1);  // its help names them
    } else if (kind != "TEXT") {
      kind = "N";
    } else if (option->get_positional()) {
      kind.clear();
    }
    return kind.empty() ? "" : " " + kind;
  }
};

void add_output(CLI::App* verb, Options& o) {
  verb->add_flag("-q,--quiet", o.common.quiet, "no notes, warnings or receipt on stderr");
  verb->add_flag("-v,--verbose", o.common.verbose,
                 "more on stderr: sources with scores, timings, cache tiers");
}
void add_json(CLI::App* verb, Options& o) {
  verb->add_flag("--json", o.common.json, "one JSON document on stdout (docs/json.md)");
}
void add_model(CLI::App* verb, Options& o) {
  verb->add_option("-m,--model", o.settings.model, "chat model: catalogue id, added name or path");
  verb->add_option("--ctx", o.settings.ctx,
                   "context window in tokens (0 or auto: 4096 on the CPU, what fits on a GPU)")
      ->transform(CLI::IsMember({"auto"}) | CLI::Range(0, 1 << 20))
      ->transform([](const std::string& text) { return text == "auto" ? std::string("0") : text; });
  verb->add_option("--kv", o.settings.kv, "type of the KV cache; i8 halves it")
      ->check(CLI::IsMember({"auto", "f16", "bf16", "i8", "f32"}));
}
void add_device(CLI::App* verb, Options& o) {
  verb->add_option("--device", o.settings.device, "what computes; auto: the GPU where there is one")
      ->check(CLI::IsMember({"auto", "cuda", "cpu"}));
  verb->add_option("--cpu-isa", o.settings.cpu_isa, "force a CPU path")
      ->check(CLI::IsMember({"auto", "avx2", "avx512", "vnni", "amx"}));
  verb->add_option("--threads", o.settings.threads,
                   "CPU threads (0 or auto: what affinity and cgroup allow)")
      ->transform(CLI::IsMember({"auto"}) | CLI::Range(0, 1024))
      ->transform([](const std::string& text) { return text == "auto" ? std::string("0") : text; });
}
void add_chunking(CLI::App* verb, Options& o) {
  verb->add_option("--embedder", o.settings.embedder, "embedding model of a new collection");
  verb->add_option("--chunk", o.settings.chunk,
                   "most tokens of a chunk in a new collection (0: what suits the embedder)")
      ->check(CLI::Range(0, 8192));
}
void add_docs(CLI::App* verb, Options& o) {
  verb->add_option("-k,--collection", o.common.collections, "collection to use; repeat for several")
      ->allow_extra_args(false);
  verb->add_flag("--no-docs", o.common.no_docs, "answer without documents");
  verb->add_flag_callback(
      "--expand", [&o] { o.settings.expand = "on"; },
      "search an imagined answer beside the question: finds more, takes seconds");
  verb->add_flag_callback(
      "--rerank", [&o] { o.settings.rerank = "on"; },
      "let the chat model judge the best passages again: better order, takes seconds");
  verb->add_option("--evidence", o.settings.evidence, "most tokens of passages in a prompt")
      ->check(CLI::Range(0, 1 << 20));
}
void add_beams(CLI::App* verb, Options& o) {
  verb->add_option("--beams", o.settings.beams,
                   "search the most probable answer along this many beams; slower, not streamed")
      ->check(CLI::Range(1, kMaxBeams));
}
void add_generation(CLI::App* verb, Options& o) {
  GenerationOptions& g = o.generation;
  verb->add_option("-t,--temperature", g.temperature, "0 is greedy")->check(CLI::Range(0.0, 10.0));
  verb->add_option("--top-k", g.top_k, "keep the k most likely tokens (0: all)")
      ->check(CLI::Range(0, 1 << 20));
  verb->add_option("--top-p", g.top_p, "keep the smallest set of tokens with this probability")
      ->check(CLI::Range(0.0, 1.0));
  verb->add_option("--min-p", g.min_p,
                   "keep tokens with at least this share of the best one's probability")
      ->check(CLI::Range(0.0, 1.0));
  verb->add_option("--repetition-penalty", g.repetition_penalty,
                   "above 1 discourages tokens already there")
      ->check(CLI::Range(0.1, 10.0));
  verb->add_option("--presence-penalty", g.presence_penalty,
                   "above 0 discourages tokens already there, once each")
      ->check(CLI::Range(-10.0, 10.0));
  verb->add_option("--frequency-penalty", g.frequency_penalty,
                   "above 0 discourages tokens by how often they are there")
      ->check(CLI::Range(-10.0, 10.0));
  verb->add_option("--seed", g.seed, "reproduces a sampled answer")->check(CLI::NonNegativeNumber);
  verb->add_option("--stop", g.stop, "text that ends the answer; repeat for several")
      ->allow_extra_args(false);
  verb->add_option("--max-tokens", g.max_tokens, "longest answer in tokens")
      ->check(CLI::Range(1, 1 << 20));
  verb->add_option("--think", o.settings.think,
                   "reasoning of thinking models; on is hidden, show writes it to stderr")
      ->check(CLI::IsMember({"off", "on", "show"}));
  verb->add_flag("--deterministic", g.deterministic,
                 "bit-identical output whatever is cached or batched");
  verb->add_flag("--stats", o.common.stats, "the receipt on stderr, also off a terminal");
}

struct Table {
  Options& o;
  std::map<std::string, std::vector<std::string>>
      actions;  // of verbs with sub-verbs, for completion
  CLI::App root{kDescription, "apud"};

  explicit Table(Options& options) : o(options) {
    root.formatter(std::make_shared<HelpText>());  // verbs inherit it
    root.footer(kEnvironment);
    root.require_subcommand(1);
    root.set_version_flag("--version", std::string("apud ") + APUD_VERSION);
    root.fallthrough(false);
    add_answers();
    add_documents();
    add_management();
    for (CLI::App* verb : root.get_subcommands([](const CLI::App*) { return true; })) {
      for (CLI::Option* option : verb->get_options()) {
        if (option->get_items_expected_max() > 0) option->transform(unguarded, "");
        // The last of several counts, so that an alias or a script can be overridden.
        if (option->get_items_expected_max() == 1)
          option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
      }
    }
  }

  CLI::App* verb(const char* name, const char* help) {
    CLI::App* app = root.add_subcommand(name, help);
    app->set_help_flag("-h,--help", "this text");
    app->footer("");
    return app;
  }

  void add_answers() {
    CLI::App* chat =
        verb("chat", "talk, with documents where there are some; /help lists the commands");
    chat->add_flag("-c,--continue", o.chat.resume_last, "go on with the last session");
    chat->add_option("-s,--session", o.chat.session,
                     "go on with (or start) the session of this name")
        ->excludes("--continue");
    chat->add_flag("--fork", o.chat.fork, "work on a copy of the session");
    chat->add_flag("--memory", o.chat.memory, "recall what earlier chats said on the question");
    chat->add_flag("--no-save", o.chat.no_save, "keep nothing on disk");
    chat->add_option("--system", o.chat.system, "system prompt");
    add_docs(chat, o), add_model(chat, o), add_device(chat, o), add_generation(chat, o),
        add_output(chat, o);

    CLI::App* ask = verb("ask", "one question, one answer with citations");
    ask->add_option("question", o.ask.words, "the question; - reads it from stdin");
    ask->add_option("-f,--file", o.ask.files,
                    "text to answer from, beside the documents; - is stdin; repeat for several")
        ->allow_extra_args(false);
    ask->add_flag("--show-prompt", o.ask.show_prompt,
                  "print the exact prompt instead of answering");
    ask->add_flag("--no-sources", o.ask.no_sources, "no legend after the answer");
    ask->add_flag("--only-sources", o.ask.only_sources, "print the passages, ask no model");
    ask->add_flag("--over-all", o.ask.over_all,
                  "read every document, not the best passages: how many, all, summarise");
    ask->add_flag("--strict", o.ask.strict, "exit 3 when a quote or citation does not hold");
    ask->add_flag("--no-save", o.ask.no_save, "keep nothing on disk (no trace, no cache)");
    ask->add_option("-n,--samples", o.ask.samples, "answers to draw (above 1 needs a temperature)")
        ->check(CLI::Range(1, 64));
    add_beams(ask, o);
    ask->add_option("--system", o.ask.system, "system prompt");
    add_docs(ask, o), add_model(ask, o), add_device(ask, o), add_generation(ask, o),
        add_json(ask, o), add_output(ask, o);

    CLI::App* batch =
        verb("batch", "many questions: lines of text or JSON in, JSON lines out, in order");
    batch->add_option("-i,--input", o.batch.input, "file of questions (- : stdin)");
    batch->add_option("-o,--output", o.batch.output, "file of answers (- : stdout)");
    batch->add_flag("--resume", o.batch.resume,
                    "skip questions that the output file answers already, by id, else by line");
    batch->add_option("--jobs", o.batch.jobs,
                      "questions answered at once: a number or auto (4; 8 on a GPU with room)");
    add_beams(batch, o);
    batch->add_option("--system", o.batch.system, "system prompt");
    batch->add_flag("--no-save", o.batch.no_save, "no cache on disk");
    add_docs(batch, o), add_model(batch, o), add_device(batch, o), add_generation(batch, o),
        add_output(batch, o);
  }

  void add_documents() {
    CLI::App* search =
        verb("search", "find passages: path:line: text; exit 1 when nothing is found");
    search
        ->add_option("query", o.search.words,
                     "words; \"a phrase\", -without, path:GLOB, after:DATE")
        ->required();
    search->add_option("--mode", o.search.mode, "by meaning and words, meaning, or words alone")
        ->check(CLI::IsMember({"hybrid", "dense", "bm25"}));
    search->add_option("-n,--count", o.search.count, "results")->check(CLI::Range(1, 1000));
    search->add_flag("-l,--files", o.search.files_only, "file names only");
    search->add_option("-k,--collection", o.common.collections, "collection; repeat for several")
        ->allow_extra_args(false);
    add_device(search, o), add_json(search, o), add_output(search, o);

    CLI::App* ingest = verb("ingest", "take files and folders into a collection");
    IngestVerbOptions& i = o.ingest;
    ingest->add_option("path", i.paths, "files or folders")->required();
    ingest->add_option("-k,--collection", o.common.collections, "collection to write to")
        ->expected(1)
        ->allow_extra_args(false);
    ingest->add_option("--include", i.include, "only files matching this glob; repeat")
        ->allow_extra_args(false);
    ingest->add_option("--exclude", i.exclude, "no files matching this glob; repeat")
        ->allow_extra_args(false);
    ingest->add_flag("--hidden", i.hidden, "hidden files too");
    ingest->add_flag("--no-ignore", i.no_ignore, "do not honour .gitignore and .ignore");
    ingest->add_flag("-n,--dry-run", i.dry_run, "only show what would be taken");
    ingest->add_flag("--jsonl", i.jsonl, "one JSON line per file on stdout");
    ingest->add_flag("--prune", i.prune, "remove documents whose file is gone");
    ingest->add_flag("--pin", i.pin, "put them whole at the beginning of every conversation");
    ingest->add_flag("--wait", i.wait, "wait for another ingest instead of exit 75");
    ingest
        ->add_option("--fail-on", i.fail_on,
                     "exit 65 when a file ends so: no_text, bad_encoding, malformed, …")
        ->delimiter(',');
    ingest->add_option("--jobs", i.jobs, "parser threads (0: one per CPU)")
        ->check(CLI::Range(0, 256));
    add_chunking(ingest, o), add_device(ingest, o), add_output(ingest, o);

    CLI::App* eval = verb("eval", "measure retrieval on your own questions");
    eval->add_option("questions", o.eval.questions,
                     "JSON lines {question, gold: [path or path#text]}")
        ->required();
    eval->add_option("--top", o.eval.top, "passages looked at")->check(CLI::Range(1, 100));
    eval->add_option("--vs", o.eval.versus,
                     "a file of settings (as config.toml) to compare with; exit 1 when without it "
                     "retrieval is worse");
    eval->add_flag("--answers", o.eval.answers,
                   "have the chat model answer, too: how often a gold passage is cited");
    add_docs(eval, o), add_model(eval, o), add_device(eval, o), add_json(eval, o),
        add_output(eval, o);
  }

  CLI::App* manage(const char* name, const char* help, std::vector<std::string> actions,
                   const char* names_help) {
    this->actions[name] = actions;
    CLI::App* app = verb(name, help);
    app->add_option("action", o.manage.action, fmt::format("{}", fmt::join(actions, ", ")))
        ->required()
        ->check(CLI::IsMember(actions));
    app->add_option("name", o.manage.names, names_help);
    add_json(app, o), add_output(app, o);
    return app;
  }

  void add_management() {
    CLI::App* coll =
        manage("coll", "collections", {"list", "info", "rename", "reindex", "selftest", "rm"},
               "collection (rename: from, to)");
    // Without a variable: reindexing knows no other way, and who says so is right.
    coll->add_flag("--shadow")
        ->description("reindex: beside the live one, swapped in at the end (always so)");
    coll->add_option("--eval", o.eval.questions,
                     "reindex: swap only when these questions (as for eval) are answered better");
    add_chunking(coll, o), add_model(coll, o), add_device(coll, o);
    CLI::App* doc = manage("doc", "documents of a collection", {"list", "show", "rm"},
                           "document path, or its end");
    doc->add_option("-k,--collection", o.common.collections, "collection")
        ->expected(1)
        ->allow_extra_args(false);
    CLI::App* pin = verb("pin", "put documents whole at the beginning of every conversation");
    pin->add_option("document", o.manage.names,
                    "document path, or its end (none: list what is pinned)");
    pin->add_flag("--rm", o.manage.remove, "take these pins away");
    pin->add_option("-k,--collection", o.common.collections, "collection")
        ->expected(1)
        ->allow_extra_args(false);
    add_model(pin, o), add_device(pin, o), add_json(pin, o), add_output(pin, o);
    CLI::App* session = manage("session", "saved chats",
                               {"list", "show", "rename", "fork", "export", "rm"}, "session");
    session->add_option("--format", o.manage.format, "of export")
        ->check(CLI::IsMember({"md", "json"}));
    CLI::App* cache = manage("cache", "KV pages kept on disk", {"list", "show", "clear", "limit"},
                             "show, clear: beginning of a key; limit: gigabytes");
    (void)cache;
    CLI::App* model =
        manage("model", "models", {"list", "pull", "info", "rm", "add"},
               "catalogue id (pull: several; 'default' chooses for this machine; add: NAME PATH)");
    model->add_option("--accept-licence", o.manage.licence,
                      "id of a model whose licence you accept");
    model->add_flag("--ops", o.manage.ops, "info: the op list");
    model->add_flag("--all", o.manage.all, "list: the whole catalogue");
    model->add_option("--ctx", o.settings.ctx, "info: memory at this context");
    CLI::App* config = manage("config", "settings", {"list", "get", "set", "unset", "path"},
                              "key, and a value for set");
    (void)config;
    CLI::App* explain =
        verb("explain", "how an answer came about: candidates, scores, budget, prompt");
    explain->add_option("id", o.manage.names, "answer id (default: the last one)");
    add_json(explain, o), add_output(explain, o);
    CLI::App* doctor = verb("doctor", "what this machine, build and data have, and what is wrong");
    add_json(doctor, o), add_device(doctor, o), add_output(doctor, o);
    CLI::App* bench = verb("bench", "speed beside this machine's ceilings");
    bench->add_option("--prompt", o.bench.prompt_tokens, "prefill lengths")
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 20));
    bench->add_option("--context", o.bench.contexts, "decode contexts")
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 20));
    bench->add_option("--decode", o.bench.decode_tokens, "tokens decoded")
        ->check(CLI::Range(1, 1 << 16));
    bench->add_option("--shape", o.bench.shape,
                      "random weights of SHAPE:FORMAT, llama-7b:q4_k_m, instead of a model's file");
    bench->add_flag("--stages", o.bench.stages, "on a GPU: the time of every kind of stage");
    bench->add_option("--repeats", o.bench.repeats, "runs; the median counts")
        ->check(CLI::Range(1, 100));
    add_model(bench, o), add_device(bench, o), add_json(bench, o), add_output(bench, o);
    CLI::App* completion = verb("completion", "completion script for a shell");
    completion->add_option("shell", o.manage.action, "bash, zsh or fish")
        ->required()
        ->check(CLI::IsMember({"bash", "zsh", "fish"}));
    actions["completion"] = {"bash", "zsh", "fish"};
  }
};

}  // namespace

Parsed parse_command_line(int argc, const char* const* argv, Settings defaults) {
  Parsed parsed;
  parsed.options.settings = std::move(defaults);
  Table table(parsed.options);
  try {
    std::vector<std::string> words;  // last first, as CLI11 wants them
    for (int i = argc - 1; i > 0; --i) words.push_back(guarded(argv[i]));
    // `apud help VERB`, as git and cargo have it.
    if (!words.empty() && words.back() == "help") {
      words.pop_back();
      words.insert(words.begin(), "--help");
    }
    table.root.parse(std::move(words));
  } catch (const CLI::CallForHelp&) {
    CLI::App* asked = &table.root;
    if (!table.root.get_subcommands().empty()) asked = table.root.get_subcommands().front();
    parsed.run = false;
    parsed.text = asked->help(asked == &table.root ? "" : "apud");
    return parsed;
  } catch (const CLI::CallForVersion& e) {
    parsed.run = false;
    parsed.text = std::string(e.what()) + "\n";
    return parsed;
  } catch (const CLI::ParseError& e) {
    std::vector<std::string> verbs;
    for (const CLI::App* app : table.root.get_subcommands([](const CLI::App*) { return true; }))
      verbs.push_back(app->get_name());
    std::string advice = "see apud --help";
    if (argc > 1 && argv[1][0] != '-') {
      std::string word = argv[1];
      if (std::find(verbs.begin(), verbs.end(), word) != verbs.end()) {
        advice = "see apud " + word + " --help";
      } else {
        auto near = nearest_names(word, verbs);
        if (!near.empty()) advice = fmt::format("did you mean {}?", fmt::join(near, ", "));
        throw Error(ErrorKind::kUsage, "unknown verb '" + word + "'", advice);
      }
    }
    throw Error(ErrorKind::kUsage, e.what(), advice);
  }
  parsed.options.verb = table.root.get_subcommands().front()->get_name();
  return parsed;
}

std::string completion_script(const std::string& shell) {
  Options options;
  Table table(options);
  std::vector<CLI::App*> verbs = table.root.get_subcommands([](const CLI::App*) { return true; });
  std::string names;
  for (const CLI::App* verb : verbs) names += (names.empty() ? "" : " ") + verb->get_name();
  auto flags = [&](const CLI::App* verb) {
    std::string out = fmt::format("{}", fmt::join(table.actions[verb->get_name()], " "));
    for (const CLI::Option* option : verb->get_options()) {
      for (const std::string& name : option->get_lnames()) out += " --" + name;
      for (const std::string& name : option->get_snames()) out += " -" + name;
    }
    return out;
  };
  std::string out;
  if (shell == "fish") {
    out = "complete -c apud -f\n";
    for (const CLI::App* verb : verbs) {
      out +=
          fmt::format("complete -c apud -n __fish_use_subcommand -a {} -d '{}'\n", verb->get_name(),
                      CLI::detail::find_and_replace(verb->get_description(), "'", "\\'"));
      for (const std::string& action : table.actions[verb->get_name()]) {
        out += fmt::format("complete -c apud -n '__fish_seen_subcommand_from {}' -a {}\n",
                           verb->get_name(), action);
      }
      for (const CLI::Option* option : verb->get_options()) {
        for (const std::string& name : option->get_lnames()) {
          out += fmt::format("complete -c apud -n '__fish_seen_subcommand_from {}' -l {}\n",
                             verb->get_name(), name);
        }
      }
    }
    return out;
  }
  if (shell == "zsh") out = "autoload -U +X bashcompinit && bashcompinit\n";
  out += "_apud() {\n  local word=${COMP_WORDS[COMP_CWORD]}\n  if [ \"$COMP_CWORD\" = 1 ]; then\n";
  out += fmt::format(
      "    COMPREPLY=($(compgen -W \"{}\" -- \"$word\"))\n    return\n  fi\n  case "
      "${{COMP_WORDS[1]}} in\n",
      names);
  for (const CLI::App* verb : verbs) {
    out += fmt::format("    {}) COMPREPLY=($(compgen -f -W \"{}\" -- \"$word\")) ;;\n",
                       verb->get_name(), flags(verb));
  }
  out += "  esac\n}\ncomplete -o filenames -F _apud apud\n";
  return out;
}

}  // namespace apud
