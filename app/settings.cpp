#include "app/settings.h"

#include <fmt/format.h>

#include <functional>
#include <sstream>
#include <toml++/toml.h>

#include "base/nearest.h"
#include "base/error.h"
#include "engine/engine.h"

namespace apud {

namespace {

struct Field {
  SettingKey key;
  std::function<std::string(const Settings&)> get;
  /// Returns what was expected when the value is no good, else nothing.
  std::function<std::string(Settings&, const std::string&)> set;
};

template <class T>
std::function<std::string(Settings&, const std::string&)> number(T Settings::*member, double low,
                                                                 double high) {
  return [=](Settings& s, const std::string& text) -> std::string {
    std::string expected = fmt::format("a number from {} to {}", low, high);
    char* end = nullptr;
    double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end || !(value >= low && value <= high)) return expected;
    if (std::is_integral_v<T> && value != static_cast<double>(static_cast<long long>(value)))
      return "a whole number";
    s.*member = static_cast<T>(value);
    return {};
  };
}

std::function<std::string(Settings&, const std::string&)> text(std::string Settings::*member) {
  return [=](Settings& s, const std::string& value) -> std::string {
    s.*member = value;
    return {};
  };
}

std::function<std::string(Settings&, const std::string&)> choice(
    std::string Settings::*member, const std::vector<std::string>& allowed) {
  return [=](Settings& s, const std::string& value) -> std::string {
    for (const std::string& one : allowed) {
      if (one == value) {
        s.*member = value;
        return {};
      }
    }
    return fmt::format("one of {}", fmt::join(allowed, ", "));
  };
}

template <class T>
std::function<std::string(const Settings&)> show(T Settings::*member) {
  return [=](const Settings& s) { return fmt::format("{}", s.*member); };
}

const std::vector<Field>& fields() {
  static const std::vector<Field> table = {
      {{"model",
        "chat model: catalogue id, added name or path; empty takes the best installed one"},
       show(&Settings::model),
       text(&Settings::model)},
      {{"embedder", "embedding model for new collections"},
       show(&Settings::embedder),
       text(&Settings::embedder)},
      {{"chunk", "most tokens of a chunk in new collections; 0 takes what suits the embedder"},
       show(&Settings::chunk),
       number(&Settings::chunk, 0, 8192)},
      {{"device", "auto, cuda or cpu; auto says so when it takes the CPU although a card is there"},
       show(&Settings::device),
       choice(&Settings::device, {"auto", "cuda", "cpu"})},
      {{"cpu_isa", "force a CPU path: auto, avx2, avx512, vnni, amx"},
       show(&Settings::cpu_isa),
       choice(&Settings::cpu_isa, {"auto", "avx2", "avx512", "vnni", "amx"})},
      {{"threads", "CPU threads; 0 takes what affinity and cgroup allow"},
       show(&Settings::threads),
       number(&Settings::threads, 0, 1024)},
      {{"ctx", "context window in tokens; 0 takes 4096 on the CPU and what fits on a GPU"},
       show(&Settings::ctx),
       number(&Settings::ctx, 0, 1 << 20)},
      {{"kv", "type of the KV cache: auto, f16, bf16, i8 or f32; i8 halves it"},
       show(&Settings::kv),
       choice(&Settings::kv, {"auto", "f16", "bf16", "i8", "f32"})},
      {{"evidence",
        "tokens of passages in a prompt; 0 takes 2000, or what this machine reads in 10 s"},
       show(&Settings::evidence),
       number(&Settings::evidence, 0, 1 << 20)},
      {{"answer", "tokens kept free for the answer"},
       show(&Settings::answer),
       number(&Settings::answer, 1, 1 << 20)},
      {{"collection", "collection used without -k"},
       show(&Settings::collection),
       text(&Settings::collection)},
      {{"dense_weight",
        "share of vectors against keywords in a search, 0 to 1; -1 takes what was fitted to the "
        "collection"},
       show(&Settings::dense_weight),
       number(&Settings::dense_weight, -1, 1)},
      {{"expand",
        "search an imagined answer beside the question: off or on (finds more, takes "
        "seconds)"},
       show(&Settings::expand),
       choice(&Settings::expand, {"off", "on"})},
      {{"rerank",
        "the chat model judges the best passages again: on, off, or auto, which is on where `apud "
        "coll selftest` showed a gain"},
       show(&Settings::rerank),
       choice(&Settings::rerank, {"auto", "on", "off"})},
      {{"rerank_ms",
        "milliseconds that reranking a question may take; how many passages that is follows from "
        "the reading speed"},
       show(&Settings::rerank_ms),
       number(&Settings::rerank_ms, 1, 3'600'000)},
      {{"temperature", "sampling temperature; -1 takes each verb's own"},
       show(&Settings::temperature),
       number(&Settings::temperature, -1, 10)},
      {{"beams",
        "beams of a search for the most probable answer, 1 to 8, in ask and batch; 1 takes one "
        "token after the other"},
       show(&Settings::beams),
       number(&Settings::beams, 1, kMaxBeams)},
      {{"system", "system prompt of chats; empty takes the built-in one"},
       show(&Settings::system),
       text(&Settings::system)},
      {{"think", "reasoning of thinking models: off, on (hidden) or show (on stderr)"},
       show(&Settings::think),
       choice(&Settings::think, {"off", "on", "show"})},
      {{"cache_gb", "most gigabytes of KV pages kept on disk; 0 keeps none"},
       show(&Settings::cache_gb),
       number(&Settings::cache_gb, 0, 100000)},
  };
  return table;
}

const Field* find_field(const std::string& key) {
  for (const Field& field : fields()) {
    if (key == field.key.name) return &field;
  }
  return nullptr;
}

const Field& require_field(const std::string& key, bool from_file) {
  if (const Field* field = find_field(key)) return *field;
  std::vector<std::string> names;
  for (const Field& field : fields()) names.push_back(field.key.name);
  std::vector<std::string> near = nearest_names(key, names);
  throw Error(from_file ? ErrorKind::kConfig : ErrorKind::kUsage,
              fmt::format("unknown setting '{}'", key),
              fmt::format("{}`apud config list` shows all",
                          near.empty() ? "" : fmt::format("nearest: {}; ", fmt::join(near, ", "))));
}

}  // namespace

const std::vector<SettingKey>& setting_keys() {
  static const std::vector<SettingKey> keys = [] {
    std::vector<SettingKey> all;
    for (const Field& field : fields()) all.push_back(field.key);
    return all;
  }();
  return keys;
}

std::string setting_text(const Settings& settings, const std::string& key) {
  return require_field(key, false).get(settings);
}

void set_setting(Settings& settings, const std::string& key, const std::string& value,
                 bool from_file) {
  std::string expected = require_field(key, from_file).set(settings, value);
  if (!expected.empty()) {
    throw Error(from_file ? ErrorKind::kConfig : ErrorKind::kUsage,
                fmt::format("setting {} = '{}': expected {}", key, value, expected),
                from_file ? "mend the line, or apud config unset " + key : "");
  }
}

Path settings_path() { return config_dir() / "config.toml"; }

namespace {
toml::table parse_file(const std::string& content, const Path& file) {
  try {
    return toml::parse(content, file.string());
  } catch (const toml::parse_error& e) {
    throw Error(ErrorKind::kConfig,
                fmt::format("{}:{}: {}", file.string(), e.source().begin.line, e.description()),
                "mend the line or remove the file");
  }
}

void apply(Settings& settings, const std::string& content, const Path& file) {
  toml::table table = parse_file(content, file);
  for (const auto& [key, node] : table) {
    std::string value;
    if (auto s = node.value<std::string>()) {
      value = *s;
    } else if (auto i = node.value<int64_t>(); i && node.is_integer()) {
      value = std::to_string(*i);
    } else if (auto d = node.value<double>()) {
      value = fmt::format("{}", *d);
    } else {
      throw Error(ErrorKind::kConfig,
                  fmt::format("{}:{}: setting {}: expected a string or a number", file.string(),
                              node.source().begin.line, key.str()));
    }
    try {
      set_setting(settings, std::string(key.str()), value, true);
    } catch (const Error& e) {
      throw Error(e.kind(),
                  fmt::format("{}:{}: {}", file.string(), key.source().begin.line, e.what()),
                  e.advice());
    }
  }
}
}  // namespace

Settings load_settings() {
  Settings settings;
  if (auto content = read_file_if_exists(settings_path(), 1 << 20))
    apply(settings, *content, settings_path());
  return settings;
}

void apply_settings_file(Settings& settings, const Path& file) {
  apply(settings, read_file(file, 1 << 20), file);
}

void save_setting(const std::string& key, const std::optional<std::string>& value) {
  Settings probe;
  if (value) set_setting(probe, key, *value, false);
  auto content = read_file_if_exists(settings_path(), 1 << 20);
  toml::table table = content ? parse_file(*content, settings_path()) : toml::table{};
  // An unknown key that stands in the file can be taken out of it.
  if (!value && !table.contains(key)) require_field(key, false);
  if (value) {
    table.insert_or_assign(key, *value);
  } else {
    table.erase(key);
  }
  std::ostringstream out;
  out << table << '\n';
  make_private_dir(config_dir());
  write_file_atomic(settings_path(), out.str());
}

}  // namespace apud
