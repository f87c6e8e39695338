// Row-wise ops of the CPU executor: one row of each, called for all ops of a stage in order.
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/executor.h"
#include "kernels/quant.h"

namespace apud::cpu {
namespace {
size_t at(int i) { return static_cast<size_t>(i); }
}  // namespace

void CpuExecutor::apply(const EmbedOp& op, int r) {
  const WeightView& table = weights_[at(op.table)];
  int64_t index = op.index == IndexSource::kToken      ? batch_->tokens[at(r)]
                  : op.index == IndexSource::kPosition ? positions_[at(r)]
                                                       : 0;
  index += op.offset;
  APUD_CHECK(index >= 0 && index < table.rows, "token or position inside its embedding table");
  if (!op.accumulate) {
    dequantize_row(table, index, row(op.out, r));
    if (op.scale != 1)
      kernels_.scale_add(row(op.out, r), op.scale, false, row(op.out, r), cols(op.out));
    return;
  }
  thread_local std::vector<float> values;
  values.resize(static_cast<size_t>(table.cols));
  dequantize_row(table, index, values.data());
  kernels_.scale_add(values.data(), op.scale, true, row(op.out, r), cols(op.out));
}

void CpuExecutor::apply(const NormOp& op, int r) {
  NormArgs args;
  args.kind = op.kind;
  args.weight = vector(op.weight);
  args.bias = vector(op.bias);
  args.cols = cols(op.x);
  args.eps = op.eps;
  kernels_.norm(args, row(op.x, r), row(op.out, r));
}

void CpuExecutor::apply(const TrigOp& op, int r) {
  const Rotary& rotary = *plan_.rotaries[at(op.table)];
  auto width = static_cast<size_t>(plan_.trig_cols);
  float* cosines =
      reinterpret_cast<float*>(trig_.data()) + (at(op.table) * at(max_rows_) + at(r)) * 2 * width;
  for (size_t i = 0; i < rotary.inv_freq.size(); ++i) {
    double angle = static_cast<double>(positions_[at(r)]) * rotary.inv_freq[i];
    cosines[i] = static_cast<float>(std::cos(angle) * rotary.magnitude);
    cosines[width + i] = static_cast<float>(std::sin(angle) * rotary.magnitude);
  }
}

void CpuExecutor::apply(const PlannedRotary& planned, int r) {
  const RotaryOp& op = planned.op;
  int dim = op.shape.dim;
  auto width = static_cast<size_t>(plan_.trig_cols);
  const float* cosines = planned.table == kNone
                             ? nullptr
                             : reinterpret_cast<float*>(trig_.data()) +
                                   (at(planned.table) * at(max_rows_) + at(r)) * 2 * width;
  auto heads = [&](float* head, int count, WeightId weight) {
    NormArgs norm;
    norm.weight = vector(weight);
    norm.cols = dim;
    norm.eps = op.norm_eps;
    for (int h = 0; h < count; ++h, head += dim) {
      if (weight != kNone) kernels_.norm(norm, head, head);
      if (cosines)
        kernels_.rotate(cosines, cosines + width, static_cast<int>(op.rotary.inv_freq.size()),
                        head);
    }
  };
  heads(row(op.q, r), op.shape.heads, op.q_norm);
  heads(row(op.k, r), op.shape.kv_heads, op.k_norm);
  if (op.kv_layer == kNone) return;
  KvLayerPlace place = program_.kv_layers[at(op.kv_layer)];
  const SequenceSlice& s = batch_->sequences[at(sequence_of_[at(r)])];
  int position = positions_[at(r)];
  int page = s.pages[at(place.group)][at(position / kKvPageTokens)];
  APUD_CHECK(page != kNone, "a page for every position that is written");
  for (int h = 0; h < op.shape.kv_heads; ++h) {
    kernels_.store_kv(kv_->head_layout(place.group), kv_->head(place.group, page, place.index, h),
                      position % kKvPageTokens, row(op.k, r) + h * dim, row(op.v, r) + h * dim);
  }
}

void CpuExecutor::apply(const ActivationOp& op, int r) {
  kernels_.activate(op.kind, row(op.gate, r), op.up == kNone ? nullptr : row(op.up, r),
                    row(op.out, r), cols(op.out));
}

void CpuExecutor::apply(const AddOp& op, int r) {
  kernels_.scale_add(row(op.x, r), 1, true, row(op.out, r), cols(op.out));
}

void CpuExecutor::apply(const SelectOp& op, int r) {
  std::memcpy(row(op.out, r), row(op.x, batch_->output_rows[at(r)]),
              at(cols(op.x)) * sizeof(float));
}

void CpuExecutor::apply(const PoolOp& op, int r) {
  const SequenceSlice& s = batch_->sequences[at(r)];
  int n = cols(op.x);
  if (op.kind != PoolKind::kMean) {
    int from = op.kind == PoolKind::kFirst ? s.first_row : s.first_row + s.token_count - 1;
    std::memcpy(row(op.out, r), row(op.x, from), at(n) * sizeof(float));
    return;
  }
  for (int i = 0; i < s.token_count; ++i) {
    kernels_.scale_add(row(op.x, s.first_row + i), 1, i > 0, row(op.out, r), n);
  }
  kernels_.scale_add(row(op.out, r), 1 / static_cast<float>(s.token_count), false, row(op.out, r),
                     n);
}

void CpuExecutor::apply(const SoftcapOp& op, int r) {
  kernels_.softcap(op.softcap, row(op.x, r), cols(op.x));
}

void CpuExecutor::apply(const L2NormalizeOp& op, int r) {
  kernels_.l2_normalize(row(op.x, r), cols(op.x));
}

void CpuExecutor::apply(const QuantizeOp& op, int r) {
  ActLayout layout = act_layout(op.kind, cols(op.x));
  layout.group = act_group(op.kind, row_count(program_.values[at(op.x)].rows));
  auto* to = reinterpret_cast<uint8_t*>(acts_[at(op.buffer)].data()) +
             layout.at(r * op.planes);  // planes only where rows do not interleave
  const float* x = row(op.x, r);
  kernels_.quantize(op.kind, x, layout, to);
  thread_local std::vector<float> rest;
  for (int p = 1; p < op.planes; ++p) {
    rest.resize(at(cols(op.x)));
    kernels_.quantize_rest(x, layout, to, rest.data());
    x = rest.data();
    to += layout.stride;
    kernels_.quantize(op.kind, x, layout, to);
  }
}

}  // namespace apud::cpu
