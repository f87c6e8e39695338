// apud: entry point. Everything is decided once here: child entry points, settings, the verb, and
// how an error is shown.
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <new>

#include "app/cli.h"
#include "app/json_text.h"
#include "app/runtime.h"
#include "app/signals.h"
#include "app/terminal.h"
#include "base/child.h"
#include "base/utf8.h"

namespace apud {
namespace {

int run_verb(Runtime& runtime) {
  static const std::map<std::string, std::function<int(Runtime&)>> verbs = {
      {"ask", verb_ask},
      {"chat", verb_chat},
      {"batch", verb_batch},
      {"search", verb_search},
      {"ingest", verb_ingest},
      {"eval", verb_eval},
      {"coll", verb_coll},
      {"doc", verb_doc},
      {"session", verb_session},
      {"cache", verb_cache},
      {"pin", verb_pin},
      {"model", verb_model},
      {"config", verb_config},
      {"explain", verb_explain},
      {"doctor", verb_doctor},
      {"bench", verb_bench},
      {"completion",
       [](Runtime& r) {
         r.terminal.out(completion_script(r.options.manage.action));
         r.terminal.flush();
         return 0;
       }},
  };
  return verbs.at(runtime.options.verb)(runtime);
}

int report(Terminal& terminal, const Error& e, bool json) {
  terminal.progress("", true);
  if (json) {
    ordered_json out = {
        {"schema", kJsonSchema},
        {"error",
         {{"code", error_code_name(e.kind())}, {"message", e.what()}, {"advice", e.advice()}}}};
    terminal.out(dump_json(out) + "\n");
    try {
      terminal.flush();
    } catch (const Error&) {
      // stdout is gone as well: the line below and the exit code remain.
    }
  }
  terminal.error("error: " + printable(e.what(), true));
  if (!e.advice().empty()) terminal.error("  " + printable(e.advice(), true));
  return exit_code(e.kind());
}

int apud_main(int argc, char** argv) {
  occupy_closed_descriptors();
  Terminal terminal(inspect_terminal());
  bool json = false;
  for (int i = 1; i < argc; ++i) json |= std::string_view(argv[i]) == "--json";
  try {
    install_signal_handlers();
    // A broken configuration file must not keep `apud config` from mending it.
    bool mending = argc > 1 &&
                   (std::string_view(argv[1]) == "config" || std::string_view(argv[1]) == "doctor");
    // Nor does help need settings.
    for (int i = 1; i < argc; ++i) {
      for (std::string_view flag : {"-h", "--help", "--version"}) mending |= flag == argv[i];
    }
    Settings settings;
    try {
      settings = load_settings();
    } catch (const Error& e) {
      if (!mending) throw;
      terminal.warn(e.what());
    }
    Parsed parsed = parse_command_line(argc, argv, settings);
    if (!parsed.run) {
      terminal.out(parsed.text);
      terminal.flush();
      return parsed.exit_code;
    }
    terminal.set_quiet(parsed.options.common.quiet);
    Runtime runtime(std::move(parsed.options), terminal);
    int code = run_verb(runtime);
    terminal.flush();
    return code;
  } catch (const Error& e) {
    return report(terminal, e, json);
  } catch (const Interrupted&) {
    return ending_signal() ? 128 + ending_signal() : 130;
  } catch (const std::bad_alloc&) {
    return report(terminal,
                  Error(ErrorKind::kBusy, "out of memory", "use a smaller model or --ctx"), json);
  } catch (const std::exception& e) {
    return report(terminal,
                  Error(ErrorKind::kInternal, std::string("unexpected: ") + e.what(),
                        "this is a bug of apud"),
                  json);
  }
}

}  // namespace
}  // namespace apud

int main(int argc, char** argv) {
  apud::child_main(argc, argv);
  return apud::apud_main(argc, argv);
}
