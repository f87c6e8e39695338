#include "kernels/cuda/plan.h"

#include <algorithm>
#include <map>

namespace apud::cuda {

OpUse op_use(const Op& op) {
  OpUse u;
  auto reads = [&](ValueId v) {
    if (v != kNone) u.reads.push_back(v);
  };
  auto writes = [&](ValueId v) {
    if (v != kNone) u.writes.push_back(v);
  };
  std::visit(
      [&](const auto& o) {
        using T = std::decay_t<decltype(o)>;
        if constexpr (std::is_same_v<T, EmbedOp>) {
          if (o.accumulate) reads(o.out);
          writes(o.out);
        } else if constexpr (std::is_same_v<T, NormOp> || std::is_same_v<T, SelectOp> ||
                             std::is_same_v<T, PoolOp>) {
          reads(o.x);
          writes(o.out);
        } else if constexpr (std::is_same_v<T, LinearOp>) {
          reads(o.x);
          if (o.accumulate) reads(o.out);
          writes(o.out);
        } else if constexpr (std::is_same_v<T, RotaryOp>) {
          reads(o.q), reads(o.k), reads(o.v);
          writes(o.q), writes(o.k);
        } else if constexpr (std::is_same_v<T, AttentionOp>) {
          reads(o.q), reads(o.k), reads(o.v);
          writes(o.out);
        } else if constexpr (std::is_same_v<T, ActivationOp>) {
          reads(o.gate), reads(o.up);
          writes(o.out);
        } else if constexpr (std::is_same_v<T, AddOp>) {
          reads(o.x), reads(o.out);
          writes(o.out);
        } else {
          reads(o.x);
          writes(o.x);
        }
      },
      op);
  return u;
}

size_t Plan::bytes() const {
  size_t total = 0;
  for (const DeviceBuffer& b : memory) total += b.bytes();
  return total;
}

QuantRows make_quant_rows(Plan& plan, int rows, int cols) {
  QuantRows q;
  q.groups = ceil_div(cols, 32);
  const size_t bytes = rows * QuantRows::row_bytes(q.groups);
  const size_t squares = size_t{4} * rows * 2 * q.groups;
  DeviceBuffer& memory = plan.memory.emplace_back(bytes + squares, "quantised activations");
  APUD_CUDA(cudaMemset(memory.as(), 0, bytes + squares));
  q.data = memory.as();
  q.squares = reinterpret_cast<float*>(memory.as() + bytes);
  return q;
}

EmbedArgs embed_args(const PlanContext& c, const Matrix& out, int i) {
  const std::vector<Op>& ops = c.program->ops;
  const EmbedOp& first = std::get<EmbedOp>(ops[i]);
  EmbedArgs a;
  a.type = c.weights->matrix(first.table).type;
  a.accumulate = first.accumulate;
  a.out = out;
  a.half16 = c.weights->half16();
  for (; a.tables < kEmbedTables && i < static_cast<int>(ops.size()); ++i, ++a.tables) {
    const auto* e = std::get_if<EmbedOp>(&ops[i]);
    if (!e || e->out != first.out || c.weights->matrix(e->table).type != a.type ||
        (a.tables > 0 && !e->accumulate))
      break;
    a.table[a.tables] = {c.weights->matrix(e->table), e->index, e->offset, e->scale};
  }
  return a;
}

namespace {
bool has(const std::vector<ValueId>& v, ValueId id) {
  return std::find(v.begin(), v.end(), id) != v.end();
}

/// Values that prefill keeps in 16 bits: made by products, norms, attention or activations and used
/// by the same kinds only. Residual streams of decoders, which grow from layer to layer, stay
/// floats; those of encoders are normed after every sum and fit 16 bits.
std::vector<bool> half_values(const Program& program) {
  std::vector<bool> half(program.values.size());
  for (size_t v = 0; v < half.size(); ++v) half[v] = program.values[v].rows == Rows::kTokens;
  if (program.result != kNone) half[program.result] = false;
  const bool encoder = program.is_encoder();
  // Sums that are not normed next would be rounded once more: they stay floats, too.
  auto normed_next = [&](size_t i, ValueId v) {
    const auto* n = i + 1 < program.ops.size() ? std::get_if<NormOp>(&program.ops[i + 1]) : nullptr;
    return n && n->x == v && n->out == v;
  };
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const Op& op = program.ops[i];
    bool plain = true;
    if (const auto* l = std::get_if<LinearOp>(&op)) {
      if (l->accumulate) half[l->out] = false;
      continue;
    }
    if (const auto* n = std::get_if<NormOp>(&op)) {
      if (!encoder || n->out != n->x) half[n->x] = false;
      continue;
    }
    if (encoder) {
      if (const auto* a = std::get_if<AddOp>(&op); a && normed_next(i, a->out)) continue;
      if (std::holds_alternative<EmbedOp>(op) || std::holds_alternative<PoolOp>(op)) continue;
    }
    plain = !std::holds_alternative<RotaryOp>(op) && !std::holds_alternative<AttentionOp>(op) &&
            !std::holds_alternative<ActivationOp>(op);
    if (!plain) continue;
    OpUse u = op_use(op);
    for (ValueId v : u.reads) half[v] = false;
    for (ValueId v : u.writes) half[v] = false;
  }
  return half;
}
}  // namespace

bool dead_after(const Program& program, int index, ValueId value) {
  if (value == program.result) return false;
  for (size_t i = index + 1; i < program.ops.size(); ++i) {
    OpUse u = op_use(program.ops[i]);
    if (has(u.reads, value)) return false;
    if (has(u.writes, value)) return true;
  }
  return true;
}

Values::Values(const Program& program, const std::vector<LinearGroup>& groups,
               const Request& request) {
  const int count = static_cast<int>(program.values.size());
  matrices_.resize(count);
  twins_.resize(count);
  std::vector<bool> half(count, false);
  if (request.large) half = half_values(program);

  // Outputs of a group are column slices of one product in prefill. A value may be sliced one way
  // only.
  std::vector<int> leader(count), column(count, 0), width(count);
  for (int v = 0; v < count; ++v) {
    leader[v] = v;
    width[v] = static_cast<int>(round_up(program.values[v].cols, 8));
  }
  std::map<int, std::vector<ValueId>> slices;
  if (request.large) {
    for (const LinearGroup& g : groups) {
      if (g.ops.size() < 2) continue;
      std::vector<ValueId> outs;
      for (int i : g.ops) outs.push_back(std::get<LinearOp>(program.ops[i]).out);
      bool fits = true;
      for (ValueId v : outs) {
        auto it = slices.find(leader[v]);
        fits = fits && (it == slices.end() ? leader[v] == v : it->second == outs) &&
               half[v] == half[outs[0]];
      }
      if (!fits || slices.contains(leader[outs[0]])) continue;
      slices[outs[0]] = outs;
      int at = 0;
      for (ValueId v : outs) {
        leader[v] = outs[0];
        column[v] = at;
        at += program.values[v].cols;
      }
      width[outs[0]] = at;
    }
  }

  // Twins: float values that a norm writes and a product reads.
  std::vector<bool> twin(count, false);
  if (request.large) {
    std::vector<bool> normed(count, false);
    for (const Op& op : program.ops)
      if (const auto* n = std::get_if<NormOp>(&op)) normed[n->out] = true;
    for (const Op& op : program.ops)
      if (const auto* l = std::get_if<LinearOp>(&op))
        if (normed[l->x] && !half[l->x]) twin[l->x] = true;
  }

  // Lifetimes in op order, then first fit.
  struct Unit {
    int begin = 1 << 30, end = -1;
    int64_t bytes = 0, offset = 0;
  };
  std::vector<Unit> units(2 * count);  // value, twin
  for (int i = 0; i < static_cast<int>(program.ops.size()); ++i) {
    OpUse u = op_use(program.ops[i]);
    for (const auto* list : {&u.reads, &u.writes})
      for (ValueId v : *list)
        for (int unit : {leader[v], count + v}) {
          units[unit].begin = std::min(units[unit].begin, i);
          units[unit].end = std::max(units[unit].end, i);
        }
  }
  auto rows_of = [&](ValueId v) -> int64_t {
    switch (program.values[v].rows) {
      case Rows::kTokens:
        return request.max_tokens;
      case Rows::kOutputs:
        return request.large ? kOutputChunk : std::min(kOutputChunk, request.max_tokens);
      case Rows::kSequences:
        return request.max_sequences;
    }
    return 0;
  };
  for (int v = 0; v < count; ++v) {
    if (leader[v] == v) units[v].bytes = round_up(rows_of(v) * width[v] * (half[v] ? 2 : 4), 256);
    if (twin[v]) units[count + v].bytes = round_up(rows_of(v) * width[v] * 2, 256);
  }
  // Output rows come in chunks, each of which reads the token rows anew: those stay.
  for (const Op& op : program.ops) {
    const OpUse u = op_use(op);
    const bool leaves = std::any_of(u.writes.begin(), u.writes.end(), [&](ValueId v) {
      return program.values[v].rows != Rows::kTokens;
    });
    for (ValueId v : u.reads)
      if (leaves && program.values[v].rows == Rows::kTokens)
        for (int unit : {leader[v], count + v})
          units[unit].end = static_cast<int>(program.ops.size());
  }
  // Decode's fused stages read and write values of several ops at once, and are small: nothing
  // shares.
  if (!request.large)
    for (Unit& u : units) {
      if (u.end < 0) continue;
      u.begin = 0;
      u.end = static_cast<int>(program.ops.size());
    }
  // The result outlives the last op.
  if (program.result != kNone)
    units[leader[program.result]].end = static_cast<int>(program.ops.size());
  std::vector<int> order;
  for (int u = 0; u < 2 * count; ++u)
    if (units[u].bytes > 0 && units[u].end >= 0) order.push_back(u);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return units[a].bytes > units[b].bytes; });
  int64_t total = 0;
  std::vector<int> placed;
  for (int u : order) {
    int64_t at = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (int o : placed) {
        bool together = units[u].begin <= units[o].end && units[o].begin <= units[u].end;
        if (together && at < units[o].offset + units[o].bytes &&
            units[o].offset < at + units[u].bytes) {
          at = units[o].offset + units[o].bytes;
          moved = true;
        }
      }
    }
    units[u].offset = at;
    total = std::max(total, at + units[u].bytes);
    placed.push_back(u);
  }
  memory_ = DeviceBuffer(static_cast<size_t>(total), "workspace");
  if (total) APUD_CUDA(cudaMemset(memory_.as(), 0, static_cast<size_t>(total)));
  for (int v = 0; v < count; ++v) {
    int l = leader[v];
    uint8_t* base = memory_.as() + units[l].offset;
    matrices_[v] = {base + int64_t{column[v]} * (half[v] ? 2 : 4), width[l], half[v]};
    if (twin[v]) twins_[v] = {memory_.as() + units[count + v].offset, width[v], true};
  }
}

}  // namespace apud::cuda
