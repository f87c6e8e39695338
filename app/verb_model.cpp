// `apud model`: list, pull, info, rm, add.
#include <fmt/format.h>

#include <algorithm>

#include "app/json_text.h"
#include "app/machine.h"
#include "app/progress.h"
#include "app/runtime.h"
#include "app/signals.h"
#include "base/thread_pool.h"
#include "base/utf8.h"

namespace apud {

namespace {

void list(Runtime& runtime) {
  Terminal& terminal = runtime.terminal;
  std::vector<InstalledModel> installed = installed_models();
  ordered_json out = {{"schema", kJsonSchema},
                      {"installed", ordered_json::array()},
                      {"catalogue", ordered_json::array()}};
  for (const InstalledModel& model : installed) {
    if (runtime.options.common.json) {
      out["installed"].push_back({{"id", model.id},
                                  {"kind", model.kind},
                                  {"bytes", model.bytes},
                                  {"path", model.path.string()}});
    } else {
      terminal.out_text(fmt::format("{:<22} {:<6} {:>8}  {}\n", model.id, model.kind,
                                    human_bytes(model.bytes), model.path.string()));
    }
  }
  for (const CatalogueEntry& entry : Catalogue::builtin().entries()) {
    bool have = std::any_of(installed.begin(), installed.end(),
                            [&](const InstalledModel& m) { return m.id == entry.id; });
    if (have || (!runtime.options.manage.all && !runtime.options.common.json)) continue;
    if (runtime.options.common.json) {
      out["catalogue"].push_back({{"id", entry.id},
                                  {"kind", entry.kind},
                                  {"bytes", entry.bytes()},
                                  {"licence", entry.licence}});
    } else {
      terminal.out_text(fmt::format("{:<22} {:<6} {:>8}  not installed · {}\n", entry.id,
                                    entry.kind, human_bytes(entry.bytes()), entry.licence));
    }
  }
  if (runtime.options.common.json) terminal.out(dump_json(out) + "\n");
  terminal.flush();
  if (!runtime.options.common.json) {
    if (installed.empty())
      terminal.note("no model is installed: apud model pull default");
    else if (!runtime.options.manage.all)
      terminal.note("--all shows the whole catalogue");
  }
}

const CatalogueEntry& choose_default(Runtime& runtime) {
  MachineFacts facts = machine_facts();
  bool hub = hub_reachable();
  Recommendation choice = recommend_model(Catalogue::builtin().entries(), facts.available_bytes,
                                          measure_read_bandwidth(facts.cpus), hub);
  if (!choice.entry) {
    const CatalogueEntry* least = Catalogue::builtin().find("qwen2.5-coder:0.5b");
    throw Error(
        ErrorKind::kUnavailable,
        fmt::format("no chat model of the catalogue fits {} of free memory at a usable speed",
                    human_bytes(facts.available_bytes)),
        least ? "apud model pull " + least->id + " takes the smallest all the same" : "");
  }
  runtime.terminal.note("chosen: " + choice.reason);
  return *choice.entry;
}

void pull(Runtime& runtime) {
  const ManageOptions& m = runtime.options.manage;
  Terminal& terminal = runtime.terminal;
  if (m.names.empty())
    throw Error(ErrorKind::kUsage, "pull: which model?",
                "apud model pull default, or an id of apud model list --all");
  for (const std::string& name : m.names) {
    const CatalogueEntry* entry = Catalogue::builtin().find(name);
    if (name == "default") {
      // A chat model that is there already stays the default: a second run does nothing twice.
      std::vector<InstalledModel> installed = installed_models();
      auto chat = std::find_if(installed.begin(), installed.end(), [](const InstalledModel& i) {
        const CatalogueEntry* known = Catalogue::builtin().find(i.id);
        return i.kind == "chat" && (!known || !known->base);
      });
      if (chat != installed.end()) {
        terminal.note("chat model already here: " + chat->id);
        continue;
      }
      entry = &choose_default(runtime);
    }
    if (!entry) {
      auto near = Catalogue::builtin().nearest(name);
      throw Error(ErrorKind::kNoInput, "no model '" + name + "' in the catalogue",
                  near.empty() ? "apud model list --all"
                               : fmt::format("nearest: {}", fmt::join(near, ", ")));
    }
    for (const InstalledModel& installed : installed_models()) {
      if (installed.id == entry->id) {
        terminal.note("already here: " + installed.id + " " + installed.path.string());
        entry = nullptr;
        break;
      }
    }
    if (!entry) continue;
    terminal.note(fmt::format("fetching {} ({}), licence {}", entry->id,
                              human_bytes(entry->bytes()), entry->licence));
    InstalledModel got = pull_model(
        *entry, m.licence,
        [&](const PullProgress& progress) {
          terminal.progress(fmt::format("{} · {} of {} · {}%", progress.file,
                                        human_bytes(progress.done), human_bytes(progress.total),
                                        progress.total ? progress.done * 100 / progress.total : 0));
        },
        &cancel_flag());
    terminal.progress("", true);
    // What nobody has hashed for the project cannot be held against more than the hub's own words.
    terminal.note(fmt::format(
        "{}: {} {}, {}", got.id, human_bytes(got.bytes),
        entry->unverified ? "as the hub states them (the catalogue pins no SHA-256 of this model)"
                          : "verified",
        got.path.string()));
  }
}

void info(Runtime& runtime) {
  const ManageOptions& m = runtime.options.manage;
  Terminal& terminal = runtime.terminal;
  InstalledModel installed =
      m.names.empty() ? runtime.chat_model().installed : find_model(m.names[0]);
  std::shared_ptr<const Model> model = load_model(installed.path);
  const ModelConfig& c = model->config();
  ProgramCost cost = program_cost(model->program(), model->weights());
  int ctx = runtime.options.settings.ctx > 0 ? runtime.options.settings.ctx
                                             : std::min(c.context, kDefaultContext);
  uint64_t kv = static_cast<uint64_t>(cost.kv_values_per_token) * 2 * static_cast<uint64_t>(ctx);
  if (runtime.options.common.json) {
    terminal.out(dump_json({{"schema", kJsonSchema},
                            {"id", installed.id},
                            {"architecture", c.architecture},
                            {"quantisation", model->quantisation()},
                            {"parameters", cost.parameters},
                            {"layers", c.layers},
                            {"width", c.width},
                            {"heads", c.heads},
                            {"kv_heads", c.kv_heads},
                            {"head_dim", c.head_dim},
                            {"vocab", c.vocab},
                            {"context", c.context},
                            {"tokenizer", model->tokenizer().kind()},
                            {"file_bytes", model->file_bytes()},
                            {"weight_bytes", cost.weight_bytes},
                            {"kv_bytes", kv},
                            {"kv_context", ctx},
                            {"flops_per_token", cost.flops_per_token},
                            {"read_bytes_per_token", cost.read_bytes_per_token},
                            {"fingerprint", model->fingerprint()},
                            {"from_table", c.from_table}}) +
                 "\n");
  } else {
    std::string out = fmt::format(
        "model         {}\npath          {}\narchitecture  {} ({} layers, width {}, {}/{} heads of "
        "{}, feed-forward {})\nparameters    {}\nweights       {} as {}\n"
        "tokenizer     {}, {} tokens\ncontext       {} trained\nmemory        {} weights + {} KV "
        "(f16) at {} tokens\nper token     {:.2f} GFLOP, {} read\nfingerprint   {}\n",
        c.name.empty() ? installed.id : c.name, installed.path.string(), c.architecture, c.layers,
        c.width, c.heads, c.kv_heads, c.head_dim, c.ffn_width, with_commas(cost.parameters),
        human_bytes(static_cast<uint64_t>(cost.weight_bytes)), model->quantisation(),
        model->tokenizer().kind(), with_commas(c.vocab), with_commas(c.context),
        human_bytes(static_cast<uint64_t>(cost.weight_bytes)), human_bytes(kv), with_commas(ctx),
        static_cast<double>(cost.flops_per_token) / 1e9,
        human_bytes(static_cast<uint64_t>(cost.read_bytes_per_token)), model->fingerprint());
    for (const std::string& constant : c.from_table) out += "not in file   " + constant + "\n";
    if (!c.query_prompt.empty() || !c.passage_prompt.empty())
      out +=
          fmt::format("prompts       query '{}', passage '{}'\n", c.query_prompt, c.passage_prompt);
    terminal.out_text(out);
    if (m.ops) terminal.out_text(print_program(model->program(), model->weights()));
  }
  terminal.flush();
}

}  // namespace

int verb_model(Runtime& runtime) {
  const ManageOptions& m = runtime.options.manage;
  if (m.action == "list") {
    list(runtime);
  } else if (m.action == "pull") {
    pull(runtime);
  } else if (m.action == "info") {
    info(runtime);
  } else if (m.action == "add") {
    if (m.names.size() != 2) throw Error(ErrorKind::kUsage, "add: expected NAME and PATH");
    load_model(m.names[1]);  // refused before it gets a name
    InstalledModel added = add_model(m.names[0], m.names[1]);
    runtime.terminal.note("added " + added.id);
  } else {
    if (m.names.empty()) throw Error(ErrorKind::kUsage, "rm: which model?");
    for (const std::string& name : m.names)
      runtime.terminal.note(
          fmt::format("removed {}, freed {}", name, human_bytes(remove_model(name))));
  }
  return 0;
}

}  // namespace apud
