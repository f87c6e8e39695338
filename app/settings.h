// Settings: defaults, then the configuration file (config_dir()/config.toml), then the command
// line. One table names every key; `apud config`, the file's checker and the documentation read it.
//
// Threads: values.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"

namespace apud {

struct Settings {
  std::string model = "";  // catalogue id, added name or path; empty: best installed
  std::string embedder = "e5-small-q4";
  int chunk = 0;                // most tokens of a chunk; 0: what suits the embedder
  std::string device = "auto";  // auto, cuda, cpu
  std::string cpu_isa = "auto";
  int threads = 0;          // 0: what the machine gives
  int ctx = 0;              // tokens; 0: 4096 on the CPU, what fits on a GPU
  std::string kv = "auto";  // auto, f16, bf16, i8, f32: type of the KV cache
  int evidence = 0;  // tokens of passages in a prompt; 0: 2000, fewer where reading takes too long
  int answer = 600;  // tokens of an answer
  std::string collection = "default";
  double dense_weight = -1;  // share of vectors against keywords; <0: as fitted to the collection
  std::string rerank = "auto";  // on, off; auto: where the collection's self-test showed a gain
  int rerank_ms = 5000;         // time for reranking a question
  std::string expand =
      "off";                // on: an answer that the model imagines is searched beside the question
  double temperature = -1;  // <0: 0 for ask and batch, 0.7 for chat, 0.2 with documents
  int beams = 1;            // above 1: beam search in ask and batch
  std::string system;       // system prompt; empty: the built-in one
  std::string think = "off";  // on, off, show
  double cache_gb = 10;       // disk tier of the prefix cache
};

struct SettingKey {
  const char* name;
  const char* help;
};
/// Every key of the configuration file, in print order.
const std::vector<SettingKey>& setting_keys();
/// Text of a key's value in `settings`.
std::string setting_text(const Settings& settings, const std::string& key);
/// Parses and checks one value; throws kConfig (from a file) or kUsage naming key and value.
void set_setting(Settings& settings, const std::string& key, const std::string& value,
                 bool from_file);

Path settings_path();
/// Reads the file if it is there; throws kConfig with line, key and the nearest known keys.
Settings load_settings();
/// The keys of another file of that form, over `settings`; throws kNoInput where there is none.
void apply_settings_file(Settings& settings, const Path& file);
/// Writes one key into the file, others and comments of ours kept; the value is checked first.
void save_setting(const std::string& key, const std::optional<std::string>& value);

}  // namespace apud
