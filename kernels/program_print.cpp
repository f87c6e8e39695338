// Cost and text of a Program: what `apud model info` shows.
#include <fmt/format.h>

#include <set>

#include "kernels/program.h"

namespace apud {

ProgramCost program_cost(const Program& program, const Weights& weights) {
  ProgramCost cost;
  std::set<const std::byte*> counted;
  for (const WeightView& view : weights) {
    if (!counted.insert(view.data).second) continue;
    cost.parameters += view.rows * view.cols;
    cost.weight_bytes += static_cast<int64_t>(view.bytes());
  }
  // What one token reads: vectors and matrices whole (each once), one row of an embedding table.
  std::set<const std::byte*> read;
  auto whole = [&](WeightId id) {
    if (id == kNone) return;
    const WeightView& view = weights[static_cast<size_t>(id)];
    if (read.insert(view.data).second)
      cost.read_bytes_per_token += static_cast<int64_t>(view.bytes());
  };
  for (const Op& op : program.ops) {
    if (auto* linear = std::get_if<LinearOp>(&op)) {
      const WeightView& view = weights[static_cast<size_t>(linear->weight)];
      cost.flops_per_token += 2 * view.rows * view.cols;
      whole(linear->weight);
      whole(linear->bias);
    } else if (auto* norm = std::get_if<NormOp>(&op)) {
      whole(norm->weight);
      whole(norm->bias);
    } else if (auto* rotary = std::get_if<RotaryOp>(&op)) {
      whole(rotary->q_norm);
      whole(rotary->k_norm);
    } else if (auto* embed = std::get_if<EmbedOp>(&op)) {
      const WeightView& view = weights[static_cast<size_t>(embed->table)];
      cost.read_bytes_per_token += static_cast<int64_t>(row_bytes(view.type, view.cols));
    } else if (auto* attention = std::get_if<AttentionOp>(&op)) {
      // Two products (q·k and p·v), multiply and add each.
      cost.attention_flops_per_kv += 4ll * attention->shape.heads * attention->shape.dim;
    }
  }
  for (const KvGroup& group : program.kv_groups) {
    cost.kv_values_per_token += 2ll * group.layers * group.kv_heads * group.head_dim;
  }
  return cost;
}

namespace {

class Printer {
 public:
  Printer(const Program& program, const Weights& weights) : program_(program), weights_(weights) {}

  std::string run() {
    out_ = fmt::format("program {}: {} ops, {} weights, {} positions\n", program_.name,
                       program_.ops.size(), weights_.size(), program_.max_positions);
    for (size_t i = 0; i < program_.kv_groups.size(); ++i) {
      const KvGroup& g = program_.kv_groups[i];
      out_ += fmt::format("kv group {}: {} layers, {} heads of {}", i, g.layers, g.kv_heads,
                          g.head_dim);
      out_ += g.window > 0 ? fmt::format(", window {}\n", g.window) : "\n";
    }
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      out_ += fmt::format("{:4} ", i);
      std::visit([this](const auto& op) { print(op); }, program_.ops[i]);
      out_ += '\n';
    }
    out_ += fmt::format("result {}\n", value(program_.result));
    return std::move(out_);
  }

 private:
  std::string value(ValueId id) const {
    const Value& v = program_.values[static_cast<size_t>(id)];
    const char* rows = v.rows == Rows::kTokens ? "T" : v.rows == Rows::kOutputs ? "R" : "S";
    return fmt::format("{}({}, {})", v.name, rows, v.cols);
  }
  std::string weight(WeightId id) const {
    auto i = static_cast<size_t>(id);
    const WeightSlot& slot = program_.weights[i];
    return fmt::format("{}[{} {}x{}]", slot.name, weight_type_name(weights_[i].type), slot.rows,
                       slot.cols);
  }
  std::string optional(const char* label, WeightId id) const {
    return id == kNone ? std::string() : fmt::format(" {} {}", label, weight(id));
  }
  static std::string heads(const HeadShape& s) {
    return fmt::format("heads {}/{} x {}", s.heads, s.kv_heads, s.dim);
  }
  void line(const char* op, ValueId out, bool accumulate, const std::string& rest) {
    out_ += fmt::format("{:10} {} {} {}", op, value(out), accumulate ? "+=" : "=", rest);
  }

  void print(const EmbedOp& op) {
    const char* index = op.index == IndexSource::kToken      ? "token"
                        : op.index == IndexSource::kPosition ? "position"
                                                             : "0";
    std::string rest = fmt::format("{} at {}", weight(op.table), index);
    if (op.offset) rest += fmt::format(" + {}", op.offset);
    if (op.scale != 1) rest += fmt::format(", times {}", op.scale);
    line("embed", op.out, op.accumulate, rest);
  }
  void print(const NormOp& op) {
    std::string rest = fmt::format("{}, {}{} eps {}", value(op.x), weight(op.weight),
                                   optional("bias", op.bias), op.eps);
    if (op.weight_offset != 0) rest += fmt::format(", weight + {}", op.weight_offset);
    line(op.kind == NormKind::kRms ? "rms_norm" : "layer_norm", op.out, false, rest);
  }
  void print(const LinearOp& op) {
    line("linear", op.out, op.accumulate,
         fmt::format("{} · {}{}", value(op.x), weight(op.weight), optional("bias", op.bias)));
  }
  void print(const RotaryOp& op) {
    out_ += fmt::format("{:10} {}, {}; {}", "rotary", value(op.q), value(op.k), heads(op.shape));
    out_ += fmt::format(", {} frequencies", op.rotary.inv_freq.size());
    if (op.rotary.magnitude != 1) out_ += fmt::format(", magnitude {}", op.rotary.magnitude);
    out_ += optional("q norm", op.q_norm) + optional("k norm", op.k_norm);
    if (op.kv_layer != kNone)
      out_ += fmt::format(", with {} to kv layer {}", value(op.v), op.kv_layer);
  }
  void print(const AttentionOp& op) {
    std::string rest = fmt::format("{}; {}, scale {:.6g}", value(op.q), heads(op.shape), op.scale);
    if (op.softcap > 0) rest += fmt::format(", softcap {}", op.softcap);
    if (op.window > 0) rest += fmt::format(", window {}", op.window);
    rest += op.kv_layer == kNone ? fmt::format(", {}, {}, bidirectional", value(op.k), value(op.v))
                                 : fmt::format(", kv layer {}", op.kv_layer);
    line("attention", op.out, false, rest);
  }
  void print(const ActivationOp& op) {
    const char* name = op.kind == Activation::kSilu       ? "silu"
                       : op.kind == Activation::kGeluTanh ? "gelu_tanh"
                                                          : "gelu_erf";
    std::string rest = value(op.gate);
    if (op.up != kNone) rest += fmt::format(" * {}", value(op.up));
    line(name, op.out, false, rest);
  }
  void print(const AddOp& op) { line("add", op.out, true, value(op.x)); }
  void print(const SelectOp& op) { line("select", op.out, false, value(op.x)); }
  void print(const PoolOp& op) {
    const char* name = op.kind == PoolKind::kMean    ? "pool_mean"
                       : op.kind == PoolKind::kFirst ? "pool_first"
                                                     : "pool_last";
    line(name, op.out, false, value(op.x));
  }
  void print(const SoftcapOp& op) {
    line("softcap", op.x, false, fmt::format("{} * tanh(x / {})", op.softcap, op.softcap));
  }
  void print(const L2NormalizeOp& op) { line("l2_norm", op.x, false, "x / |x|"); }

  const Program& program_;
  const Weights& weights_;
  std::string out_;
};

}  // namespace

std::string print_program(const Program& program, const Weights& weights) {
  return Printer(program, weights).run();
}

}  // namespace apud
