#include "engine/receipt.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/numbers.h"

namespace apud {

using Json = nlohmann::ordered_json;

namespace {

/// "113", "1.2k", "34k".
std::string brief(int64_t number) {
  if (number < 1000) return std::to_string(number);
  if (number < 9950) return fmt::format("{:.1f}k", static_cast<double>(number) / 1000);
  if (number < 999'500) return fmt::format("{:.0f}k", static_cast<double>(number) / 1000);
  return fmt::format("{:.1f}M", static_cast<double>(number) / 1e6);
}

std::string brief_rate(double per_second) {
  return per_second < 9.95 ? fmt::format("{:.1f}", per_second) : fmt::format("{:.0f}", per_second);
}

std::string brief_seconds(double seconds) {
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  if (seconds < 100) return fmt::format("{:.0f} s", seconds);
  return fmt::format("{:.0f} min", seconds / 60);
}

const char* cause_text(CacheBreak::Cause cause) {
  switch (cause) {
    case CacheBreak::Cause::kTemplate:
      return "the chat template wrote an earlier turn differently";
    case CacheBreak::Cause::kReasoning:
      return "the reasoning before the last answer was left out";
    case CacheBreak::Cause::kSystemPrompt:
      return "the system prompt changed";
    case CacheBreak::Cause::kEvidence:
      return "passages of an earlier turn changed";
    case CacheBreak::Cause::kEdited:
      return "an earlier turn was edited or taken back";
    case CacheBreak::Cause::kTurnsDropped:
      return "the oldest turns left the full window";
    case CacheBreak::Cause::kEvicted:
      return "the tokens were no longer in the cache";
    case CacheBreak::Cause::kOtherModel:
      return "another model answered before";
  }
  return "";
}

}  // namespace

const char* cache_break_name(CacheBreak::Cause cause) {
  switch (cause) {
    case CacheBreak::Cause::kTemplate:
      return "template";
    case CacheBreak::Cause::kReasoning:
      return "reasoning";
    case CacheBreak::Cause::kSystemPrompt:
      return "system_prompt";
    case CacheBreak::Cause::kEvidence:
      return "evidence";
    case CacheBreak::Cause::kEdited:
      return "edited";
    case CacheBreak::Cause::kTurnsDropped:
      return "turns_dropped";
    case CacheBreak::Cause::kEvicted:
      return "evicted";
    case CacheBreak::Cause::kOtherModel:
      return "other_model";
  }
  return "unknown";
}

std::string receipt_line(const Receipt& receipt) {
  const Usage& usage = receipt.usage;
  std::string line = fmt::format("{} reused · {} read · {} written", brief(usage.cached),
                                 brief(usage.computed), brief(usage.generated));
  if (usage.generated > 0) line += " · first word " + brief_seconds(receipt.timing.ttft);
  if (receipt.timing.tpot > 0) {
    line += " · " + brief_rate(receipt.timing.tokens_per_second()) + " tok/s";
  }
  if (!receipt.not_saved.empty()) line += " · unsaved";
  return line;
}

namespace {

/// "reused 7,412: device 6,900, disk 512"
std::string reused_text(const Usage& usage) {
  std::string out = "reused " + with_commas(usage.cached);
  const char* separator = ": ";
  for (auto [name, tokens] :
       {std::pair("device", usage.cached_device), std::pair("host", usage.cached_host),
        std::pair("disk", usage.cached_disk)}) {
    if (tokens == 0) continue;
    out += fmt::format("{}{} {}", separator, name, with_commas(tokens));
    separator = ", ";
  }
  return out;
}

std::string tier_text(const TierChoice& choice) {
  std::string out = fmt::format("{} held {} more tokens: {}", choice.tier,
                                with_commas(choice.tokens), choice.used ? "used" : "computed");
  if (choice.restore_seconds > 0)
    out += fmt::format(" (predicted: {:.3f} s to move them, {:.3f} s to compute them)",
                       choice.restore_seconds, choice.compute_seconds);
  return out + "\n";
}

}  // namespace

constexpr int kTimedTokens = 64;  // fewer take a step's overhead, not a speed

std::string receipt_details(const Receipt& receipt) {
  const Usage& usage = receipt.usage;
  const Timing& timing = receipt.timing;
  std::string out = fmt::format("prompt {} tokens: {}; read {}\n", with_commas(usage.prompt),
                                reused_text(usage), with_commas(usage.computed));
  for (const TierChoice& choice : receipt.tiers) out += tier_text(choice);
  if (receipt.ignored_files > 0) {
    out += fmt::format("{} damaged cache file{} ignored and computed again\n",
                       receipt.ignored_files, receipt.ignored_files == 1 ? "" : "s");
  }
  out += fmt::format("written {} tokens", usage.generated);
  if (usage.reasoning > 0) out += fmt::format(", {} of them reasoning", usage.reasoning);
  out += fmt::format(", seed {}\n", receipt.seed);
  out +=
      fmt::format("first token {:.3f} s (queue {:.3f} s, restore {:.3f} s), then {:.1f} ms a token",
                  timing.ttft, timing.queue, timing.restore, timing.tpot * 1000);
  out += fmt::format(" ({:.1f} tok/s), total {:.3f} s\n", timing.tokens_per_second(), timing.total);
  if (timing.prefill_tokens_per_second > 0 && usage.computed >= kTimedTokens) {
    out += fmt::format("reading {:.0f} tok/s\n", timing.prefill_tokens_per_second);
  }
  if (receipt.cache_break) {
    const CacheBreak& broken = *receipt.cache_break;
    out += fmt::format("reuse ended at token {}: {}", with_commas(broken.position),
                       cause_text(broken.cause));
    if (!broken.expected_text.empty() || !broken.new_text.empty()) {
      out += fmt::format(" (was {:?}, is {:?})", broken.expected_text, broken.new_text);
    }
    out += '\n';
  }
  if (receipt.refined) {
    const EvidenceRefined& refined = *receipt.refined;
    out += fmt::format("evidence refined from {} to {} tokens", with_commas(refined.tokens_before),
                       with_commas(refined.tokens_after));
    if (!refined.condensed.empty())
      out += fmt::format("; condensed: [{}]", fmt::join(refined.condensed, "] ["));
    if (!refined.left.empty()) out += fmt::format("; left: [{}]", fmt::join(refined.left, "] ["));
    out += '\n';
  }
  if (receipt.dropped_turns > 0) {
    out += fmt::format("{} earlier messages no longer fit the window\n", receipt.dropped_turns);
  }
  if (!receipt.not_saved.empty()) out += "not saved to the disk cache: " + receipt.not_saved + "\n";
  if (!receipt.executor.empty()) {
    out += fmt::format("{} on {}, KV memory {} MiB, executor {} MiB\n", receipt.model,
                       receipt.executor, receipt.kv_bytes >> 20, receipt.executor_bytes >> 20);
  }
  return out;
}

std::string receipt_json(const Receipt& receipt) {
  const Usage& usage = receipt.usage;
  const Timing& timing = receipt.timing;
  Json json;
  json["usage"] = {{"prompt", usage.prompt},
                   {"cached", usage.cached},
                   {"cached_device", usage.cached_device},
                   {"cached_host", usage.cached_host},
                   {"cached_disk", usage.cached_disk},
                   {"computed", usage.computed},
                   {"generated", usage.generated},
                   {"reasoning", usage.reasoning}};
  json["timing"] = {{"queue", timing.queue},
                    {"restore", timing.restore},
                    {"ttft", timing.ttft},
                    {"tpot", timing.tpot},
                    {"total", timing.total},
                    {"tokens_per_second", timing.tokens_per_second()},
                    {"prefill_tokens_per_second", timing.prefill_tokens_per_second}};
  if (receipt.cache_break) {
    const CacheBreak& broken = *receipt.cache_break;
    json["cache_break"] = {{"cause", cache_break_name(broken.cause)},
                           {"position", broken.position},
                           {"expected", broken.expected_text},
                           {"found", broken.new_text}};
  }
  if (receipt.refined) {
    const EvidenceRefined& refined = *receipt.refined;
    json["refined"] = {{"condensed", refined.condensed},
                       {"left", refined.left},
                       {"tokens_before", refined.tokens_before},
                       {"tokens_after", refined.tokens_after}};
  }
  json["dropped_turns"] = receipt.dropped_turns;
  json["tiers"] = Json::array();
  for (const TierChoice& choice : receipt.tiers) {
    json["tiers"].push_back({{"tier", choice.tier},
                             {"tokens", choice.tokens},
                             {"used", choice.used},
                             {"restore_seconds", choice.restore_seconds},
                             {"compute_seconds", choice.compute_seconds}});
  }
  if (receipt.ignored_files > 0) json["ignored_files"] = receipt.ignored_files;
  if (!receipt.not_saved.empty()) json["not_saved"] = receipt.not_saved;
  json["model"] = receipt.model;
  json["executor"] = receipt.executor;
  json["kv_bytes"] = receipt.kv_bytes;
  json["executor_bytes"] = receipt.executor_bytes;
  json["seed"] = receipt.seed;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

namespace {

template <typename T>
void read(const Json& json, const char* name, T& value) {
  auto found = json.is_object() ? json.find(name) : json.end();
  if (found == json.end()) return;
  if constexpr (std::is_same_v<T, std::string>) {
    if (found->is_string()) value = found->get<std::string>();
  } else if constexpr (std::is_same_v<T, bool>) {
    if (found->is_boolean()) value = found->get<bool>();
  } else if constexpr (std::is_same_v<T, std::vector<int>>) {
    if (!found->is_array()) return;
    for (const Json& one : *found) {
      if (one.is_number_integer()) value.push_back(one.get<int>());
    }
  } else if constexpr (std::is_integral_v<T>) {
    if (found->is_number_integer()) value = found->get<T>();
  } else {
    if (found->is_number()) value = found->get<T>();
  }
}

}  // namespace

std::optional<Receipt> receipt_from_json(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("usage") || !json["usage"].is_object()) return {};
  Receipt receipt;
  Usage& usage = receipt.usage;
  for (auto [name, value] :
       {std::pair("prompt", &usage.prompt), std::pair("cached", &usage.cached),
        std::pair("cached_device", &usage.cached_device),
        std::pair("cached_host", &usage.cached_host), std::pair("cached_disk", &usage.cached_disk),
        std::pair("computed", &usage.computed), std::pair("generated", &usage.generated),
        std::pair("reasoning", &usage.reasoning)}) {
    read(json["usage"], name, *value);
  }
  Json timing = json.value("timing", Json::object());
  for (auto [name, value] :
       {std::pair("queue", &receipt.timing.queue), std::pair("restore", &receipt.timing.restore),
        std::pair("ttft", &receipt.timing.ttft), std::pair("tpot", &receipt.timing.tpot),
        std::pair("total", &receipt.timing.total),
        std::pair("prefill_tokens_per_second", &receipt.timing.prefill_tokens_per_second)}) {
    read(timing, name, *value);
  }
  if (Json broken = json.value("cache_break", Json()); broken.is_object()) {
    std::string cause;
    read(broken, "cause", cause);
    CacheBreak found;
    for (int i = 0; i <= static_cast<int>(CacheBreak::Cause::kOtherModel); ++i) {
      auto one = static_cast<CacheBreak::Cause>(i);
      if (cause != cache_break_name(one)) continue;
      found.cause = one;
      read(broken, "position", found.position);
      read(broken, "expected", found.expected_text);
      read(broken, "found", found.new_text);
      receipt.cache_break = std::move(found);
      break;
    }
  }
  if (Json tiers = json.value("tiers", Json()); tiers.is_array()) {
    for (const Json& one : tiers) {
      TierChoice choice;
      read(one, "tier", choice.tier);
      read(one, "tokens", choice.tokens);
      read(one, "used", choice.used);
      read(one, "restore_seconds", choice.restore_seconds);
      read(one, "compute_seconds", choice.compute_seconds);
      receipt.tiers.push_back(std::move(choice));
    }
  }
  if (Json refined = json.value("refined", Json()); refined.is_object()) {
    receipt.refined.emplace();
    read(refined, "condensed", receipt.refined->condensed);
    read(refined, "left", receipt.refined->left);
    read(refined, "tokens_before", receipt.refined->tokens_before);
    read(refined, "tokens_after", receipt.refined->tokens_after);
  }
  read(json, "dropped_turns", receipt.dropped_turns);
  read(json, "ignored_files", receipt.ignored_files);
  read(json, "not_saved", receipt.not_saved);
  read(json, "seed", receipt.seed);
  return receipt;
}

}  // namespace apud
