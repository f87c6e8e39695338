#include "kernels/cpu/plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace apud::cpu {
namespace {

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

bool same(const Rotary& a, const Rotary& b) {
  return a.inv_freq == b.inv_freq && a.magnitude == b.magnitude;
}

class Planner {
 public:
  Planner(const Program& program, const Weights& weights, bool tiles)
      : program_(program), weights_(weights), tiles_(tiles) {}

  Plan run() {
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      at_ = i;
      std::visit([this](const auto& op) { add(op); }, program_.ops[i]);
      last_op_.resize(plan_.stages.size(), i);
      last_op_.back() = i;
    }
    if (tiles_) fuse_activations();
    assign_slots();
    std::erase_if(plan_.stages, [](const Stage& stage) {
      return stage.kind == StageKind::kRows && stage.row_ops.empty();
    });
    return std::move(plan_);
  }

 private:
  Rows domain(ValueId v) const { return program_.values[static_cast<size_t>(v)].rows; }
  int64_t cols(ValueId v) const { return program_.values[static_cast<size_t>(v)].cols; }
  Stage& current() { return plan_.stages.back(); }
  Stage& open(StageKind kind, Rows rows) {
    plan_.stages.push_back({});
    current().kind = kind;
    current().rows = rows;
    written_.clear();
    read_.clear();
    return current();
  }

  void reads(ValueId v) {
    if (v == kNone) return;
    read_.insert(v);
    touch(v);
  }
  void writes(ValueId v) {
    written_.insert(v);
    touch(v);
    std::erase_if(quantised_, [&](const auto& entry) { return entry.first.first == v; });
  }
  void touch(ValueId v) {
    int stage = static_cast<int>(plan_.stages.size()) - 1;
    auto [it, first] = lives_.try_emplace(v, std::pair{stage, stage});
    if (!first) it->second.second = stage;
  }

  // Work on single rows joins the row stage before it: rows are independent of each other.
  void row_op(Rows rows, const RowOp& op) {
    if (plan_.stages.empty() || current().kind != StageKind::kRows || current().rows != rows) {
      open(StageKind::kRows, rows);
    }
    current().row_ops.push_back(op);
  }

  void add(const EmbedOp& op) {
    row_op(domain(op.out), op);
    if (op.accumulate) reads(op.out);
    writes(op.out);
  }
  void add(const NormOp& op) {
    row_op(domain(op.out), op);
    reads(op.x);
    writes(op.out);
  }
  void add(const ActivationOp& op) {
    row_op(domain(op.out), op);
    reads(op.gate);
    reads(op.up);
    writes(op.out);
  }
  void add(const AddOp& op) {
    row_op(domain(op.out), op);
    reads(op.x);
    reads(op.out);
    writes(op.out);
  }
  void add(const SelectOp& op) {
    row_op(domain(op.out), op);
    reads(op.x);
    writes(op.out);
  }
  void add(const PoolOp& op) {
    row_op(domain(op.out), op);
    reads(op.x);
    writes(op.out);
  }
  void add(const SoftcapOp& op) {
    row_op(domain(op.x), op);
    reads(op.x);
    writes(op.x);
  }
  void add(const L2NormalizeOp& op) {
    row_op(domain(op.x), op);
    reads(op.x);
    writes(op.x);
  }

  void add(const RotaryOp& op) {
    int table = kNone;
    if (!op.rotary.inv_freq.empty()) {
      for (size_t i = 0; i < plan_.rotaries.size(); ++i) {
        if (same(*plan_.rotaries[i], op.rotary)) table = static_cast<int>(i);
      }
      if (table == kNone) {
        table = static_cast<int>(plan_.rotaries.size());
        plan_.rotaries.push_back(&std::get<RotaryOp>(program_.ops[at_]).rotary);
        plan_.trig_cols =
            std::max(plan_.trig_cols, static_cast<int64_t>(op.rotary.inv_freq.size()));
        row_op(Rows::kTokens, TrigOp{table});
      }
    }
    row_op(Rows::kTokens, PlannedRotary{op, table});
    reads(op.q);
    reads(op.k);
    reads(op.v);
    writes(op.q);
    writes(op.k);
  }

  void add(const AttentionOp& op) {
    if (op.kv_layer == kNone) {
      open(StageKind::kGatherKv, Rows::kTokens).attention = op;
      reads(op.k);
      reads(op.v);
    }
    open(StageKind::kAttention, Rows::kTokens).attention = op;
    reads(op.q);
    writes(op.out);
  }

  WeightType type_of(WeightId w) const { return weights_[static_cast<size_t>(w)].type; }
  Packing packing(WeightId w) const { return packing_of(program_, weights_, w, tiles_); }
  bool quantised(WeightId w) const { return takes_acts(type_of(w), packing(w)); }
  ActKind kind_for(WeightId w) const { return act_kind(type_of(w), packing(w)); }
  // Of a row. 16-bit kinds are finer than what one plane of int8 leaves over.
  int planes_for(ActKind kind, size_t linear) const {
    bool bytes = kind == ActKind::kBlock32 || kind == ActKind::kFormatK;
    return bytes && feeds_attention(linear) ? 2 : 1;
  }

  // With int8, queries, keys and values take two planes of activations: errors there pass through
  // the softmax and are kept by a decoder's cache, and they cost a few per cent of a layer's
  // products. By measurement this one rounding made most of the drift of the perplexity, and more
  // than half of an encoder's distance from its exact vectors (docs/performance.md).
  bool feeds_attention(size_t linear) const {
    ValueId v = std::get<LinearOp>(program_.ops[linear]).out;
    for (size_t i = linear + 1; i < program_.ops.size(); ++i) {
      if (auto* r = std::get_if<RotaryOp>(&program_.ops[i])) {
        if (r->q == v || r->k == v || r->v == v) return true;
      }
      if (auto* a = std::get_if<AttentionOp>(&program_.ops[i])) {
        if (a->q == v || a->k == v || a->v == v) return true;
      }
      if (writes_value(program_.ops[i], v)) return false;
    }
    return false;
  }

  // Quantises x for every kind that the linear layers ahead want, before x changes.
  void quantise_for(ValueId x) {
    std::map<ActKind, int> kinds;  // and how many planes
    for (size_t i = at_; i < program_.ops.size(); ++i) {
      if (auto* linear = std::get_if<LinearOp>(&program_.ops[i])) {
        if (linear->x == x && quantised(linear->weight)) {
          ActKind kind = kind_for(linear->weight);
          int& planes = kinds[kind];
          planes = std::max(planes, planes_for(kind, i));
        }
      }
      if (i > at_ && writes_value(program_.ops[i], x)) break;
    }
    for (auto [kind, planes] : kinds) {
      auto key = std::pair{x, kind};
      if (quantised_.contains(key)) continue;
      auto [it, fresh] = buffers_.try_emplace(key, static_cast<int>(buffers_.size()));
      row_op(domain(x), QuantizeOp{x, kind, it->second, planes});
      reads(x);
      int& most = planes_[it->second];
      most = std::max(most, planes);
      quantised_[key] = {it->second, planes};
    }
  }

  static bool writes_value(const Op& op, ValueId v) {
    return std::visit(Overloaded{[&](const RotaryOp& o) { return o.q == v || o.k == v; },
                                 [&](const SoftcapOp& o) { return o.x == v; },
                                 [&](const L2NormalizeOp& o) { return o.x == v; },
                                 [&](const auto& o) { return o.out == v; }},
                      op);
  }

  static bool reads_value(const Op& op, ValueId v) {
    return std::visit(
        Overloaded{[&](const EmbedOp& o) { return o.accumulate && o.out == v; },
                   [&](const ActivationOp& o) { return o.gate == v || o.up == v; },
                   [&](const AddOp& o) { return o.x == v || o.out == v; },
                   [&](const RotaryOp& o) { return o.q == v || o.k == v || o.v == v; },
                   [&](const AttentionOp& o) { return o.q == v || o.k == v || o.v == v; },
                   [&](const LinearOp& o) { return o.x == v || (o.accumulate && o.out == v); },
                   [&](const auto& o) { return o.x == v; }},
        op);
  }
  // Whether what `v` holds after op `last` is read.
  bool read_after(ValueId v, size_t last) const {
    for (size_t i = last + 1; i < program_.ops.size(); ++i) {
      if (reads_value(program_.ops[i], v)) return true;
      if (writes_value(program_.ops[i], v)) return false;
    }
    return v == program_.result;
  }

  void add(const LinearOp& op) {
    PlannedLinear planned{op, kNone};
    if (quantised(op.weight)) {
      auto key = std::pair{op.x, kind_for(op.weight)};
      if (!quantised_.contains(key)) quantise_for(op.x);
      std::tie(planned.act_buffer, planned.act_planes) = quantised_.at(key);
    }
    bool join = !plan_.stages.empty() && current().kind == StageKind::kLinear &&
                current().rows == domain(op.out) && !written_.contains(op.x) &&
                !written_.contains(op.out) && !read_.contains(op.out);
    if (!join) open(StageKind::kLinear, domain(op.out));
    current().linears.push_back(planned);
    reads(op.x);
    if (op.accumulate) reads(op.out);
    writes(op.out);
  }

  // Activations that only quantised products read are made where their inputs are: as floats they
  // would pass through memory twice, which costs about as much as the tiles' products.
  void fuse_activations() {
    for (size_t i = 0; i + 2 < plan_.stages.size(); ++i) {
      Stage &from = plan_.stages[i], &rows = plan_.stages[i + 1], &to = plan_.stages[i + 2];
      if (from.kind != StageKind::kLinear || rows.kind != StageKind::kRows ||
          to.kind != StageKind::kLinear || rows.row_ops.size() != 2) {
        continue;
      }
      auto* activate = std::get_if<ActivationOp>(&rows.row_ops[0]);
      auto* quantise = std::get_if<QuantizeOp>(&rows.row_ops[1]);
      if (activate == nullptr || quantise == nullptr || quantise->x != activate->out ||
          quantise->kind != ActKind::kBf16) {
        continue;
      }
      const bool gated = activate->up != kNone;
      if (from.linears.size() != (gated ? 2 : 1)) continue;
      if (gated && from.linears[0].op.out == activate->up)
        std::swap(from.linears[0], from.linears[1]);
      const LinearOp &gate = from.linears.front().op, &up = from.linears.back().op;
      auto fits = [&](const LinearOp& op) {
        return packing(op.weight) == Packing::kTiles &&
               type_of(op.weight) == type_of(gate.weight) && op.x == gate.x && !op.accumulate &&
               cols(op.out) % (2 * kStripRows) == 0 &&
               (op.out == activate->out || !read_after(op.out, last_op_[i + 1]));
      };
      const bool read_as_rounded = std::all_of(
          to.linears.begin(), to.linears.end(),
          [&](const PlannedLinear& l) { return l.op.x != activate->out || l.act_buffer != kNone; });
      if (gate.out != activate->gate || (gated && up.out != activate->up) || !fits(gate) ||
          !fits(up) || read_after(activate->out, last_op_[i + 2]) || !read_as_rounded) {
        continue;
      }
      from.activation = FusedActivation{activate->kind, activate->out, quantise->buffer};
      int& begins = lives_.at(activate->out).first;
      begins = std::min(begins, static_cast<int>(i));
      rows.row_ops.clear();
    }
  }

  // Values share buffers by their lives, counted in stages.
  void assign_slots() {
    plan_.slot_of_value.assign(program_.values.size(), kNone);
    std::vector<std::pair<std::pair<int, int>, ValueId>> order;
    for (auto& [value, life] : lives_) {
      if (value != program_.result) order.push_back({life, value});
    }
    std::sort(order.begin(), order.end());
    std::vector<int> busy_until;
    for (auto& [life, value] : order) {
      int64_t want = row_stride(cols(value));
      int best = kNone;
      for (size_t s = 0; s < busy_until.size(); ++s) {
        if (busy_until[s] >= life.first) continue;
        auto waste = [&](int slot) {
          return std::abs(plan_.slot_cols[static_cast<size_t>(slot)] - want);
        };
        if (best == kNone || waste(static_cast<int>(s)) < waste(best)) best = static_cast<int>(s);
      }
      if (best == kNone) {
        best = static_cast<int>(busy_until.size());
        busy_until.push_back(0);
        plan_.slot_cols.push_back(want);
      }
      auto slot = static_cast<size_t>(best);
      busy_until[slot] = life.second;
      plan_.slot_cols[slot] = std::max(plan_.slot_cols[slot], want);
      plan_.slot_of_value[static_cast<size_t>(value)] = best;
    }
    share_act_buffers();
  }

  // Activation buffers of values in the same slot never live at the same time.
  void share_act_buffers() {
    std::map<std::pair<int, ActKind>, int> shared;  // (slot, kind) -> new buffer
    std::vector<int> renamed(buffers_.size());
    for (auto& [key, buffer] : buffers_) {
      int slot = plan_.slot_of_value[static_cast<size_t>(key.first)];
      if (slot == kNone) slot = -2 - key.first;
      auto [it, fresh] =
          shared.try_emplace({slot, key.second}, static_cast<int>(plan_.act_strides.size()));
      if (fresh) plan_.act_strides.push_back(0);
      size_t& stride = plan_.act_strides[static_cast<size_t>(it->second)];
      stride = std::max(stride, act_layout(key.second, cols(key.first)).stride *
                                    static_cast<size_t>(planes_.at(buffer)));
      renamed[static_cast<size_t>(buffer)] = it->second;
    }
    for (Stage& stage : plan_.stages) {
      for (RowOp& op : stage.row_ops) {
        if (auto* q = std::get_if<QuantizeOp>(&op))
          q->buffer = renamed[static_cast<size_t>(q->buffer)];
      }
      if (stage.activation)
        stage.activation->buffer = renamed[static_cast<size_t>(stage.activation->buffer)];
      for (PlannedLinear& l : stage.linears) {
        if (l.act_buffer != kNone) l.act_buffer = renamed[static_cast<size_t>(l.act_buffer)];
      }
    }
  }

  const Program& program_;
  const Weights& weights_;
  const bool tiles_;
  Plan plan_;
  size_t at_ = 0;
  std::vector<size_t> last_op_;                                           // by stage
  std::set<ValueId> written_, read_;                                      // by the current stage
  std::map<ValueId, std::pair<int, int>> lives_;                          // first and last stage
  std::map<std::pair<ValueId, ActKind>, std::pair<int, int>> quantised_;  // buffer, planes; now
  std::map<int, int> planes_;                                             // most, by buffer
  std::map<std::pair<ValueId, ActKind>, int> buffers_;
};

}  // namespace

Packing packing_of(const Program& program, const Weights& weights, WeightId matrix, bool tiles) {
  const WeightType type = weights[static_cast<size_t>(matrix)].type;
  bool wide = type == WeightType::kF32 || type == WeightType::kF16;
  const Packing few_rows = wide && program.is_encoder() ? Packing::kWords : Packing::kExact;
  bool in_tiles = tile_format(type) || (type == WeightType::kF32 && program.is_encoder());
  if (!tiles || !in_tiles) return few_rows;
  bool many_rows = std::any_of(program.ops.begin(), program.ops.end(), [&](const Op& op) {
    auto* linear = std::get_if<LinearOp>(&op);
    return linear && linear->weight == matrix &&
           program.values[static_cast<size_t>(linear->out)].rows != Rows::kOutputs;
  });
  return many_rows ? Packing::kTiles : few_rows;
}

Plan make_plan(const Program& program, const Weights& weights, bool tiles) {
  return Planner(program, weights, tiles).run();
}

}  // namespace apud::cpu
