// Decode's plan: about five fused stages a layer.
#include <algorithm>
#include <map>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/matvec.h"
#include "kernels/cuda/plan.h"

namespace apud::cuda {
namespace {

class SmallCompiler {
 public:
  SmallCompiler(const PlanContext& c, const Values& values)
      : c_(c), values_(values), program_(*c.program) {}

  Plan run() {
    const int count = static_cast<int>(program_.ops.size());
    for (int i = 0; i < count;)
      i = std::visit([&](const auto& op) { return add(op, i); }, program_.ops[i]);
    return std::move(plan_);
  }

 private:
  void emit(ValueId out, std::string name, double bytes, std::function<void(const Step&)> run) {
    auto& list = program_.values[out].rows == Rows::kTokens ? plan_.body : plan_.outputs;
    list.push_back({std::move(name), bytes, std::move(run)});
  }
  float* floats(ValueId v) const { return static_cast<float*>(values_.at(v).data); }
  int64_t ld(ValueId v) const { return values_.at(v).ld; }
  static int rows(const Step& s, Rows kind) {
    return kind == Rows::kTokens ? s.tokens : kind == Rows::kOutputs ? s.out_rows : s.sequences;
  }
  Rows kind(ValueId v) const { return program_.values[v].rows; }
  int cols(ValueId v) const { return program_.values[v].cols; }
  template <typename T>
  const T* op_at(int i) const {
    return i < static_cast<int>(program_.ops.size()) ? std::get_if<T>(&program_.ops[i]) : nullptr;
  }
  const LinearGroup* group_at(int i) const {
    for (const LinearGroup& g : *c_.groups)
      if (g.ops[0] == i) return &g;
    return nullptr;
  }

  int add(const EmbedOp& op, int i) {
    const EmbedArgs a = embed_args(c_, values_.at(op.out), i);
    emit(op.out, "embed", 0, [a](const Step& s) {
      EmbedArgs b = a;
      b.batch = s.batch;
      b.rows = s.tokens;
      embed(b, Launch{s.where.stream, false});
    });
    return i + a.tables;
  }

  /// The product that takes this norm in; null where none does.
  const LinearGroup* folds_norm(const NormOp& op, int i) const {
    const LinearGroup* g = group_at(i + 1);
    if (!g || op.kind != NormKind::kRms || op.bias != kNone) return nullptr;
    const auto& first = std::get<LinearOp>(program_.ops[g->ops[0]]);
    return first.x == op.out && dead_after(program_, g->ops.back(), op.out) ? g : nullptr;
  }
  bool quantised(const LinearGroup& g) const {
    return std::all_of(g.ops.begin(), g.ops.end(), [&](int i) {
      return !is_float_type(c_.weights->matrix(std::get<LinearOp>(program_.ops[i]).weight).type);
    });
  }
  /// Int8 activations of a value, made by one stage and read by the next.
  const QuantRows& quant_rows(ValueId v) {
    auto [it, fresh] = quant_rows_.try_emplace(v);
    if (fresh) it->second = make_quant_rows(plan_, kSmallRows, cols(v));
    return it->second;
  }
  /// Where op `i` begins a quantised product of `v`: the rows that v's producer is to fill.
  /// `norm` is the norm that the product takes in; null: none.
  const QuantRows* wanted_next(int i, ValueId v, const NormOp** norm) {
    *norm = op_at<NormOp>(i);
    const LinearGroup* g = *norm ? folds_norm(**norm, i) : group_at(i);
    if (!g || !quantised(*g) || kind(v) != Rows::kTokens) return nullptr;
    if ((*norm ? (*norm)->x : std::get<LinearOp>(program_.ops[g->ops[0]]).x) != v) return nullptr;
    ready_value_ = v;
    ready_reader_ = g->ops[0];
    return &quant_rows(v);
  }

  int add(const NormOp& op, int i) {
    if (const LinearGroup* g = folds_norm(op, i)) return add_linears(*g, &op);
    NormArgs a;
    a.x = values_.at(op.x);
    a.weight = c_.weights->vector(op.weight);
    a.bias = c_.weights->vector(op.bias);
    a.kind = op.kind;
    a.eps = op.eps;
    a.offset = op.weight_offset;
    a.cols = cols(op.x);
    int next = i + 1;
    const auto* sum = op_at<AddOp>(i + 1);
    if (sum && sum->x == op.out && dead_after(program_, i + 1, op.out)) {
      a.add_to = floats(sum->out);
      a.add_ld = ld(sum->out);
      next = i + 2;
    } else {
      a.out = floats(op.out);
      a.out_ld = ld(op.out);
    }
    ValueId x = op.x;
    emit(op.out, "norm", 0, [this_kind = kind(op.out), a, x, from = alias(x)](const Step& s) {
      NormArgs b = a;
      b.rows = rows(s, this_kind);
      if (s.identity && from.data) b.x = from;
      norm(b, s.where);
    });
    return next;
  }

  /// Where a selected value's rows lie when output rows are all rows in order.
  Matrix alias(ValueId v) const {
    auto it =
        std::find_if(selected_.begin(), selected_.end(), [&](auto& p) { return p.first == v; });
    return it == selected_.end() ? Matrix{} : values_.at(it->second);
  }

  int add(const LinearOp&, int i) {
    const LinearGroup* g = group_at(i);
    APUD_CHECK(g, "every linear op starts a group or is stepped over");
    return add_linears(*g, nullptr);
  }

  int add_linears(const LinearGroup& g, const NormOp* norm_op) {
    const auto& first = std::get<LinearOp>(program_.ops[g.ops[0]]);
    const int last = g.ops.back();
    MatvecStage m;
    ValueId x = norm_op ? norm_op->x : first.x;
    m.x = floats(x);
    m.x_ld = ld(x);
    m.cols = cols(first.x);
    m.accumulate = first.accumulate;
    if (norm_op) {
      m.norm_weight = c_.weights->vector(norm_op->weight);
      m.norm_eps = norm_op->eps;
      m.norm_offset = norm_op->weight_offset;
    }
    std::string name = norm_op ? "norm+" : "";
    int next = last + 1;
    const auto* act = op_at<ActivationOp>(last + 1);
    ValueId out = first.out;
    bool paired = false;
    if (g.ops.size() == 2 && act) {
      const auto& second = std::get<LinearOp>(program_.ops[last]);
      const LinearOp* gate = act->gate == first.out ? &first : &second;
      const LinearOp* up = act->gate == first.out ? &second : &first;
      const PackedMatrix& gm = c_.weights->matrix(gate->weight);
      const PackedMatrix& um = c_.weights->matrix(up->weight);
      paired = act->gate == gate->out && act->up == up->out && gm.type == um.type &&
               gm.rows == um.rows &&
               (act->out == gate->out || dead_after(program_, last + 1, gate->out)) &&
               (act->out == up->out || dead_after(program_, last + 1, up->out));
      if (paired) {
        m.paired = true;
        m.activation = act->kind;
        m.segments = 1;
        MatvecSegment& s = m.segment[0];
        s.weight = gm;
        s.pair = um.data;
        s.bias = c_.weights->vector(gate->bias);
        s.pair_bias = c_.weights->vector(up->bias);
        s.out = floats(act->out);
        s.out_ld = ld(act->out);
        out = act->out;
        next = last + 2;
        name += "gate-up+act";
      }
    }
    if (!paired) {
      for (int i : g.ops) {
        const auto& op = std::get<LinearOp>(program_.ops[i]);
        MatvecSegment& s = m.segment[m.segments++];
        s.weight = c_.weights->matrix(op.weight);
        s.bias = c_.weights->vector(op.bias);
        s.out = floats(op.out);
        s.out_ld = ld(op.out);
      }
      name += g.ops.size() == 3             ? "qkv"
              : first.accumulate            ? "linear+residual"
              : kind(out) == Rows::kOutputs ? "logits"
                                            : "linear";
    }
    // Float and quantised weights have kernels of their own; few groups mix them.
    MatvecStage floats_only = m, ints_only = m;
    floats_only.segments = ints_only.segments = 0;
    for (int i = 0; i < m.segments; ++i) {
      MatvecStage& part = is_float_type(m.segment[i].weight.type) ? floats_only : ints_only;
      part.segment[part.segments++] = m.segment[i];
    }
    if (ints_only.segments) add_stream(g, ints_only, x, out, name, next);
    if (floats_only.segments)
      emit(out, name, stage_bytes(floats_only),
           [m = floats_only, k = kind(out), sms = c_.multiprocessors,
            from = alias(x)](const Step& s) {
             MatvecStage stage = m;
             stage.columns = rows(s, k);
             if (s.identity && from.data) {
               stage.x = static_cast<const float*>(from.data);
               stage.x_ld = from.ld;
             }
             matvec(stage, sms, s.where);
           });
    return next;
  }
  static double stage_bytes(const MatvecStage& m) {
    double bytes = 0;
    for (int i = 0; i < m.segments; ++i)
      bytes += static_cast<double>(m.segment[i].weight.bytes()) * (m.paired ? 2 : 1);
    return bytes;
  }

  /// The stage `m` over int8 activations; `next` is the op after it.
  void add_stream(const LinearGroup& g, const MatvecStage& m, ValueId x, ValueId out,
                  const std::string& name, int next) {
    StreamStage t;
    t.x = quant_rows(x);
    t.cols = m.cols;
    t.normed = m.norm_weight != nullptr;
    t.norm_eps = m.norm_eps;
    t.accumulate = m.accumulate;
    t.paired = m.paired;
    t.activation = m.activation;
    t.segments = m.segments;
    for (int i = 0; i < m.segments; ++i) {
      const MatvecSegment& s = m.segment[i];
      t.segment[i] = {s.weight, s.pair, s.bias, s.pair_bias, s.out, s.out_ld, 0};
    }
    if (ready_value_ != x || ready_reader_ != g.ops[0]) {
      QuantiseArgs q;
      q.x = m.x;
      q.x_ld = m.x_ld;
      q.cols = m.cols;
      q.norm = m.norm_weight;
      q.norm_offset = m.norm_offset;
      q.out = t.x;
      emit(out, "quantise", 0, [q, k = kind(out), from = alias(x)](const Step& s) {
        QuantiseArgs a = q;
        a.rows = rows(s, k);
        if (s.identity && from.data) {
          a.x = static_cast<const float*>(from.data);
          a.x_ld = from.ld;
        }
        quantise(a, s.where);
      });
    }
    ready_value_ = kNone;
    if (m.segments == 1 && g.ops.size() == (m.paired ? 2u : 1u)) {
      const NormOp* norm = nullptr;
      if (const QuantRows* wanted = wanted_next(next, out, &norm)) {
        t.next = *wanted;
        if (norm) {
          t.next_norm = c_.weights->vector(norm->weight);
          t.next_offset = norm->weight_offset;
        }
      }
    }
    emit(out, name, stage_bytes(m), [t, k = kind(out), sms = c_.multiprocessors](const Step& s) {
      StreamStage stage = t;
      stage.columns = rows(s, k);
      stream(stage, sms, s.where);
    });
  }

  AttentionArgs attention_args(const AttentionOp& op, int next) {
    AttentionArgs a;
    const NormOp* norm = nullptr;
    if (op.shape.dim % 32 == 0 && !op_at<NormOp>(next))
      if (const QuantRows* wanted = wanted_next(next, op.out, &norm)) a.quantised = *wanted;
    a.q = values_.at(op.q);
    a.out = values_.at(op.out);
    a.shape = op.shape;
    a.scale = op.scale;
    a.softcap = op.softcap;
    a.window = op.window;
    a.half16 = c_.weights->half16();
    return a;
  }
  int add(const RotaryOp& op, int i) {
    AttentionArgs a;
    a.q = values_.at(op.q);
    a.k = values_.at(op.k);
    a.v = values_.at(op.v);
    a.shape = op.shape;
    const RotaryArgs r = c_.rotary[i];
    auto rotate = [a, r, layer = op.kv_layer](const Step& s) {
      AttentionArgs b = a;
      b.batch = s.batch;
      b.rows = s.tokens;
      b.kv = s.kv->view(layer);
      rotary(b, r, s.where);
    };
    const auto* next = op_at<AttentionOp>(i + 1);
    if (next && next->q == op.q && next->kv_layer == op.kv_layer &&
        dead_after(program_, i + 1, op.q) && dead_after(program_, i + 1, op.k) &&
        dead_after(program_, i + 1, op.v)) {
      AttentionArgs b = attention_args(*next, i + 2);
      b.k = a.k;
      b.v = a.v;
      emit(
          next->out, "rope+attention", 0,
          [b, r, rotate, layer = op.kv_layer, scratch = c_.scratch, runs = c_.runs](const Step& s) {
            AttentionArgs d = b;
            d.batch = s.batch;
            d.rows = s.tokens;
            d.kv = s.kv->view(layer);
            if (!s.single) rotate(s);
            attention_decode(d, s.single ? &r : nullptr, scratch, runs, s.long_rows, s.where);
          });
      return i + 2;
    }
    emit(op.q, "rope", 0, rotate);
    return i + 1;
  }
  int add(const AttentionOp& op, int i) {
    emit(op.out, "attention", 0,
         [a = attention_args(op, i + 1), layer = op.kv_layer, scratch = c_.scratch,
          runs = c_.runs](const Step& s) {
           AttentionArgs d = a;
           d.batch = s.batch;
           d.rows = s.tokens;
           d.kv = s.kv->view(layer);
           attention_decode(d, nullptr, scratch, runs, s.long_rows, s.where);
         });
    return i + 1;
  }
  int add(const ActivationOp& op, int i) {
    emit(op.out, "activation", 0,
         [g = values_.at(op.gate), u = op.up == kNone ? Matrix{} : values_.at(op.up),
          o = values_.at(op.out), k = op.kind, n = cols(op.out), rk = kind(op.out),
          h = c_.weights->half16()](const Step& s) {
           activation(g, u, o, k, rows(s, rk), n, h, s.where);
         });
    return i + 1;
  }
  int add(const AddOp& op, int i) {
    emit(op.out, "add", 0,
         [x = floats(op.x), xl = ld(op.x), o = floats(op.out), ol = ld(op.out), n = cols(op.out),
          rk = kind(op.out)](const Step& s) { add_values(x, xl, o, ol, rows(s, rk), n, s.where); });
    return i + 1;
  }
  static void add_values(const float* x, int64_t xl, float* o, int64_t ol, int r, int n,
                         const Launch& w) {
    ::apud::cuda::add(x, xl, o, ol, r, n, w);
  }
  int add(const SelectOp& op, int i) {
    // Readers that only read may take the rows where they are; others need the copy.
    bool only_read = true;
    for (size_t j = i + 1; j < program_.ops.size(); ++j) {
      OpUse u = op_use(program_.ops[j]);
      auto in = [&](const std::vector<ValueId>& v, ValueId id) {
        return std::find(v.begin(), v.end(), id) != v.end();
      };
      if (in(u.writes, op.x)) only_read = false;
      if (!in(u.reads, op.out) && !in(u.writes, op.out)) continue;
      bool reader = std::holds_alternative<NormOp>(program_.ops[j]) ||
                    std::holds_alternative<LinearOp>(program_.ops[j]);
      if (!reader || in(u.writes, op.out)) {
        // A norm in place that is folded into the next product writes nothing.
        const auto* n = std::get_if<NormOp>(&program_.ops[j]);
        bool folded = n && n->x == n->out && n->kind == NormKind::kRms && n->bias == kNone &&
                      group_at(static_cast<int>(j) + 1) &&
                      std::get<LinearOp>(program_.ops[j + 1]).x == n->out &&
                      dead_after(program_, group_at(static_cast<int>(j) + 1)->ops.back(), n->out);
        if (!folded) only_read = false;
      }
    }
    if (only_read && op.out != program_.result) selected_.push_back({op.out, op.x});
    emit(op.out, "select", 0,
         [x = floats(op.x), xl = ld(op.x), o = floats(op.out), ol = ld(op.out), n = cols(op.out),
          aliased = only_read && op.out != program_.result](const Step& s) {
           if (s.identity && aliased) return;
           select_rows(x, xl, o, ol, s.out_first, s.out_rows, n, s.batch, s.where);
         });
    return i + 1;
  }
  int add(const PoolOp&, int) {
    APUD_CHECK(false, "encoders run the plan for many rows");
    return 0;
  }
  int add(const SoftcapOp& op, int i) {
    emit(op.x, "softcap", 0,
         [x = floats(op.x), l = ld(op.x), cap = op.softcap, n = cols(op.x),
          rk = kind(op.x)](const Step& s) { softcap(x, l, cap, rows(s, rk), n, s.where); });
    return i + 1;
  }
  int add(const L2NormalizeOp& op, int i) {
    emit(op.x, "l2", 0,
         [x = floats(op.x), l = ld(op.x), n = cols(op.x), rk = kind(op.x)](const Step& s) {
           l2_normalize(x, l, rows(s, rk), n, s.where);
         });
    return i + 1;
  }

  const PlanContext& c_;
  const Values& values_;
  const Program& program_;
  std::vector<std::pair<ValueId, ValueId>> selected_;
  std::map<ValueId, QuantRows> quant_rows_;
  ValueId ready_value_ = kNone;  // filled by the last product or attention,
  int ready_reader_ = -1;        // for the product that begins at this op
  Plan plan_;
};

}  // namespace

Plan compile_small(const PlanContext& c, const Values& values) {
  return SmallCompiler(c, values).run();
}

}  // namespace apud::cuda
