#include "engine/receipt.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace apud {
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
  return line;
}

std::string receipt_details(const Receipt& receipt) {
  const Usage& usage = receipt.usage;
  const Timing& timing = receipt.timing;
  std::string out =
      fmt::format("prompt {} tokens: reused {} (device {}, disk {}), read {}\n", usage.prompt,
                  usage.cached, usage.cached_device, usage.cached_disk, usage.computed);
  out += fmt::format("written {} tokens", usage.generated);
  if (usage.reasoning > 0) out += fmt::format(", {} of them reasoning", usage.reasoning);
  out += fmt::format(", seed {}\n", receipt.seed);
  out +=
      fmt::format("first token {:.3f} s (queue {:.3f} s, restore {:.3f} s), then {:.1f} ms a token",
                  timing.ttft, timing.queue, timing.restore, timing.tpot * 1000);
  out += fmt::format(" ({:.1f} tok/s), total {:.3f} s\n", timing.tokens_per_second(), timing.total);
  if (timing.prefill_tokens_per_second > 0) {
    out += fmt::format("reading {:.0f} tok/s\n", timing.prefill_tokens_per_second);
  }
  if (receipt.cache_break) {
    const CacheBreak& broken = *receipt.cache_break;
    out += fmt::format("reuse ended at token {}: {}", broken.position, cause_text(broken.cause));
    if (!broken.expected_text.empty() || !broken.new_text.empty()) {
      out += fmt::format(" (was {:?}, is {:?})", broken.expected_text, broken.new_text);
    }
    out += '\n';
  }
  if (receipt.refined) {
    const EvidenceRefined& refined = *receipt.refined;
    out += fmt::format("evidence refined from {} to {} tokens", refined.tokens_before,
                       refined.tokens_after);
    if (!refined.condensed.empty())
      out += fmt::format("; condensed: [{}]", fmt::join(refined.condensed, "] ["));
    if (!refined.left.empty()) out += fmt::format("; left: [{}]", fmt::join(refined.left, "] ["));
    out += '\n';
  }
  if (receipt.dropped_turns > 0) {
    out += fmt::format("{} earlier turns no longer fit the window\n", receipt.dropped_turns);
  }
  if (!receipt.not_saved.empty()) out += "not saved to the disk cache: " + receipt.not_saved + "\n";
  out += fmt::format("{} on {}, KV memory {} MiB, executor {} MiB\n", receipt.model,
                     receipt.executor, receipt.kv_bytes >> 20, receipt.executor_bytes >> 20);
  return out;
}

std::string receipt_json(const Receipt& receipt) {
  using Json = nlohmann::ordered_json;
  const Usage& usage = receipt.usage;
  const Timing& timing = receipt.timing;
  Json json;
  json["usage"] = {{"prompt", usage.prompt},
                   {"cached", usage.cached},
                   {"cached_device", usage.cached_device},
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
  json["disk_tier_used"] = receipt.disk_tier_used;
  if (!receipt.not_saved.empty()) json["not_saved"] = receipt.not_saved;
  json["model"] = receipt.model;
  json["executor"] = receipt.executor;
  json["kv_bytes"] = receipt.kv_bytes;
  json["executor_bytes"] = receipt.executor_bytes;
  json["seed"] = receipt.seed;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace apud
