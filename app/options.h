// Everything the command line says, by verb. Filled by cli.cpp from one option table (which is also
// what help and shell completion print), read by the verbs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/settings.h"

namespace apud {

/// Options that several verbs share.
struct CommonOptions {
  bool quiet = false;
  bool verbose = false;
  bool json = false;
  bool stats = false;
  std::vector<std::string> collections;  // -k; empty: the default one where it exists
  bool no_docs = false;
};

struct GenerationOptions {
  std::optional<double> temperature;
  int top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::optional<int> max_tokens;
  bool deterministic = false;
};

struct AskOptions {
  std::vector<std::string> words;  // the question; "-" reads stdin
  std::vector<std::string> files;  // -f
  bool show_prompt = false;
  bool no_sources = false;
  bool only_sources = false;
  bool over_all = false;
  bool strict = false;
  bool no_save = false;
  int samples = 1;  // -n
  std::string system;
};

struct ChatOptions {
  bool resume_last = false;  // -c
  std::string session;       // -s
  bool fork = false;
  bool memory = false;
  bool no_save = false;
  std::string system;
};

struct SearchOptions {
  std::vector<std::string> words;
  std::string mode = "hybrid";
  int count = 10;           // -n
  bool files_only = false;  // -l
};

struct IngestVerbOptions {
  std::vector<std::string> paths;
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  bool hidden = false;
  bool no_ignore = false;
  bool dry_run = false;  // -n
  bool jsonl = false;
  bool prune = false;
  bool pin = false;
  bool wait = false;
  std::vector<std::string> fail_on;
  int jobs = 0;
};

struct BatchOptions {
  std::string input = "-";   // -i
  std::string output = "-";  // -o
  bool resume = false;
  std::string jobs = "auto";
  std::string system;
  bool no_save = false;
};

struct BenchOptions {
  std::vector<int> prompt_tokens = {512};
  std::vector<int> contexts = {512};
  int decode_tokens = 64;
  int repeats = 3;
  std::string shape;  // SHAPE:FORMAT with random weights; empty: the chat model
  bool stages = false;
};

struct EvalOptions {
  std::string questions;
  int top = 10;
  std::string versus;    // a file of settings over these
  bool answers = false;  // the chat model answers every question, for `cited`
};

/// Words after a verb with sub-verbs (coll rm NAME …).
struct ManageOptions {
  std::string action;
  std::vector<std::string> names;
  std::string format = "md";
  std::string licence;  // --accept-licence
  bool ops = false;
  bool force = false;
  bool all = false;
  bool remove = false;  // pin --rm
};

struct Options {
  Settings settings;
  std::string verb;
  CommonOptions common;
  GenerationOptions generation;
  AskOptions ask;
  ChatOptions chat;
  SearchOptions search;
  IngestVerbOptions ingest;
  BatchOptions batch;
  BenchOptions bench;
  EvalOptions eval;
  ManageOptions manage;
};

}  // namespace apud
