#include "kernels/load_plan.h"

#include <algorithm>
#include <set>

namespace apud {
namespace {

constexpr int64_t kHeadRoom = int64_t{512} << 20;   // driver, context, fragmentation
constexpr int64_t kFixedWork = int64_t{160} << 20;  // cuBLASLt workspace, panels, sampling inputs

int64_t bytes_per_value(KvType type) {
  switch (type) {
    case KvType::kI8:
      return 1;
    case KvType::kF32:
      return 4;
    default:
      return 2;
  }
}

/// Stored weights (tied ones once), and their size in 16 bits where the file's bytes are not that.
void weight_sizes(const Program& program, const Weights& weights, int64_t* packed,
                  int64_t* halves) {
  std::set<const std::byte*> seen;
  *packed = *halves = 0;
  for (const WeightView& w : weights)
    if (seen.insert(w.data).second) *packed += static_cast<int64_t>(w.bytes());
  // Sub-scales are widened to bytes and rows padded: a few percent.
  *packed += *packed / 25;
  for (const Op& op : program.ops) {
    const auto* l = std::get_if<LinearOp>(&op);
    if (!l || program.values[static_cast<size_t>(l->out)].rows != Rows::kTokens) continue;
    const WeightView& w = weights[static_cast<size_t>(l->weight)];
    if (w.type != WeightType::kF16 && w.type != WeightType::kBF16) *halves += w.rows * w.cols * 2;
  }
}

/// KV of a token in a group's layers.
int64_t token_bytes(const KvGroup& g, KvType type) {
  int64_t vector = g.head_dim * bytes_per_value(type) + (type == KvType::kI8 ? 4 : 0);
  return vector * 2 * g.layers * g.kv_heads;
}

/// What a decode step reads of `tokens` cached tokens: of windows only their own.
int64_t kv_read_bytes(const Program& program, int tokens, KvType type) {
  int64_t total = 0;
  for (const KvGroup& g : program.kv_groups)
    total += (g.window > 0 ? std::min(tokens, g.window) : tokens) * token_bytes(g, type);
  return total;
}

/// An upper bound of what lives at once: every float value of a step, as if none shared memory.
int64_t workspace_bytes(const Program& program, int tokens) {
  int64_t total = kFixedWork;
  for (const Value& v : program.values) {
    int64_t rows = v.rows == Rows::kTokens ? tokens : v.rows == Rows::kOutputs ? 64 * 3 : 64;
    total += rows * v.cols * 4;
  }
  return total;
}

}  // namespace

int64_t kv_bytes(const Program& program, int tokens, KvType type) {
  int64_t total = 0;
  for (const KvGroup& g : program.kv_groups) {
    int64_t pages = (tokens + kKvPageTokens - 1) / kKvPageTokens;
    total += pages * kKvPageTokens * token_bytes(g, type);
  }
  return total;
}

LoadPlan plan_load(const Program& program, const Weights& weights, const LoadRequest& request) {
  LoadPlan plan;
  int64_t halves = 0;
  weight_sizes(program, weights, &plan.weights, &halves);
  plan.workspace = workspace_bytes(program, request.max_step_tokens);
  plan.head_room = std::min(kHeadRoom, request.device_bytes / 16);
  const int64_t left = request.device_bytes - plan.weights - plan.workspace - plan.head_room;

  auto kv_of = [&](int context, KvType type, int sequences) {
    return kv_bytes(program, context + request.spare_tokens, type) * sequences;
  };
  auto largest = [&](KvType type, int sequences) {
    int low = 0, high = std::max(program.max_positions, 1) / kKvPageTokens;  // pages
    while (low < high) {
      int middle = low + (high - low + 1) / 2;
      if (kv_of(middle * kKvPageTokens, type, sequences) <= left)
        low = middle;
      else
        high = middle - 1;
    }
    return low * kKvPageTokens;
  };
  auto speed = [&](int context, KvType type) {
    if (request.read_bytes_per_second <= 0) return 0.0;
    double bytes = static_cast<double>(program_cost(program, weights).read_bytes_per_token) +
                   static_cast<double>(kv_read_bytes(program, context / 2, type));
    return request.read_bytes_per_second / bytes;
  };

  plan.context =
      request.context > 0 ? request.context : largest(request.kv_type, request.sequences);
  if (program.is_encoder()) plan.context = 0;
  plan.kv = kv_of(plan.context, request.kv_type, request.sequences);
  plan.fits = left >= plan.kv && (program.is_encoder() || plan.context > 0) && left >= 0;
  if (plan.fits) {
    // The executor keeps 16-bit copies only where they leave 40 % of the card free.
    if (left - plan.kv >= halves && left - halves >= request.device_bytes * 2 / 5)
      plan.half_copy = halves;
    return plan;
  }
  auto offer = [&](const char* change, KvType type, int sequences) {
    int context = largest(type, sequences);
    if (request.context > 0) context = std::min(context, request.context);
    if (context < kKvPageTokens) return;
    LoadStep step{change, context, sequences, type, speed(context, type)};
    for (const LoadStep& s : plan.ladder)
      if (s.context == step.context && s.sequences == step.sequences && s.kv_type == step.kv_type)
        return;
    plan.ladder.push_back(step);
  };
  if (request.kv_type != KvType::kI8) offer("KV in int8", KvType::kI8, request.sequences);
  offer("a shorter context", request.kv_type, request.sequences);
  if (request.sequences > 1) {
    offer("one sequence at a time", request.kv_type, 1);
    offer("one sequence at a time, KV in int8", KvType::kI8, 1);
  }
  std::stable_sort(plan.ladder.begin(), plan.ladder.end(),
                   [](const LoadStep& a, const LoadStep& b) { return a.context > b.context; });
  return plan;
}

bool more_sequences_are_free(const Program& program, const Weights& weights,
                             const LoadRequest& request, int sequences) {
  LoadRequest larger = request;
  larger.sequences = sequences;
  const LoadPlan few = plan_load(program, weights, request),
                 many = plan_load(program, weights, larger);
  return many.fits && many.context == few.context && many.half_copy == few.half_copy;
}

}  // namespace apud
