#include "app/load_report.h"

#include <fmt/format.h>

namespace apud {
namespace {

std::string gb(int64_t bytes) { return fmt::format("{:.1f}", static_cast<double>(bytes) / 1e9); }

std::string tokens_and_sequences(int context, int sequences) {
  return sequences > 1 ? fmt::format("{} tokens x {} conversations", context, sequences)
                       : fmt::format("{} tokens", context);
}

}  // namespace

std::string load_plan_line(const LoadSubject& subject, const LoadPlan& plan) {
  std::string line = fmt::format("{}: weights {}", subject.device, gb(plan.weights));
  if (plan.half_copy > 0) line += fmt::format(" + 16-bit copy {}", gb(plan.half_copy));
  line += fmt::format(" + KV {} ({})", gb(plan.kv),
                      tokens_and_sequences(plan.context, subject.request.sequences));
  line += fmt::format(" + workspace {} + head-room {} = {} of {} GB free", gb(plan.workspace),
                      gb(plan.head_room), gb(plan.total()), gb(subject.request.device_bytes));
  return line;
}

Error load_refusal(const LoadSubject& subject, const LoadPlan& plan,
                   const std::vector<CatalogueEntry>& catalogue) {
  std::string message = fmt::format(
      "{} does not fit {}: weights {} + KV {} ({}) + workspace {} + head-room {} = {} GB, {} GB "
      "free",
      subject.model, subject.device, gb(plan.weights), gb(plan.kv),
      tokens_and_sequences(plan.context, subject.request.sequences), gb(plan.workspace),
      gb(plan.head_room), gb(plan.total()), gb(subject.request.device_bytes));
  std::vector<std::string> steps;
  for (const LoadStep& s : plan.ladder) {
    std::string step = fmt::format("{} (--ctx {}", s.change, s.context);
    if (s.kv_type == KvType::kI8) step += " --kv i8";
    step += ")";
    if (s.tokens_per_second > 0) step += fmt::format(", at most {:.0f} tok/s", s.tokens_per_second);
    steps.push_back(step);
  }
  const CatalogueEntry* smaller = nullptr;
  for (const CatalogueEntry& e : catalogue)
    if (e.kind == "chat" && !e.base && static_cast<int64_t>(e.bytes()) < plan.weights &&
        static_cast<int64_t>(e.bytes()) * 3 < subject.request.device_bytes &&
        (!smaller || e.bytes() > smaller->bytes()))
      smaller = &e;
  if (smaller) {
    std::string step = fmt::format("a smaller model: -m {} ({} GB)", smaller->id,
                                   gb(static_cast<int64_t>(smaller->bytes())));
    if (subject.request.read_bytes_per_second > 0)
      step += fmt::format(", at most {:.0f} tok/s", subject.request.read_bytes_per_second /
                                                        static_cast<double>(smaller->bytes()));
    steps.push_back(step);
  }
  steps.push_back("--device cpu");
  return Error(ErrorKind::kBusy, message, fmt::format("would fit: {}", fmt::join(steps, "; ")));
}

}  // namespace apud
