#include "kernels/cpu/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/error.h"
#include "kernels/quant.h"

namespace apud::cpu {
namespace {

// Query rows (tokens x heads of a group) of one piece of attention work; with tiles, more rows
// share what unpacking a block's keys and values costs.
constexpr int kAttentionRows = 48, kTileAttentionRows = 192, kTileEncoderRows = 256;
// Rows of linear layers are cut at multiples of the rows that a path takes at once: 6, and with
// tiles 32 as well.
constexpr int kRowStep = 12, kTileRowStep = 96;

size_t at(int i) { return static_cast<size_t>(i); }

}  // namespace

CpuExecutor::CpuExecutor(const Program& program, const Weights& weights, const Kernels& kernels,
                         const CpuOptions& options)
    : program_(program),
      weights_(weights),
      kernels_(kernels),
      plan_(make_plan(program_, weights, kernels.tiles)),
      pool_(options.threads > 0 ? options.threads : usable_cpus()),
      max_rows_(options.max_step_tokens),
      packed_(program.weights.size()),
      vectors_(program.weights.size()),
      next_(plan_.stages.size()) {
  APUD_CHECK(max_rows_ > 0, "a step holds at least one token");
  pack_weights();
  auto rows = static_cast<size_t>(max_rows_);
  for (int64_t cols : plan_.slot_cols) {
    slots_.emplace_back(rows * static_cast<size_t>(cols) * sizeof(float), "activations");
  }
  for (size_t stride : plan_.act_strides)
    acts_.emplace_back((rows + kActSlackRows) * stride, "activations");
  trig_ =
      Arena(plan_.rotaries.size() * rows * 2 * static_cast<size_t>(plan_.trig_cols) * sizeof(float),
            "rotary tables");
  size_t scratch = 0;
  for (const Stage& stage : plan_.stages) {
    for (const PlannedLinear& l : stage.linears) {
      scratch =
          std::max(scratch, linear_scratch_bytes(weights_[at(l.op.weight)].cols, kernels_.tiles));
    }
    if (stage.kind == StageKind::kAttention) {
      const HeadShape& s = stage.attention.shape;
      int most = std::max(kernels_.tiles ? kTileEncoderRows : kAttentionRows, s.heads / s.kv_heads);
      scratch = std::max(scratch, attention_scratch_floats(most, s.dim) * sizeof(float));
    }
  }
  for (int w = 0; w < pool_.threads(); ++w) scratch_.emplace_back(scratch, "scratch");
}

void CpuExecutor::load_vector(WeightId id, float offset) {
  if (id == kNone || !vectors_[at(id)].empty()) return;
  auto& v = vectors_[at(id)];
  v.resize(static_cast<size_t>(weights_[at(id)].cols));
  dequantize_row(weights_[at(id)], 0, v.data());
  for (float& x : v) x += offset;
}

// Each matrix is repacked by all threads, then the file's pages are given back: the peak is the
// packed weights and one matrix.
void CpuExecutor::pack_weights() {
  size_t total = 0;
  for (const Op& op : program_.ops) {
    if (auto* linear = std::get_if<LinearOp>(&op)) {
      PackedMatrix& m = packed_[at(linear->weight)];
      const WeightView& view = weights_[at(linear->weight)];
      if (m.cols == 0) {
        m = packed_layout(view.type, packing_of(program_, weights_, linear->weight, kernels_.tiles),
                          view.rows, view.cols);
        total += m.bytes();
      }
      load_vector(linear->bias, 0);
    } else if (auto* norm = std::get_if<NormOp>(&op)) {
      load_vector(norm->weight, norm->weight_offset);
      load_vector(norm->bias, 0);
    } else if (auto* rotary = std::get_if<RotaryOp>(&op)) {
      load_vector(rotary->q_norm, rotary->norm_offset);
      load_vector(rotary->k_norm, rotary->norm_offset);
    }
  }
  packed_memory_ = Arena(total, "the weights");
  auto* next = reinterpret_cast<uint8_t*>(packed_memory_.data());
  FileViews files;
  for (size_t i = 0; i < packed_.size(); ++i) {
    PackedMatrix& m = packed_[i];
    if (m.cols == 0) continue;
    m.data = next;
    next += m.bytes();
    const WeightView& view = weights_[i];
    pool_.parallel_for(m.strips(), 1, [&](int64_t begin, int64_t end) {
      pack_strips(view, m, static_cast<int>(begin), static_cast<int>(end));
    });
    files.drop(view.data, view.bytes());
  }
}

std::unique_ptr<KvStore> CpuExecutor::make_kv(std::span<const int> pages_per_group, KvType type) {
  return std::make_unique<KvPages>(program_, pages_per_group, type);
}

size_t CpuExecutor::memory_bytes() const {
  size_t total = packed_memory_.size() + trig_.size() + gathered_.capacity();
  for (const auto* arenas : {&slots_, &acts_, &scratch_}) {
    for (const Arena& a : *arenas) total += a.size();
  }
  for (const auto& v : vectors_) total += v.capacity() * sizeof(float);
  return total;
}

void CpuExecutor::check_batch(const Batch& batch, KvStore* kv, std::span<float> out) const {
  APUD_CHECK(!batch.tokens.empty() && !batch.sequences.empty(), "a step has tokens");
  APUD_CHECK(batch.tokens.size() <= at(max_rows_), "a step fits into max_step_tokens");
  APUD_CHECK((kv == nullptr) == program_.is_encoder(), "decoders take a KV store, encoders none");
  int next = 0;
  for (const SequenceSlice& s : batch.sequences) {
    APUD_CHECK(s.first_row == next && s.token_count > 0 && s.position >= 0,
               "slices cover the tokens");
    next += s.token_count;
    for (size_t g = 0; g < program_.kv_groups.size(); ++g) {
      int end = s.position + s.token_count;
      APUD_CHECK(s.pages[g].size() >= at((end + kKvPageTokens - 1) / kKvPageTokens),
                 "a page for every position of the sequence");
    }
  }
  APUD_CHECK(at(next) == batch.tokens.size(), "slices cover the tokens");
  APUD_CHECK(batch.output_rows.size() <= at(max_rows_), "output rows fit into max_step_tokens");
  for (int32_t row : batch.output_rows) APUD_CHECK(row >= 0 && row < next, "output row in range");
  const Value& result = program_.values[at(program_.result)];
  size_t count =
      result.rows == Rows::kSequences ? batch.sequences.size() : batch.output_rows.size();
  APUD_CHECK(out.size() == count * at(result.cols), "size of the result");
}

void CpuExecutor::start_step(const Batch& batch, KvStore* kv, std::span<float> out) {
  check_batch(batch, kv, out);
  batch_ = &batch;
  kv_ = static_cast<KvPages*>(kv);
  out_ = out;
  positions_.resize(batch.tokens.size());
  sequence_of_.resize(batch.tokens.size());
  first_block_.clear();
  int blocks = 0;
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceSlice& slice = batch.sequences[s];
    for (int i = 0; i < slice.token_count; ++i) {
      positions_[at(slice.first_row + i)] = slice.position + i;
      sequence_of_[at(slice.first_row + i)] = static_cast<int>(s);
    }
    first_block_.push_back(blocks);
    blocks += (slice.token_count + kKvPageTokens - 1) / kKvPageTokens;
  }
  first_block_.push_back(blocks);
  size_t gathered = 0;
  for (const Stage& stage : plan_.stages) {
    if (stage.kind != StageKind::kGatherKv) continue;
    const HeadShape& shape = stage.attention.shape;
    gathered = std::max(
        gathered, kv_head_layout(KvType::kF32, shape.dim).bytes * at(shape.kv_heads * blocks));
  }
  if (gathered > gathered_.size()) gathered_.resize(gathered);
  for (auto& n : next_) n.store(0, std::memory_order_relaxed);
}

void CpuExecutor::run(const Batch& batch, KvStore* kv, std::span<float> out) {
  start_step(batch, kv, out);
  pool_.run([this](int worker) {
    for (size_t i = 0; i < plan_.stages.size(); ++i) {
      run_stage(i, worker);
      pool_.barrier();
    }
  });
}

void CpuExecutor::run_stage(size_t index, int worker) {
  const Stage& stage = plan_.stages[index];
  switch (stage.kind) {
    case StageKind::kRows:
      return run_rows(stage, next_[index]);
    case StageKind::kLinear:
      return run_linear(stage, next_[index], worker);
    case StageKind::kGatherKv:
      return run_gather(stage.attention, next_[index]);
    case StageKind::kAttention:
      return run_attention(stage.attention, next_[index], worker);
  }
}

int CpuExecutor::row_count(Rows rows) const {
  switch (rows) {
    case Rows::kTokens:
      return static_cast<int>(batch_->tokens.size());
    case Rows::kOutputs:
      return static_cast<int>(batch_->output_rows.size());
    case Rows::kSequences:
      return static_cast<int>(batch_->sequences.size());
  }
  return 0;
}

int64_t CpuExecutor::stride(ValueId id) const {
  int slot = plan_.slot_of_value[at(id)];
  return slot == kNone ? cols(id) : plan_.slot_cols[at(slot)];
}

float* CpuExecutor::row(ValueId id, int r) {
  int slot = plan_.slot_of_value[at(id)];
  float* base = slot == kNone ? out_.data() : reinterpret_cast<float*>(slots_[at(slot)].data());
  return base + r * stride(id);
}

const float* CpuExecutor::vector(WeightId id) const {
  return id == kNone ? nullptr : vectors_[at(id)].data();
}

void CpuExecutor::run_rows(const Stage& stage, std::atomic<int>& next) {
  int count = row_count(stage.rows);
  int take = std::max(1, count / (pool_.threads() * 8));
  if (take > 8) take = (take + 15) / 16 * 16;  // whole groups of interleaved activations
  for (;;) {
    int begin = next.fetch_add(take, std::memory_order_relaxed);
    if (begin >= count) return;
    for (int r = begin; r < std::min(count, begin + take); ++r) {
      for (const RowOp& op : stage.row_ops) {
        std::visit([&](const auto& each) { apply(each, r); }, op);
      }
    }
  }
}

// What a layer's products read and write, for all rows of the step.
LinearArgs CpuExecutor::linear_args(const PlannedLinear& l, int rows) {
  const PackedMatrix& m = packed_[at(l.op.weight)];
  LinearArgs args;
  args.weight = &m;
  if (l.act_buffer != kNone) {
    args.acts = reinterpret_cast<const uint8_t*>(acts_[at(l.act_buffer)].data());
    args.act_layout = act_layout(act_kind(m.type, m.packing), m.cols);
    args.act_layout.group = act_group(act_kind(m.type, m.packing), rows);
    args.act_layout.stride *= static_cast<size_t>(l.act_planes);
  }
  args.x = row(l.op.x, 0);
  args.x_stride = stride(l.op.x);
  args.out = row(l.op.out, 0);
  args.out_stride = stride(l.op.out);
  args.bias = vector(l.op.bias);
  args.accumulate = l.op.accumulate;
  args.row_end = rows;
  return args;
}

ActivatedArgs CpuExecutor::activated_args(const Stage& stage, int rows) {
  ActivatedArgs args;
  args.in = linear_args(stage.linears.front(), rows);
  if (stage.linears.size() == 2) {
    args.up = &packed_[at(stage.linears.back().op.weight)];
    args.up_bias = vector(stage.linears.back().op.bias);
  }
  args.kind = stage.activation->kind;
  args.to = reinterpret_cast<uint8_t*>(acts_[at(stage.activation->buffer)].data());
  args.to_layout = act_layout(ActKind::kBf16, cols(stage.activation->out));
  args.to_layout.group = act_group(ActKind::kBf16, rows);
  return args;
}

// Pieces of work: (layer, run of strips, run of rows). With many rows a piece is two or more
// strips, whose unpacked panels serve all of its rows; rows are cut only where there would be too
// few pieces.
void CpuExecutor::run_linear(const Stage& stage, std::atomic<int>& next, int worker) {
  int rows = row_count(stage.rows);
  if (rows == 0) return;
  const size_t layers = stage.activation ? 1 : stage.linears.size();
  int64_t strips = 0;
  for (size_t i = 0; i < layers; ++i) strips += packed_[at(stage.linears[i].op.weight)].strips();
  int run = 2, cuts = 1;
  if (rows <= 8) {
    run = std::max(1, static_cast<int>(strips / (pool_.threads() * 8)));
    if (stage.activation) run = (run + 1) / 2 * 2;
  } else {
    auto wanted = static_cast<int64_t>(pool_.threads()) * 6;
    while (cuts < 64 && strips / 2 * cuts < wanted && rows / (cuts * 2) >= 48) cuts *= 2;
    // More strips a piece, while there are pieces enough, find its rows in cache.
    const int most = kernels_.tiles ? 16 : 8, spare = kernels_.tiles ? 1 : 2;
    while (run < most && strips / (run * 2) >= wanted * spare) run *= 2;
  }
  const int step = kernels_.tiles ? kTileRowStep : kRowStep;
  int row_run = ((rows + cuts - 1) / cuts + step - 1) / step * step;
  cuts = (rows + row_run - 1) / row_run;
  auto* scratch = reinterpret_cast<uint8_t*>(scratch_[at(worker)].data());
  int first = 0;  // piece of the current layer
  size_t layer = 0;
  int piece = next.fetch_add(1, std::memory_order_relaxed);
  while (layer < layers) {
    const PlannedLinear& l = stage.linears[layer];
    const PackedMatrix& m = packed_[at(l.op.weight)];
    int runs = (m.strips() + run - 1) / run;
    if (piece >= first + runs * cuts) {
      first += runs * cuts;
      ++layer;
      continue;
    }
    const int strip = (piece - first) / cuts * run, end = std::min(m.strips(), strip + run);
    const int begin_row = (piece - first) % cuts * row_run;
    auto cut = [&](LinearArgs& args) {
      args.row_begin = begin_row;
      args.row_end = std::min(rows, begin_row + row_run);
    };
    if (stage.activation) {
      ActivatedArgs args = activated_args(stage, rows);
      cut(args.in);
      kernels_.activated(args, strip, end, scratch);
    } else {
      LinearArgs args = linear_args(l, rows);
      cut(args);
      kernels_.linear(args, strip, end, scratch);
      for (int p = 1; p < l.act_planes; ++p) {  // the strips are still in cache
        args.acts += args.act_layout.stride / static_cast<size_t>(l.act_planes);
        args.accumulate = true;
        args.bias = nullptr;
        kernels_.linear(args, strip, end, scratch);
      }
    }
    piece = next.fetch_add(1, std::memory_order_relaxed);
  }
}

void CpuExecutor::run_gather(const AttentionOp& op, std::atomic<int>& next) {
  KvHeadLayout layout = kv_head_layout(KvType::kF32, op.shape.dim);
  int heads = op.shape.kv_heads, total = first_block_.back() * heads;
  for (;;) {
    int piece = next.fetch_add(1, std::memory_order_relaxed);
    if (piece >= total) return;
    int block = piece / heads, head = piece % heads;
    auto s = std::upper_bound(first_block_.begin(), first_block_.end(), block) -
             first_block_.begin() - 1;
    const SequenceSlice& slice = batch_->sequences[static_cast<size_t>(s)];
    int begin = (block - first_block_[static_cast<size_t>(s)]) * kKvPageTokens;
    int end = std::min(slice.token_count, begin + kKvPageTokens);
    for (int t = begin; t < end; ++t) {
      kernels_.store_kv(layout, gathered_.data() + static_cast<size_t>(piece) * layout.bytes,
                        t - begin, row(op.k, slice.first_row + t) + head * op.shape.dim,
                        row(op.v, slice.first_row + t) + head * op.shape.dim);
    }
  }
}

void CpuExecutor::run_attention(const AttentionOp& op, std::atomic<int>& next, int worker) {
  int group_size = op.shape.heads / op.shape.kv_heads, dim = op.shape.dim;
  bool causal = op.kv_layer != kNone;
  int most = kernels_.tiles ? kTileAttentionRows : kAttentionRows;
  auto heads = at(op.shape.kv_heads) * batch_->sequences.size();
  if (kernels_.tiles && !causal && heads >= at(4 * pool_.threads())) most = kTileEncoderRows;
  int chunk = std::max(1, most / group_size);  // tokens
  KvLayerPlace place = causal ? program_.kv_layers[at(op.kv_layer)] : KvLayerPlace{};
  AttentionArgs args;
  args.layout = causal ? kv_->head_layout(place.group) : kv_head_layout(KvType::kF32, dim);
  args.scale = op.scale;
  args.softcap = op.softcap;
  args.scratch = reinterpret_cast<float*>(scratch_[at(worker)].data());
  std::vector<const std::byte*> blocks;
  std::vector<const float*> q;
  std::vector<float*> out;
  std::vector<int> low, high;
  auto pieces_of = [&](const SequenceSlice& s) {
    return (s.token_count + chunk - 1) / chunk * op.shape.kv_heads;
  };
  int first = 0;
  size_t sequence = 0;
  int piece = next.fetch_add(1, std::memory_order_relaxed);
  while (sequence < batch_->sequences.size()) {
    const SequenceSlice& s = batch_->sequences[sequence];
    int pieces = pieces_of(s);
    if (piece >= first + pieces) {
      first += pieces;
      ++sequence;
      continue;
    }
    // The longest contexts first: the last pieces to be handed out are short.
    int mine = pieces - 1 - (piece - first);
    int kv_head = mine % op.shape.kv_heads, begin = mine / op.shape.kv_heads * chunk;
    int end = std::min(s.token_count, begin + chunk);
    int seen_low = s.position + s.token_count, seen_high = 0;
    q.clear(), out.clear(), low.clear(), high.clear();
    for (int i = begin; i < end; ++i) {
      int from = 0, to = s.token_count;
      if (causal) {
        to = s.position + i + 1;
        if (op.window > 0) from = std::max(0, to - op.window);
      } else if (op.window > 0) {
        from = std::max(0, i - op.window / 2);
        to = std::min(s.token_count, i + op.window / 2 + 1);
      }
      seen_low = std::min(seen_low, from);
      seen_high = std::max(seen_high, to);
      for (int h = 0; h < group_size; ++h) {
        int column = (kv_head * group_size + h) * dim;
        q.push_back(row(op.q, s.first_row + i) + column);
        out.push_back(row(op.out, s.first_row + i) + column);
        low.push_back(from);
        high.push_back(to);
      }
    }
    args.first_block = seen_low / kKvPageTokens;
    args.end_block = (seen_high + kKvPageTokens - 1) / kKvPageTokens;
    blocks.assign(at(args.end_block), nullptr);
    for (int b = args.first_block; b < args.end_block; ++b) {
      if (causal) {
        int page = s.pages[at(place.group)][at(b)];
        APUD_CHECK(page != kNone, "a page for every position that is seen");
        blocks[at(b)] = kv_->head(place.group, page, place.index, kv_head);
      } else {
        size_t slot = at((first_block_[sequence] + b) * op.shape.kv_heads + kv_head);
        blocks[at(b)] = gathered_.data() + slot * args.layout.bytes;
      }
    }
    args.blocks = blocks.data();
    args.rows = static_cast<int>(q.size());
    args.q = q.data();
    args.out = out.data();
    args.low = low.data();
    args.high = high.data();
    kernels_.attend(args);
    piece = next.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace apud::cpu

namespace apud {

std::unique_ptr<Executor> make_cpu_executor(const Program& program, const Weights& weights,
                                            const CpuOptions& options) {
  validate_program(program, weights);
  std::vector<CpuIsa> available = available_cpu_isas();
  if (available.empty()) {
    throw Error(ErrorKind::kUnavailable, "this CPU lacks AVX2, FMA or F16C",
                "apud needs a processor with AVX2 (2013 or later)");
  }
  CpuIsa isa = options.isa == CpuIsa::kAuto ? available.back() : options.isa;
  if (std::find(available.begin(), available.end(), isa) == available.end()) {
    std::string names;
    for (CpuIsa i : available) names += std::string(names.empty() ? "" : ", ") + cpu_isa_name(i);
    throw Error(ErrorKind::kUnavailable,
                std::string("this machine has no CPU path ") + cpu_isa_name(isa),
                "choose one of: " + names);
  }
  return std::make_unique<cpu::CpuExecutor>(program, weights, cpu::kernels_of(isa), options);
}

}  // namespace apud
