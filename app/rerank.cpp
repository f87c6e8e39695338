#include "app/rerank.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "app/clock.h"
#include "app/signals.h"
#include "base/file.h"
#include "base/stopwatch.h"
#include "engine/conversation.h"

namespace apud {
namespace {

constexpr const char* kSystem =
    "You judge search results. You are given a question and a passage of a document. Answer Yes "
    "if the passage holds the answer to the question, No if it does not.";
constexpr int kFrameTokens = 20;  // of a judgement beside the passage: what stands after it
constexpr uint64_t kLongestTests = 16u << 20;

/// log of the sum of exp(values).
double log_sum(std::span<const float> values) {
  double most = *std::max_element(values.begin(), values.end()), sum = 0;
  for (float value : values) sum += std::exp(value - most);
  return most + std::log(sum);
}

RerankOptions options_of(Runtime& runtime) {
  RerankOptions options;
  options.candidates =
      judged_candidates(runtime.reading_rate(), runtime.options.settings.rerank_ms);
  return options;
}

bool wanted(Runtime& runtime, const std::vector<std::string>& collections) {
  const std::string& rerank = runtime.options.settings.rerank;
  if (rerank != "auto") return rerank == "on";
  return std::all_of(collections.begin(), collections.end(), [&](const std::string& name) {
    CollectionInfo info = runtime.store().collection(name);
    // No chat model is looked at before there is a test.
    for (const RerankRecord& record : load_rerank_tests(info.uuid)) {
      if (record.helps && still_holds(record, info) &&
          record.fingerprint == runtime.chat_model().model->fingerprint())
        return true;
    }
    return false;
  });
}

Path tests_path() { return cache_dir() / "rerank.json"; }

ordered_json load_all() {
  auto text = read_file_if_exists(tests_path(), kLongestTests);
  ordered_json all = text ? ordered_json::parse(*text, nullptr, false) : ordered_json::object();
  return all.is_object() ? all : ordered_json::object();  // damaged: as never tested
}

}  // namespace

LikelihoodJudge::LikelihoodJudge(Runtime& runtime, double budget_ms)
    : runtime_(runtime), budget_ms_(budget_ms) {
  const Tokenizer& tokenizer = runtime.chat_model().model->tokenizer();
  auto add = [&](std::vector<int32_t>& ids, const char* word) {
    std::vector<int32_t> encoded = tokenizer.encode(word);
    if (encoded.size() == 1 && std::find(ids.begin(), ids.end(), encoded[0]) == ids.end())
      ids.push_back(encoded[0]);
  };
  for (const char* word : {"Yes", "yes", " Yes", " yes"}) add(yes_, word);
  for (const char* word : {"No", "no", " No", " no"}) add(no_, word);
  if (yes_.empty() || no_.empty())
    throw Error(ErrorKind::kUnavailable,
                runtime.chat_model().installed.id + " has no token for yes and no",
                "rerank with another chat model (-m), or not at all (apud config set rerank off)");
}

int LikelihoodJudge::count_tokens(std::string_view text) const {
  return static_cast<int>(runtime_.chat_model().model->tokenizer().encode(text).size());
}

std::vector<float> LikelihoodJudge::judge(std::string_view question,
                                          std::span<const std::string> passages) {
  auto start = std::chrono::steady_clock::now();
  Engine& engine = runtime_.engine();
  while (engine.running() > 0) engine.step();  // batch: scoring has the engine to itself
  std::vector<float> odds;
  for (const std::string& passage : passages) {
    double spent = milliseconds_since(start);
    if (budget_ms_ > 0 && !odds.empty() &&
        spent + spent / static_cast<double>(odds.size()) > budget_ms_)
      break;
    Conversation conversation =
        Conversation::start(runtime_.chat_model().model, kSystem, unix_now());
    conversation.add_user("Question: " + std::string(question) + "\n\nPassage:\n" + passage +
                              "\n\nDoes this passage answer the question? Yes or No.",
                          "", unix_now());
    std::vector<int32_t> prompt = conversation.prompt(runtime_.context() - 1, Think::kOff).ids;
    std::vector<ScoreItem> items;
    for (int32_t id : yes_) items.push_back({prompt, {id}});
    for (int32_t id : no_) items.push_back({prompt, {id}});
    std::vector<float> logs;
    for (const auto& one : engine.score(items, &cancel_flag())) logs.push_back(one[0]);
    if (cancel_flag().raised()) break;  // not computed to its end
    std::span<const float> all(logs);
    odds.push_back(
        static_cast<float>(log_sum(all.first(yes_.size())) - log_sum(all.subspan(yes_.size()))));
  }
  return odds;
}

int judged_candidates(double rate, double budget_ms) {
  const RerankOptions most;
  double each = (most.passage_tokens + kFrameTokens) / std::max(rate, 1e-3) * 1000;
  return static_cast<int>(std::min<double>(most.candidates, budget_ms / each));
}

int rerank_hits(Runtime& runtime, const EvidenceRequest& request, Retrieval& retrieval,
                std::vector<std::string>& warnings) {
  if (retrieval.hits.size() < 2 || !wanted(runtime, request.collections)) return 0;
  RerankOptions options = options_of(runtime);
  if (options.candidates < 2) {
    warnings.push_back(
        fmt::format("not reranked: at {:.0f} tokens/s two passages take more than {} ms "
                    "(rerank_ms)",
                    runtime.reading_rate(), runtime.options.settings.rerank_ms));
    return 0;
  }
  LikelihoodJudge judge(runtime, runtime.options.settings.rerank_ms);
  return rerank(retrieval.hits, request.question, judge, options);
}

bool still_holds(const RerankRecord& record, const CollectionInfo& collection) {
  return record.embedder == collection.embedder.fingerprint &&
         std::abs(record.chunks - collection.chunks) * 5 <= record.chunks;
}

std::vector<RerankRecord> load_rerank_tests(const std::string& collection_uuid) {
  std::vector<RerankRecord> records;
  ordered_json all = load_all();
  auto found = all.find(collection_uuid);
  if (found == all.end() || !found->is_array()) return records;
  for (const ordered_json& one : *found) {
    try {
      records.push_back({one.at("model").get<std::string>(),
                         one.at("fingerprint").get<std::string>(),
                         one.at("questions").get<int>(),
                         one.at("candidates").get<int>(),
                         one.at("before").get<double>(),
                         {one.at("gain").get<double>(), one.at("low").get<double>(),
                          one.at("high").get<double>()},
                         one.at("helps").get<bool>(),
                         one.at("chunks").get<int64_t>(),
                         one.at("embedder").get<std::string>()});
    } catch (const nlohmann::json::exception&) {
      // Of another version, or somebody's edit: as never tested.
    }
  }
  return records;
}

void save_rerank_test(const std::string& collection_uuid, const RerankRecord& record) {
  std::vector<RerankRecord> records = load_rerank_tests(collection_uuid);
  std::erase_if(records,
                [&](const RerankRecord& r) { return r.fingerprint == record.fingerprint; });
  records.push_back(record);
  ordered_json all = load_all(), list = ordered_json::array();
  for (const RerankRecord& r : records) {
    list.push_back({{"model", r.model},
                    {"fingerprint", r.fingerprint},
                    {"questions", r.questions},
                    {"candidates", r.candidates},
                    {"before", r.before},
                    {"gain", r.gain.mean},
                    {"low", r.gain.low},
                    {"high", r.gain.high},
                    {"helps", r.helps},
                    {"chunks", r.chunks},
                    {"embedder", r.embedder}});
  }
  all[collection_uuid] = list;
  make_private_dir(cache_dir());
  write_file_atomic(tests_path(), all.dump());
}

std::string rerank_line(const RerankRecord& r, const CollectionInfo& collection) {
  return fmt::format("{} with {}: MRR {:.3f}, reranked {:+.3f} [{:+.3f}, {:+.3f}] on {} headings",
                     !still_holds(r, collection) ? "no longer tested"
                     : r.helps                   ? "yes"
                                                 : "no",
                     r.model, r.before, r.gain.mean, r.gain.low, r.gain.high, r.questions);
}

ordered_json rerank_json(const RerankRecord& r, const CollectionInfo& collection) {
  return {{"model", r.model},         {"helps", r.helps && still_holds(r, collection)},
          {"mrr", r.before},          {"gain", r.gain.mean},
          {"low", r.gain.low},        {"high", r.gain.high},
          {"questions", r.questions}, {"candidates", r.candidates}};
}

int self_test_collection(Runtime& runtime, const std::string& name) {
  Terminal& terminal = runtime.terminal;
  CollectionInfo info = runtime.store().collection(name);
  RerankOptions options = options_of(runtime);
  if (options.candidates < 2) {
    throw Error(ErrorKind::kUnavailable,
                fmt::format("this machine reads {:.0f} tokens/s: two passages take more than {} ms",
                            runtime.reading_rate(), runtime.options.settings.rerank_ms),
                "raise the setting rerank_ms, or take a smaller chat model (-m)");
  }
  LikelihoodJudge judge(runtime, 0);
  RerankTest test = test_reranker(
      runtime.store(), runtime.embedder_of(info), info, judge, options,
      [&](int done, int total) {
        terminal.progress(fmt::format("{} of {} headings", done, total));
      },
      &cancel_flag());
  terminal.progress("", true);
  if (cancel_flag().raised()) throw Interrupted();
  if (test.questions == 0) {
    throw Error(ErrorKind::kBadData,
                fmt::format("collection '{}' has too few headings to ask", name),
                "measure with questions of your own: apud eval QUESTIONS.jsonl --rerank");
  }
  RerankRecord record{runtime.chat_model().installed.id,
                      runtime.chat_model().model->fingerprint(),
                      test.questions,
                      options.candidates,
                      test.before.mean,
                      test.gain.difference,
                      test.gain.higher,
                      info.chunks,
                      info.embedder.fingerprint};
  save_rerank_test(info.uuid, record);
  if (runtime.options.common.json) {
    ordered_json out = {{"schema", kJsonSchema}, {"collection", name}};
    out.update(rerank_json(record, info));
    terminal.out(dump_json(out) + "\n");
  } else {
    terminal.out_text("reranks: " + rerank_line(record, info) + "\n");
  }
  terminal.flush();
  return record.helps ? 0 : 1;
}

}  // namespace apud
