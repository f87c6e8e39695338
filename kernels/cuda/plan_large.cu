// Prefill's and the encoders' plan: 16-bit matrix products by cuBLASLt, everything else our own.
#include <algorithm>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/matvec.h"
#include "kernels/cuda/plan.h"

namespace apud::cuda {
namespace {

int step_rows(const Step& s, Rows kind) {
  return kind == Rows::kTokens ? s.tokens : kind == Rows::kOutputs ? s.out_rows : s.sequences;
}

/// One product of prefill, resolved.
struct Product {
  const PlanContext* c = nullptr;
  Matrix x;  // 16-bit, or floats to be converted first
  int k = 0;
  Matrix out;  // of the first op; the others follow in its row when `joined`
  HalfMatrix half;
  std::vector<PackedMatrix> weights;
  const void* bias = nullptr;
  bool accumulate = false;
  Rows rows = Rows::kTokens;
  int row_count = 0;  // of weights, all together
  bool gelu = false;  // behind it, in place
  // Behind a product of gate and up: activation(gate) * up.
  bool gated = false;
  Activation activation = Activation::kSilu;
  Matrix gate, up, result;
  bool up_first = false;
};

/// The product as one, of weights that lie in 16 bits.
GemmArgs whole(const Product& p, int rows) {
  GemmArgs g;
  g.x = p.x.data;
  g.x_ld = p.x.ld;
  g.w = p.half.data;
  g.w_ld = p.half.ld;
  g.out = p.out;
  g.rows = rows;
  g.n = p.row_count;
  g.k = p.k;
  g.accumulate = p.accumulate;
  g.bias = p.bias;
  g.half16 = p.c->weights->half16();
  return g;
}

void run_product(const Product& p, const Step& s) {
  const int rows = step_rows(s, p.rows);
  GemmArgs g = whole(p, rows);
  if (!p.x.half16) {
    int64_t ld = round_up(p.k, 8);
    convert(static_cast<const float*>(p.x.data), p.x.ld, p.c->convert_scratch, ld, rows, p.k,
            g.half16, s.where);
    g.x = p.c->convert_scratch;
    g.x_ld = ld;
  }
  const int out_size = p.out.half16 ? 2 : 4;
  auto finish = [&] {
    if (p.gated)
      activation(p.gate, p.up, p.result, p.activation, rows, p.row_count / 2, g.half16, s.where);
    if (p.gelu)
      activation(p.out, {}, p.out, Activation::kGeluErf, rows, p.row_count, g.half16, s.where);
  };
  if (p.half.data) {
    if (s.few && product_few(g, p.gelu, s.where)) {
      if (p.gated) finish();
      return;
    }
    if (p.gated && p.activation == Activation::kSilu) {
      GemmArgs half = g;
      half.n = p.row_count / 2;
      half.out = p.result;
      if (product_gated(half, p.up_first ? half.n : 0, p.up_first ? 0 : half.n,
                        p.c->multiprocessors, s.where))
        return;
    }
    if (p.gelu && product_gelu(g, p.c->multiprocessors, s.where.stream)) return;
    p.c->gemm->run(g, s.where.stream);
    finish();
    return;
  }
  // Panels that stay in L2 between unpacking and product.
  int column = 0;
  for (const PackedMatrix& m : p.weights) {
    int64_t ld = round_up(m.cols, 8);
    int panel = static_cast<int>(std::min<int64_t>(m.rows, p.c->panel_bytes / (ld * 2) / 8 * 8));
    APUD_CHECK(panel > 0, "a panel holds eight rows");
    for (int first = 0; first < m.rows; first += panel) {
      int n = std::min(panel, m.rows - first);
      unpack_h16(m, first, n, g.half16, p.c->panel, ld, s.where.stream);
      g.w = p.c->panel;
      g.w_ld = ld;
      g.n = n;
      g.out = p.out;
      g.out.data = static_cast<uint8_t*>(p.out.data) + int64_t{column + first} * out_size;
      g.bias = p.bias ? static_cast<const uint8_t*>(p.bias) + int64_t{column + first} * out_size
                      : nullptr;
      p.c->gemm->run(g, s.where.stream);
    }
    column += m.rows;
  }
  finish();
}

/// Norms the sum of n.x and the product: in one kernel where one is for it.
void run_normed(const Product& p, const NormArgs& n, const Step& s) {
  if (p.half.data && p.x.half16 && product_norm(whole(p, n.rows), n, p.c->multiprocessors, s.where))
    return;
  run_product(p, s);
  norm(n, s.where);
}

class LargeCompiler {
 public:
  LargeCompiler(const PlanContext& c, const Values& values)
      : c_(c), values_(values), program_(*c.program), twin_valid_(program_.values.size(), false) {}

  Plan run() {
    const int count = static_cast<int>(program_.ops.size());
    for (int i = 0; i < count;) {
      int next = std::visit([&](const auto& op) { return add(op, i); }, program_.ops[i]);
      for (int j = i; j < next; ++j) {
        bool norm = std::holds_alternative<NormOp>(program_.ops[j]);
        for (ValueId v : op_use(program_.ops[j]).writes) twin_valid_[v] = norm && twin_written_;
      }
      twin_written_ = false;
      i = next;
    }
    return std::move(plan_);
  }

 private:
  void emit(ValueId out, std::string name, std::function<void(const Step&)> run) {
    auto& list = program_.values[out].rows == Rows::kTokens ? plan_.body : plan_.outputs;
    list.push_back({std::move(name), 0, std::move(run)});
  }
  const Matrix& at(ValueId v) const { return values_.at(v); }
  float* floats(ValueId v) const {
    APUD_CHECK(!at(v).half16, "a float value");
    return static_cast<float*>(at(v).data);
  }
  int64_t ld(ValueId v) const { return at(v).ld; }
  Rows kind(ValueId v) const { return program_.values[v].rows; }
  int cols(ValueId v) const { return program_.values[v].cols; }

  int add(const EmbedOp& op, int i) {
    const EmbedArgs a = embed_args(c_, at(op.out), i);
    emit(op.out, "embed", [a](const Step& s) {
      EmbedArgs b = a;
      b.batch = s.batch;
      b.rows = s.tokens;
      embed(b, s.where);
    });
    return i + a.tables;
  }

  int add(const NormOp& op, int i, ValueId branch = kNone, bool behind_product = false) {
    NormArgs a;
    a.x = at(op.x);
    if (branch != kNone) a.branch = at(branch);
    a.weight = c_.weights->vector(op.weight);
    a.bias = c_.weights->vector(op.bias);
    a.kind = op.kind;
    a.eps = op.eps;
    a.offset = op.weight_offset;
    a.cols = cols(op.x);
    a.half16 = c_.weights->half16();
    int next = i + 1;
    const auto* sum = i + 1 < static_cast<int>(program_.ops.size())
                          ? std::get_if<AddOp>(&program_.ops[i + 1])
                          : nullptr;
    if (sum && sum->x == op.out && !at(op.out).half16 && !at(sum->out).half16 &&
        dead_after(program_, i + 1, op.out)) {
      a.add_to = floats(sum->out);
      a.add_ld = ld(sum->out);
      next = i + 2;
    } else if (at(op.out).half16) {
      a.half_out = at(op.out).data;
      a.half_ld = ld(op.out);
    } else {
      a.out = floats(op.out);
      a.out_ld = ld(op.out);
      if (values_.twin(op.out).data) {
        a.half_out = values_.twin(op.out).data;
        a.half_ld = values_.twin(op.out).ld;
        twin_written_ = true;
      }
    }
    if (!behind_product) {
      emit(op.out, "norm", [a, k = kind(op.out)](const Step& s) {
        NormArgs b = a;
        b.rows = step_rows(s, k);
        norm(b, s.where);
      });
      return next;
    }
    plan_.body.pop_back();  // that product's stage, which becomes this one
    emit(op.out, "product + norm", [a, p = products_.back()](const Step& s) {
      NormArgs b = a;
      b.rows = s.tokens;
      run_normed(*p, b, s);
    });
    return next;
  }

  int add(const LinearOp& op, int i) {
    int index = 0;
    while ((*c_.groups)[index].ops[0] != i) ++index;
    const LinearGroup& g = (*c_.groups)[index];
    // Few rows of logits: the matvec reads the packed weights once.
    if (kind(op.out) != Rows::kTokens) {
      APUD_CHECK(g.ops.size() == 1, "groups are of token rows");
      add_output_linear(op, index);
      return i + 1;
    }
    // Do the outputs lie side by side?
    bool joined = true;
    int column = 0;
    for (int j : g.ops) {
      const auto& o = std::get<LinearOp>(program_.ops[j]);
      const Matrix &m = at(o.out), &f = at(op.out);
      joined = joined && m.ld == f.ld && m.half16 == f.half16 &&
               static_cast<uint8_t*>(m.data) ==
                   static_cast<uint8_t*>(f.data) + int64_t{column} * (f.half16 ? 2 : 4);
      column += cols(o.out);
    }
    Matrix x = at(op.x);
    if (!x.half16 && twin_valid_[op.x]) x = values_.twin(op.x);
    int row_offset = 0;
    for (size_t j = 0; j < g.ops.size(); ++j) {
      const auto& o = std::get<LinearOp>(program_.ops[g.ops[j]]);
      const PackedMatrix& m = c_.weights->matrix(o.weight);
      if (joined && j > 0) {
        products_.back()->weights.push_back(m);
        products_.back()->row_count += m.rows;
        continue;
      }
      auto p = std::make_shared<Product>();
      p->c = &c_;
      p->x = x;
      p->k = cols(op.x);
      p->out = at(o.out);
      p->half = c_.weights->half(index);
      if (p->half.data)
        p->half.data =
            static_cast<const uint8_t*>(p->half.data) + int64_t{row_offset} * p->half.ld * 2;
      p->weights = {m};
      p->row_count = m.rows;
      p->accumulate = o.accumulate;
      p->rows = kind(o.out);
      const void* bias = p->out.half16 ? c_.weights->group_bias_half(index)
                                       : static_cast<const void*>(c_.weights->group_bias(index));
      if (bias)
        p->bias = static_cast<const uint8_t*>(bias) + int64_t{row_offset} * (p->out.half16 ? 2 : 4);
      row_offset += m.rows;
      products_.push_back(p);
      emit(o.out, "product", [p](const Step& s) { run_product(*p, s); });
    }
    const int next = g.ops.back() + 1;
    const auto* after = next < static_cast<int>(program_.ops.size())
                            ? std::get_if<ActivationOp>(&program_.ops[next])
                            : nullptr;
    if (g.ops.size() == 2 && joined && after && add_gated(g, *after, next)) return next + 1;
    if (g.ops.size() > 1 || !after || after->kind != Activation::kGeluErf || after->up != kNone ||
        after->gate != op.out || after->out != op.out || after->gate == program_.result)
      return next;
    products_.back()->gelu = true;
    return next + 1;
  }

  /// Makes the activation at `next` part of the product before it, which makes what it reads.
  bool add_gated(const LinearGroup& g, const ActivationOp& act, int next) {
    const ValueId a = std::get<LinearOp>(program_.ops[g.ops[0]]).out,
                  b = std::get<LinearOp>(program_.ops[g.ops[1]]).out;
    Product& p = *products_.back();
    auto dead = [&](ValueId v) { return v == act.out || dead_after(program_, next, v); };
    if (!((act.gate == a && act.up == b) || (act.gate == b && act.up == a)) || cols(a) != cols(b) ||
        !at(act.out).half16 || !p.out.half16 || !dead(a) || !dead(b))
      return false;
    p.gated = true;
    p.activation = act.kind;
    p.gate = at(act.gate);
    p.up = at(act.up);
    p.result = at(act.out);
    p.up_first = act.gate == b;
    plan_.body.back().name = "product + activation";
    return true;
  }

  void add_output_linear(const LinearOp& op, int group) {
    MatvecStage m;
    m.x = floats(op.x);
    m.x_ld = ld(op.x);
    m.cols = cols(op.x);
    m.accumulate = op.accumulate;
    m.segments = 1;
    m.segment[0].weight = c_.weights->matrix(op.weight);
    m.segment[0].bias = c_.weights->vector(op.bias);
    m.segment[0].out = floats(op.out);
    m.segment[0].out_ld = ld(op.out);
    Product p;
    p.c = &c_;
    p.x = at(op.x);
    p.k = cols(op.x);
    p.out = at(op.out);
    p.half = c_.weights->half(group);
    p.weights = {m.segment[0].weight};
    p.row_count = m.segment[0].weight.rows;
    p.bias = c_.weights->group_bias(group);
    p.accumulate = op.accumulate;
    p.rows = kind(op.out);
    StreamStage t;
    QuantiseArgs q;
    if (!is_float_type(m.segment[0].weight.type)) {
      q.x = m.x;
      q.x_ld = m.x_ld;
      q.cols = t.cols = m.cols;
      t.x = q.out = make_quant_rows(plan_, 2 * kSmallRows, m.cols);
      t.accumulate = m.accumulate;
      t.segments = 1;
      const MatvecSegment& from = m.segment[0];
      t.segment[0] = {from.weight, nullptr, from.bias, nullptr, from.out, from.out_ld, 0};
    }
    emit(op.out, "logits", [m, t, q, p, k = kind(op.out), sms = c_.multiprocessors](const Step& s) {
      int rows = step_rows(s, k);
      if (rows > 2 * kSmallRows) return run_product(p, s);
      if (t.segments) {
        QuantiseArgs a = q;
        a.rows = rows;
        quantise(a, s.where);
        StreamStage stage = t;
        stage.columns = rows;
        return stream(stage, sms, s.where);
      }
      MatvecStage stage = m;
      stage.columns = rows;
      matvec(stage, sms, s.where);
    });
  }

  int add(const RotaryOp& op, int i) {
    AttentionArgs a;
    a.q = at(op.q);
    a.k = at(op.k);
    a.v = at(op.v);
    a.shape = op.shape;
    a.half16 = c_.weights->half16();
    emit(op.q, "rope", [a, r = c_.rotary[i], layer = op.kv_layer](const Step& s) {
      AttentionArgs b = a;
      b.batch = s.batch;
      b.rows = s.tokens;
      if (layer != kNone) {
        s.kv->wait_for_layer(layer);
        b.kv = s.kv->view(layer);
      }
      rotary(b, r, s.where);
    });
    return i + 1;
  }

  int add(const AttentionOp& op, int i) {
    AttentionArgs a;
    a.q = at(op.q);
    a.out = at(op.out);
    a.shape = op.shape;
    a.scale = op.scale;
    a.softcap = op.softcap;
    a.window = op.window;
    a.paged = op.kv_layer != kNone;
    if (!a.paged) {
      a.k = at(op.k);
      a.v = at(op.v);
    }
    a.half16 = c_.weights->half16();
    emit(op.out, "attention",
         [a, layer = op.kv_layer, scratch = c_.attention_scratch,
          max = c_.max_tokens](const Step& s) {
           AttentionArgs b = a;
           b.batch = s.batch;
           b.rows = s.tokens;
           b.tiles = s.tiles;
           if (b.paged) {
             s.kv->wait_for_layer(layer);
             b.kv = s.kv->view(layer);
           }
           bool same = (b.kv.type == KvType::kBF16) == (b.half16 == Half16::kBf16);
           if (!b.paged || same) return attention_prefill(b, s.where);
           // KV in the other 16-bit type: through floats.
           int width = b.shape.heads * b.shape.dim;
           Matrix q = {scratch, width, false}, out = {scratch + int64_t{max} * width, width, false};
           if (b.q.half16) {
             widen(b.q.data, b.q.ld, scratch, width, s.tokens, width, b.half16, s.where);
             b.q = q;
           }
           if (b.out.half16) b.out = out;
           attention_prefill(b, s.where);
           if (a.out.half16)
             convert(static_cast<const float*>(out.data), width, a.out.data, a.out.ld, s.tokens,
                     width, b.half16, s.where);
         });
    return i + 1;
  }

  int add(const ActivationOp& op, int i) {
    emit(op.out, "activation",
         [g = at(op.gate), u = op.up == kNone ? Matrix{} : at(op.up), o = at(op.out), k = op.kind,
          n = cols(op.out), rk = kind(op.out), h = c_.weights->half16()](const Step& s) {
           activation(g, u, o, k, step_rows(s, rk), n, h, s.where);
         });
    return i + 1;
  }
  /// Whether the op before `i`, a sum that is normed in place, is the product that makes its
  /// addend `v`, which nothing else reads.
  bool only_norm_reads(ValueId v, int i) const {
    const auto* made = i > 0 ? std::get_if<LinearOp>(&program_.ops[i - 1]) : nullptr;
    return made && made->out == v && !made->accumulate && kind(v) == Rows::kTokens &&
           !products_.empty() && products_.back()->out.data == at(v).data &&
           products_.back()->row_count == cols(v) && dead_after(program_, i + 1, v);
  }
  int add(const AddOp& op, int i) {
    // A sum that only a norm reads, which replaces it: one pass.
    const auto* n = i + 1 < static_cast<int>(program_.ops.size())
                        ? std::get_if<NormOp>(&program_.ops[i + 1])
                        : nullptr;
    if (n && n->x == op.out && (n->out == op.out || dead_after(program_, i + 1, op.out)))
      return add(*n, i + 1, op.x, n->out == n->x && only_norm_reads(op.x, i));
    emit(op.out, "add",
         [x = floats(op.x), xl = ld(op.x), o = floats(op.out), ol = ld(op.out), n = cols(op.out),
          rk = kind(op.out)](const Step& s) {
           ::apud::cuda::add(x, xl, o, ol, step_rows(s, rk), n, s.where);
         });
    return i + 1;
  }
  int add(const SelectOp& op, int i) {
    emit(op.out, "select",
         [x = floats(op.x), xl = ld(op.x), o = floats(op.out), ol = ld(op.out),
          n = cols(op.out)](const Step& s) {
           select_rows(x, xl, o, ol, s.out_first, s.out_rows, n, s.batch, s.where);
         });
    return i + 1;
  }
  int add(const PoolOp& op, int i) {
    emit(op.out, "pool",
         [x = at(op.x), h = c_.weights->half16(), o = floats(op.out), ol = ld(op.out),
          n = cols(op.out),
          k = op.kind](const Step& s) { pool(x, h, o, ol, k, s.sequences, n, s.batch, s.where); });
    return i + 1;
  }
  int add(const SoftcapOp& op, int i) {
    emit(op.x, "softcap",
         [x = floats(op.x), l = ld(op.x), cap = op.softcap, n = cols(op.x),
          rk = kind(op.x)](const Step& s) { softcap(x, l, cap, step_rows(s, rk), n, s.where); });
    return i + 1;
  }
  int add(const L2NormalizeOp& op, int i) {
    emit(op.x, "l2",
         [x = floats(op.x), l = ld(op.x), n = cols(op.x), rk = kind(op.x)](const Step& s) {
           l2_normalize(x, l, step_rows(s, rk), n, s.where);
         });
    return i + 1;
  }

  const PlanContext& c_;
  const Values& values_;
  const Program& program_;
  std::vector<bool> twin_valid_;
  bool twin_written_ = false;
  std::vector<std::shared_ptr<Product>> products_;
  Plan plan_;
};

}  // namespace

Plan compile_large(const PlanContext& c, const Values& values) {
  return LargeCompiler(c, values).run();
}

}  // namespace apud::cuda
