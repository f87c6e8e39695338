#include "kernels/program.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace apud {

namespace {

/// Walks the ops in order, knowing which values were written so far.
class Validator {
 public:
  Validator(const Program& program, const Weights& weights)
      : program_(program), weights_(weights), written_(program.values.size(), false) {}

  void run() {
    check_tables();
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      op_ = i;
      std::visit([this](const auto& op) { check(op); }, program_.ops[i]);
    }
    op_ = program_.ops.size();
    read(program_.result, "result");
    Rows rows = value(program_.result).rows;
    require(program_.is_encoder() ? rows != Rows::kTokens : rows == Rows::kOutputs,
            "the result has the wrong kind of rows");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::kBadData,
                fmt::format("program {}: op {}: {}", program_.name, op_, what));
  }
  void require(bool condition, const std::string& what) const {
    if (!condition) fail(what);
  }

  void check_tables() {
    if (program_.weights.size() != weights_.size()) {
      throw Error(ErrorKind::kBadData,
                  fmt::format("program {}: {} weights for {} slots", program_.name, weights_.size(),
                              program_.weights.size()));
    }
    for (size_t i = 0; i < weights_.size(); ++i) {
      const WeightSlot& slot = program_.weights[i];
      const WeightView& view = weights_[i];
      auto bad = [&](const std::string& what) {
        throw Error(ErrorKind::kBadData,
                    fmt::format("program {}: weight {}: {}", program_.name, slot.name, what));
      };
      if (view.data == nullptr) bad("has no data");
      if (view.rows != slot.rows || view.cols != slot.cols) {
        bad(fmt::format("shape ({}, {}) where ({}, {}) is needed", view.rows, view.cols, slot.rows,
                        slot.cols));
      }
      if (slot.rows <= 0 || slot.cols <= 0) bad("empty shape");
      if (view.cols % block_values(view.type) != 0) {
        bad(fmt::format("{} columns are no multiple of a {} block", view.cols,
                        weight_type_name(view.type)));
      }
      if (view.order == RowOrder::kRotaryPairs &&
          (view.head_dim <= 0 || view.head_dim % 2 != 0 || view.rows % view.head_dim != 0)) {
        bad(fmt::format("rotary row order with head width {} over {} rows", view.head_dim,
                        view.rows));
      }
    }
    for (const Value& value : program_.values) {
      if (value.cols <= 0) {
        throw Error(ErrorKind::kBadData, fmt::format("program {}: value {}: {} columns",
                                                     program_.name, value.name, value.cols));
      }
    }
    check_kv();
  }

  void check_kv() const {
    auto bad = [&](const std::string& what) {
      throw Error(ErrorKind::kBadData, fmt::format("program {}: {}", program_.name, what));
    };
    if (program_.kv_groups.size() > kMaxKvGroups) {
      bad(fmt::format("{} KV groups, at most {}", program_.kv_groups.size(), kMaxKvGroups));
    }
    std::vector<std::vector<char>> seen;  // [group][layer]
    for (const KvGroup& group : program_.kv_groups) {
      if (group.layers <= 0 || group.kv_heads <= 0 || group.head_dim <= 0 || group.window < 0) {
        bad("empty KV group");
      }
      seen.emplace_back(static_cast<size_t>(group.layers), 0);
    }
    size_t places = 0;
    for (const KvLayerPlace& place : program_.kv_layers) {
      if (place.group < 0 || static_cast<size_t>(place.group) >= seen.size() || place.index < 0 ||
          place.index >= program_.kv_groups[static_cast<size_t>(place.group)].layers) {
        bad(fmt::format("KV layer at group {} index {}", place.group, place.index));
      }
      char& taken = seen[static_cast<size_t>(place.group)][static_cast<size_t>(place.index)];
      if (taken) bad(fmt::format("two KV layers at group {} index {}", place.group, place.index));
      taken = 1;
      ++places;
    }
    size_t wanted = 0;
    for (const KvGroup& group : program_.kv_groups) wanted += static_cast<size_t>(group.layers);
    if (places != wanted) bad(fmt::format("{} KV layers where the groups hold {}", places, wanted));
  }

  const Value& value(ValueId id) const {
    require(id >= 0 && static_cast<size_t>(id) < program_.values.size(),
            fmt::format("value id {} out of range", id));
    return program_.values[static_cast<size_t>(id)];
  }
  const WeightSlot& weight(WeightId id) const {
    require(id >= 0 && static_cast<size_t>(id) < program_.weights.size(),
            fmt::format("weight id {} out of range", id));
    return program_.weights[static_cast<size_t>(id)];
  }
  void read(ValueId id, const char* role) const {
    const Value& v = value(id);
    require(written_[static_cast<size_t>(id)],
            fmt::format("{} {} is read before it is written", role, v.name));
  }
  void write(ValueId id, bool accumulate = false) {
    if (accumulate) read(id, "out");
    value(id);
    written_[static_cast<size_t>(id)] = true;
  }
  void same_rows(ValueId a, ValueId b) const {
    require(value(a).rows == value(b).rows,
            fmt::format("{} and {} have different kinds of rows", value(a).name, value(b).name));
  }
  void same_cols(ValueId a, ValueId b) const {
    require(value(a).cols == value(b).cols,
            fmt::format("{} has {} columns, {} has {}", value(a).name, value(a).cols, value(b).name,
                        value(b).cols));
  }
  void cols(ValueId id, int64_t wanted) const {
    require(value(id).cols == wanted, fmt::format("{} has {} columns where {} are needed",
                                                  value(id).name, value(id).cols, wanted));
  }
  void shape(WeightId id, int64_t rows, int64_t columns) const {
    const WeightSlot& w = weight(id);
    require(w.rows == rows && w.cols == columns,
            fmt::format("weight {} is ({}, {}) where ({}, {}) is needed", w.name, w.rows, w.cols,
                        rows, columns));
  }
  void vector(WeightId id, int64_t size) const {
    if (id != kNone) shape(id, 1, size);
  }
  void heads(const HeadShape& s) const {
    require(s.heads > 0 && s.kv_heads > 0 && s.dim > 0 && s.heads % s.kv_heads == 0,
            fmt::format("{} heads over {} KV heads of width {}", s.heads, s.kv_heads, s.dim));
  }
  const KvGroup& group_of(int kv_layer) const {
    require(kv_layer >= 0 && static_cast<size_t>(kv_layer) < program_.kv_layers.size(),
            fmt::format("KV layer {} out of range", kv_layer));
    return program_
        .kv_groups[static_cast<size_t>(program_.kv_layers[static_cast<size_t>(kv_layer)].group)];
  }
  void positive(float number, const char* what) const {
    require(std::isfinite(number) && number > 0, fmt::format("{} is {}", what, number));
  }

  void check(const EmbedOp& op) {
    require(value(op.out).rows == Rows::kTokens, "embedding into rows other than tokens");
    require(weight(op.table).cols == value(op.out).cols,
            fmt::format("table {} has {} columns, {} has {}", weight(op.table).name,
                        weight(op.table).cols, value(op.out).name, value(op.out).cols));
    require(op.offset >= 0 && op.offset < weight(op.table).rows, "offset outside the table");
    require(std::isfinite(op.scale), "scale is not finite");
    write(op.out, op.accumulate);
  }
  void check(const NormOp& op) {
    read(op.x, "x");
    same_rows(op.x, op.out);
    same_cols(op.x, op.out);
    require(op.weight != kNone, "norm without weight");
    vector(op.weight, value(op.x).cols);
    vector(op.bias, value(op.x).cols);
    positive(op.eps, "eps");
    write(op.out);
  }
  void check(const LinearOp& op) {
    read(op.x, "x");
    same_rows(op.x, op.out);
    require(op.x != op.out, "linear in place");
    shape(op.weight, value(op.out).cols, value(op.x).cols);
    vector(op.bias, value(op.out).cols);
    write(op.out, op.accumulate);
  }
  void check(const RotaryOp& op) {
    heads(op.shape);
    for (ValueId id : {op.q, op.k, op.v}) {
      read(id, "rotary input");
      require(value(id).rows == Rows::kTokens, "rotary on rows other than tokens");
    }
    cols(op.q, static_cast<int64_t>(op.shape.heads) * op.shape.dim);
    cols(op.k, static_cast<int64_t>(op.shape.kv_heads) * op.shape.dim);
    cols(op.v, static_cast<int64_t>(op.shape.kv_heads) * op.shape.dim);
    require(2 * op.rotary.inv_freq.size() <= static_cast<size_t>(op.shape.dim),
            fmt::format("{} rotary frequencies in a head of {}", op.rotary.inv_freq.size(),
                        op.shape.dim));
    for (float f : op.rotary.inv_freq) require(std::isfinite(f), "rotary frequency is not finite");
    positive(op.rotary.magnitude, "rotary magnitude");
    vector(op.q_norm, op.shape.dim);
    vector(op.k_norm, op.shape.dim);
    if (op.q_norm != kNone || op.k_norm != kNone) positive(op.norm_eps, "norm eps");
    require((op.kv_layer == kNone) == program_.is_encoder(),
            "KV layer in an encoder, or none in a decoder");
    if (op.kv_layer != kNone) {
      const KvGroup& group = group_of(op.kv_layer);
      require(group.kv_heads == op.shape.kv_heads && group.head_dim == op.shape.dim,
              "KV group of another shape");
    }
  }
  void check(const AttentionOp& op) {
    heads(op.shape);
    read(op.q, "q");
    cols(op.q, static_cast<int64_t>(op.shape.heads) * op.shape.dim);
    same_cols(op.q, op.out);
    require(value(op.q).rows == Rows::kTokens && value(op.out).rows == Rows::kTokens,
            "attention on rows other than tokens");
    positive(op.scale, "scale");
    require(std::isfinite(op.softcap) && op.softcap >= 0, "softcap is negative or not finite");
    require(op.window >= 0, "negative window");
    if (op.kv_layer == kNone) {
      require(program_.is_encoder(), "attention without KV layer in a decoder");
      for (ValueId id : {op.k, op.v}) {
        read(id, "k or v");
        cols(id, static_cast<int64_t>(op.shape.kv_heads) * op.shape.dim);
      }
    } else {
      const KvGroup& group = group_of(op.kv_layer);
      require(group.kv_heads == op.shape.kv_heads && group.head_dim == op.shape.dim,
              "KV group of another shape");
      require(group.window == 0 || (op.window > 0 && op.window <= group.window),
              "attention looks behind its KV group's window");
    }
    write(op.out);
  }
  void check(const ActivationOp& op) {
    read(op.gate, "gate");
    same_rows(op.gate, op.out);
    same_cols(op.gate, op.out);
    if (op.up != kNone) {
      read(op.up, "up");
      same_rows(op.gate, op.up);
      same_cols(op.gate, op.up);
    }
    write(op.out);
  }
  void check(const AddOp& op) {
    read(op.x, "x");
    same_rows(op.x, op.out);
    same_cols(op.x, op.out);
    write(op.out, true);
  }
  void check(const SelectOp& op) {
    read(op.x, "x");
    require(value(op.x).rows == Rows::kTokens && value(op.out).rows == Rows::kOutputs,
            "select maps token rows to output rows");
    same_cols(op.x, op.out);
    write(op.out);
  }
  void check(const PoolOp& op) {
    read(op.x, "x");
    require(value(op.x).rows == Rows::kTokens && value(op.out).rows == Rows::kSequences,
            "pool maps token rows to sequence rows");
    same_cols(op.x, op.out);
    write(op.out);
  }
  void check(const SoftcapOp& op) {
    read(op.x, "x");
    require(std::isfinite(op.softcap) && op.softcap >= 0, "softcap is negative or not finite");
  }
  void check(const L2NormalizeOp& op) { read(op.x, "x"); }

  const Program& program_;
  const Weights& weights_;
  std::vector<bool> written_;
  size_t op_ = 0;
};

}  // namespace

void validate_program(const Program& program, const Weights& weights) {
  Validator(program, weights).run();
}

std::optional<Program> unpooled(const Program& encoder) {
  auto pool = std::find_if(encoder.ops.begin(), encoder.ops.end(),
                           [](const Op& op) { return std::holds_alternative<PoolOp>(op); });
  if (pool == encoder.ops.end() || std::get<PoolOp>(*pool).kind != PoolKind::kMean) return {};
  if (!std::all_of(pool + 1, encoder.ops.end(),
                   [](const Op& op) { return std::holds_alternative<L2NormalizeOp>(op); }))
    return {};
  Program out = encoder;
  out.ops.erase(out.ops.begin() + (pool - encoder.ops.begin()), out.ops.end());
  const ValueId x = std::get<PoolOp>(*pool).x;
  out.values.push_back({"rows", Rows::kOutputs, out.values[static_cast<size_t>(x)].cols});
  out.result = static_cast<ValueId>(out.values.size()) - 1;
  out.ops.push_back(SelectOp{x, out.result});
  return out;
}

}  // namespace apud
