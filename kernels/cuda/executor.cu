#include "kernels/cuda/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/products_ahead.h"

namespace apud::cuda {
namespace {

constexpr size_t kSampleInputBytes = size_t{16} << 20;
constexpr size_t kResultBytes = size_t{1} << 20;
constexpr size_t kPanelBytes = size_t{24} << 20;  // unpacked weights that stay in L2

/// inv_freq as fractions of a turn: see rope.cuh.
uint64_t turns_of(double inv_freq) {
  double turn = inv_freq / (2 * 3.14159265358979323846);
  turn -= std::floor(turn);
  return static_cast<uint64_t>(std::ldexp(turn, 64));
}

size_t pad(size_t n) { return (n + 255) / 256 * 256; }

}  // namespace

CudaExecutor::CudaExecutor(const Program& program, const Weights& weights,
                           const CudaOptions& options)
    : program_(program), options_(options) {
  validate_program(program, weights);
  std::shared_lock<std::shared_mutex> making(whole_device());
  APUD_CUDA(cudaSetDevice(options.device));
  int major = 0, minor = 0, sms = 0;
  APUD_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, options.device));
  APUD_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, options.device));
  APUD_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, options.device));
  name_ = "cuda-sm" + std::to_string(major) + std::to_string(minor);
  programmatic_ = major >= 9;
  options_.max_step_tokens = std::max(options.max_step_tokens, kSmallRows);
  APUD_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  if (!program_.is_encoder()) lanes_ = std::make_unique<PageLanes>(options.device);

  groups_ = linear_groups(program_);
  size_t free_bytes = 0, device_bytes = 0;
  APUD_CUDA(cudaMemGetInfo(&free_bytes, &device_bytes));
  // 16-bit copies are a luxury: they leave 40% of the card to KV pages and workspace.
  std::optional<ProductsAhead> ahead;
  ahead.emplace(program_, weights, groups_, options.device);
  weights_ = std::make_unique<DeviceWeights>(
      program_, weights, groups_, options.device,
      std::max<size_t>(device_bytes * 2 / 5, options.reserve_bytes), [&] { ahead.reset(); });
  gemm_ = std::make_unique<Gemm>();
  small_values_ =
      std::make_unique<Values>(program_, groups_, Values::Request{false, kSmallRows, kSmallRows});
  large_values_ = std::make_unique<Values>(
      program_, groups_, Values::Request{true, options_.max_step_tokens, options_.max_step_tokens});

  // One block for everything shared.
  context_.program = &program_;
  context_.weights = weights_.get();
  context_.groups = &groups_;
  context_.gemm = gemm_.get();
  context_.multiprocessors = sms;
  context_.max_tokens = options_.max_step_tokens;
  context_.rotary.resize(program_.ops.size());
  std::vector<uint64_t> turns;
  std::vector<size_t> turns_at(program_.ops.size(), 0);
  int widest = 0, heads = 0, head_values = 0;
  for (size_t i = 0; i < program_.ops.size(); ++i) {
    if (const auto* r = std::get_if<RotaryOp>(&program_.ops[i])) {
      turns_at[i] = turns.size();
      bool same = false;
      for (size_t j = 0; j < i && !same; ++j) {
        const auto* other = std::get_if<RotaryOp>(&program_.ops[j]);
        if (other && other->rotary.inv_freq == r->rotary.inv_freq) {
          turns_at[i] = turns_at[j];
          same = true;
        }
      }
      if (!same)
        for (float f : r->rotary.inv_freq) turns.push_back(turns_of(f));
    }
    if (const auto* l = std::get_if<LinearOp>(&program_.ops[i]))
      widest = std::max(widest, static_cast<int>(round_up(program_.values[l->x].cols, 8)));
    if (const auto* a = std::get_if<AttentionOp>(&program_.ops[i])) {
      if (a->shape.dim % 8 != 0 || a->shape.dim > 256)
        throw Error(ErrorKind::kUnavailable,
                    "CUDA: attention heads of width " + std::to_string(a->shape.dim) +
                        "; widths up to 256 that are multiples of 8 are supported",
                    "run this model with --device cpu");
      heads = std::max(heads, a->shape.heads);
      head_values = std::max(head_values, a->shape.heads * a->shape.dim);
      const DecodeRuns runs = decode_runs(a->shape, sms);
      if (runs.many > context_.runs.many) context_.runs = runs;
      int rows = prefill_tile_rows(a->shape.dim);
      APUD_CHECK(tile_rows_ == 0 || tile_rows_ == rows, "one prefill tile height in a program");
      tile_rows_ = rows;
    }
  }
  const int max = options_.max_step_tokens;
  size_t at = 0;
  auto take = [&](size_t bytes) {
    size_t here = at;
    at += pad(bytes);
    return here;
  };
  size_t turns_bytes = turns.size() * 8, turns_off = take(turns_bytes);
  const int runs = std::max(context_.runs.few, context_.runs.many);
  size_t partial = take(size_t{kSmallRows} * head_values * runs * 4);
  size_t state = take(size_t{kSmallRows} * heads * runs * sizeof(float2));
  size_t convert_off = take(static_cast<size_t>(max) * widest * 2);
  size_t panel_bytes = std::max(kPanelBytes, static_cast<size_t>(widest) * 2 * 64);
  size_t panel = take(panel_bytes);
  size_t attention = take(program_.is_encoder() ? 0 : size_t{2} * max * head_values * 4);
  shared_ = DeviceBuffer(at, "workspace");
  APUD_CUDA(cudaMemset(shared_.as(), 0, at));  // see Gemm::Gemm
  if (turns_bytes)
    APUD_CUDA(
        cudaMemcpy(shared_.as() + turns_off, turns.data(), turns_bytes, cudaMemcpyHostToDevice));
  context_.scratch.partial = reinterpret_cast<float*>(shared_.as() + partial);
  context_.scratch.state = reinterpret_cast<float2*>(shared_.as() + state);
  context_.scratch.runs = runs;
  context_.scratch.max_rows = kSmallRows;
  context_.convert_scratch = shared_.as() + convert_off;
  context_.panel = shared_.as() + panel;
  context_.panel_bytes = panel_bytes;
  context_.attention_scratch = reinterpret_cast<float*>(shared_.as() + attention);
  for (size_t i = 0; i < program_.ops.size(); ++i) {
    const auto* r = std::get_if<RotaryOp>(&program_.ops[i]);
    if (!r) continue;
    RotaryArgs& a = context_.rotary[i];
    a.shape = r->shape;
    a.turns = reinterpret_cast<const uint64_t*>(shared_.as() + turns_off) + turns_at[i];
    a.pairs = static_cast<int>(r->rotary.inv_freq.size());
    a.magnitude = r->rotary.magnitude;
    a.q_norm = weights_->vector(r->q_norm);
    a.k_norm = weights_->vector(r->k_norm);
    a.norm_eps = r->norm_eps;
    a.norm_offset = r->norm_offset;
  }
  large_ = compile_large(context_, *large_values_);
  if (!program_.is_encoder()) small_ = compile_small(context_, *small_values_);

  size_t pages = program_.is_encoder() ? 0 : size_t{1} << 20;
  make_meta(small_meta_, program_.is_encoder() ? kShortText : kSmallRows, kSmallRows,
            std::min<size_t>(pages, size_t{1} << 18));
  make_meta(large_meta_, max, max, pages);

  int columns = program_.values[program_.result].cols;
  // Logits come in chunks; vectors of many texts at once, as one copy where they can.
  result_rows_ = std::max<int>(kOutputChunk, kResultBytes / (columns * 4));
  APUD_CUDA(cudaHostAlloc(&result_host_, size_t{result_rows_} * columns * 4, cudaHostAllocDefault));
  if (!program_.is_encoder()) {
    vocab_ = columns;
    static_assert(kOutputChunk <= kMostDrawn);
    APUD_CUDA(cudaHostAlloc(&drawn_, 2 * kMostDrawn * sizeof(SampledToken), cudaHostAllocMapped));
    for (cudaEvent_t& e : ahead_.done)
      APUD_CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    size_t work = pad(size_t{kOutputChunk} * vocab_ * 4);
    sample_memory_ =
        DeviceBuffer(2 * work + kOutputChunk * kSampleChunks * sizeof(float4), "sampling");
    sample_.work = sample_memory_.as<float>();
    sample_.counts = reinterpret_cast<int*>(sample_memory_.as() + work);
    sample_.partial = reinterpret_cast<float4*>(sample_memory_.as() + 2 * work);
    APUD_CUDA(cudaMemset(sample_.counts, 0, work));
    sample_.vocab = vocab_;
    sample_.out = drawn_;
    sample_host_bytes_ = kSampleInputBytes;
    APUD_CUDA(cudaHostAlloc(&sample_host_, sample_host_bytes_, cudaHostAllocDefault));
    sample_inputs_ = DeviceBuffer(sample_host_bytes_, "sampling");
  }
  APUD_CUDA(cudaDeviceSynchronize());
}

CudaExecutor::~CudaExecutor() {
  std::shared_lock<std::shared_mutex> ending(whole_device());
  if (stream_) cudaStreamSynchronize(stream_);
  for (auto& [key, captured] : graphs_)
    if (captured.graph) cudaGraphExecDestroy(captured.graph);
  for (cudaEvent_t e : ahead_.done)
    if (e) cudaEventDestroy(e);
  cudaFreeHost(small_meta_.host);
  cudaFreeHost(large_meta_.host);
  cudaFreeHost(sample_host_);
  cudaFreeHost(drawn_);
  cudaFreeHost(result_host_);
  if (stream_) cudaStreamDestroy(stream_);
}

size_t CudaExecutor::memory_bytes() const {
  return weights_->bytes() + small_values_->bytes() + large_values_->bytes() + shared_.bytes() +
         small_.bytes() + large_.bytes() + sample_memory_.bytes() + sample_inputs_.bytes() +
         small_meta_.device.bytes() + large_meta_.device.bytes() + Gemm::kWorkspaceBytes;
}

KvType CudaExecutor::default_kv_type() const {
  return weights_->half16() == Half16::kBf16 ? KvType::kBF16 : KvType::kF16;
}

std::unique_ptr<KvStore> CudaExecutor::make_kv(std::span<const int> pages_per_group, KvType type) {
  if (type == KvType::kF32)
    throw Error(ErrorKind::kUnavailable, "CUDA: KV type f32; f16, bf16 and i8 are supported",
                "use --kv f16, or --device cpu for f32");
  APUD_CUDA(cudaSetDevice(options_.device));
  // A graph holds addresses of its KV store; a new store may get a freed one's address.
  ahead_.forget();
  APUD_CUDA(cudaStreamSynchronize(stream_));
  for (auto& [key, captured] : graphs_)
    if (captured.graph) cudaGraphExecDestroy(captured.graph);
  graphs_.clear();
  return std::make_unique<CudaKv>(program_, pages_per_group, type, stream_, *lanes_);
}

void CudaExecutor::enqueue(const std::vector<Stage>& stages, const Step& step) {
  for (const Stage& s : stages) s.run(step);
}

const float* CudaExecutor::result(const Step& step) const {
  const Values& v = step.small ? *small_values_ : *large_values_;
  return static_cast<const float*>(v.at(program_.result).data);
}
int64_t CudaExecutor::result_ld() const { return small_values_->at(program_.result).ld; }

void CudaExecutor::enqueue_greedy(const Step& step) {
  SampleArgs a = sample_;
  a.logits = result(step);
  a.ld = result_ld();
  a.rows = step.out_rows;
  a.plain_greedy = true;
  if (advances(step)) {
    auto meta = [](const int32_t* p) { return const_cast<int32_t*>(p); };
    a.advance = {meta(step.batch.tokens), meta(step.batch.positions), meta(step.batch.position)};
  }
  sample(a, step.where);
}

bool CudaExecutor::use_small(const Batch& batch) const {
  return !program_.is_encoder() && batch.tokens.size() <= static_cast<size_t>(kSmallRows);
}

bool CudaExecutor::short_text(const Batch& batch) const {
  return program_.is_encoder() && batch.sequences.size() == 1 && batch.tokens.size() <= kShortText;
}

template <typename Sink>
void CudaExecutor::pass(const Batch& batch, CudaKv* kv, bool greedy, Sink&& sink) {
  const bool pooled = program_.values[program_.result].rows == Rows::kSequences;
  const int rows = pooled ? static_cast<int>(batch.sequences.size())
                          : static_cast<int>(batch.output_rows.size());
  if (use_small(batch)) {
    Step step = prepare(small_meta_, batch, kv);
    if (options_.deterministic) step.single = false;
    step.identity = rows == step.tokens;
    for (int i = 0; i < rows && step.identity; ++i) step.identity = batch.output_rows[i] == i;
    step.out_rows = std::min(rows, kOutputChunk);
    if (rows <= kSmallRows) {
      run_graph(step, greedy && rows > 0);
      if (rows > 0) sink(step, 0);
      return;
    }
    enqueue(small_.body, step);  // a row asked for several times
    for (int first = 0; first < rows; first += kSmallRows) {
      step.out_first = first;
      step.out_rows = std::min(kSmallRows, rows - first);
      enqueue(small_.outputs, step);
      if (greedy) enqueue_greedy(step);
      sink(step, first);
    }
    return;
  }
  // A short text's arrays cross in one copy.
  Step step = prepare(pooled && short_text(batch) ? small_meta_ : large_meta_, batch, kv);
  if (pooled) {
    run_encoder(step);
    step.out_rows = rows;
    sink(step, 0);
    return;
  }
  enqueue(large_.body, step);
  for (int first = 0; first < rows; first += kOutputChunk) {
    step.out_first = first;
    step.out_rows = std::min(kOutputChunk, rows - first);
    enqueue(large_.outputs, step);
    if (greedy) enqueue_greedy(step);
    sink(step, first);
  }
}

/// With `deterministic`, a batch runs kSmallRows rows at a time, all by decode's kernels; otherwise
/// at once. Calls one(part, index of its first output row).
void CudaExecutor::run_rows(const Batch& batch, KvStore* kv,
                            const std::function<void(const Batch&, int)>& one) const {
  check_batch(batch, kv);
  if (!options_.deterministic || program_.is_encoder()) return one(batch, 0);
  APUD_CHECK(std::is_sorted(batch.output_rows.begin(), batch.output_rows.end()),
             "output rows in order");
  size_t done = 0;
  const int tokens = static_cast<int>(batch.tokens.size());
  for (int begin = 0; begin < tokens; begin += kSmallRows) {
    int end = std::min(tokens, begin + kSmallRows);
    std::vector<SequenceSlice> slices;
    for (const SequenceSlice& s : batch.sequences) {
      int from = std::max(begin, s.first_row), to = std::min(end, s.first_row + s.token_count);
      if (from >= to) continue;
      SequenceSlice part = s;
      part.first_row = from - begin;
      part.token_count = to - from;
      part.position = s.position + from - s.first_row;
      slices.push_back(part);
    }
    std::vector<int32_t> rows;
    size_t first = done;
    while (done < batch.output_rows.size() && batch.output_rows[done] < end)
      rows.push_back(batch.output_rows[done++] - begin);
    Batch part;
    part.tokens = batch.tokens.subspan(begin, end - begin);
    part.sequences = slices;
    part.output_rows = rows;
    one(part, static_cast<int>(first));
  }
}

void CudaExecutor::run(const Batch& batch, KvStore* kv, std::span<float> out) {
  APUD_CUDA(cudaSetDevice(options_.device));
  ahead_.forget();
  const int columns = program_.values[program_.result].cols;
  run_rows(batch, kv, [&](const Batch& part, int base) {
    pass(part, static_cast<CudaKv*>(kv), false, [&](const Step& step, int first) {
      for (int r = 0; r < step.out_rows; r += result_rows_) {
        int n = std::min(result_rows_, step.out_rows - r);
        const float* from = result(step) + r * result_ld();
        if (n == 1)
          APUD_CUDA(
              cudaMemcpyAsync(result_host_, from, columns * 4, cudaMemcpyDeviceToHost, stream_));
        else
          APUD_CUDA(cudaMemcpy2DAsync(result_host_, columns * 4, from, result_ld() * 4, columns * 4,
                                      n, cudaMemcpyDeviceToHost, stream_));
        APUD_CUDA(cudaStreamSynchronize(stream_));
        size_t at = static_cast<size_t>(base + first + r) * columns;
        APUD_CHECK(at + static_cast<size_t>(n) * columns <= out.size(), "out holds the result");
        std::memcpy(out.data() + at, result_host_, static_cast<size_t>(n) * columns * 4);
      }
    });
    APUD_CUDA(cudaStreamSynchronize(stream_));
  });
}

void CudaExecutor::sample_rows(const Step& step, std::span<const SamplingRow> rows) {
  // rows, seen tokens, masks: one copy.
  size_t masks = 0, seen = 0;
  for (const SamplingRow& r : rows) {
    seen += r.seen.size();
    masks += r.allowed.size();
  }
  size_t seen_at = pad(rows.size() * sizeof(SampleRow)), mask_at = pad(seen_at + seen * 4);
  size_t total = mask_at + masks * 8;
  if (total > sample_host_bytes_)
    throw Error(ErrorKind::kBusy, "CUDA: sampling inputs of " + std::to_string(total) + " bytes",
                "sample fewer rows at once");
  auto* to = reinterpret_cast<SampleRow*>(sample_host_);
  auto* seen_to = reinterpret_cast<int32_t*>(sample_host_ + seen_at);
  auto* mask_to = reinterpret_cast<uint64_t*>(sample_host_ + mask_at);
  int seen_used = 0;
  int64_t mask_used = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const SamplingRow& r = rows[i];
    bool penalties =
        r.repetition_penalty != 1 || r.presence_penalty != 0 || r.frequency_penalty != 0;
    SampleRow& s = to[i];
    s = {r.temperature,
         r.top_p,
         r.min_p,
         r.top_k,
         r.repetition_penalty,
         r.presence_penalty,
         r.frequency_penalty,
         seen_used,
         0,
         -1,
         uniform_from(r.seed, r.counter)};
    if (penalties)
      for (int32_t id : r.seen)
        if (id >= 0 && id < vocab_) {
          seen_to[seen_used++] = id;
          ++s.seen_count;
        }
    if (!r.allowed.empty()) {
      APUD_CHECK(r.allowed.size() >= (static_cast<size_t>(vocab_) + 63) / 64,
                 "the mask covers the vocabulary");
      s.allowed_begin = mask_used;
      std::copy(r.allowed.begin(), r.allowed.end(), mask_to + mask_used);
      mask_used += static_cast<int64_t>(r.allowed.size());
    }
  }
  APUD_CUDA(
      cudaMemcpyAsync(sample_inputs_.as(), sample_host_, total, cudaMemcpyHostToDevice, stream_));
  SampleArgs a = sample_;
  a.logits = result(step);
  a.ld = result_ld();
  a.rows = static_cast<int>(rows.size());
  a.row = sample_inputs_.as<SampleRow>();
  a.seen = reinterpret_cast<const int32_t*>(sample_inputs_.as() + seen_at);
  a.allowed = reinterpret_cast<const uint64_t*>(sample_inputs_.as() + mask_at);
  sample(a, Launch{stream_, false});
}

void CudaExecutor::run_sampled(const Batch& batch, KvStore* kv, std::span<const SamplingRow> rows,
                               std::span<SampledToken> out) {
  APUD_CUDA(cudaSetDevice(options_.device));
  APUD_CHECK(rows.size() == batch.output_rows.size() && out.size() >= rows.size(),
             "parameters for every row");
  bool greedy = std::all_of(rows.begin(), rows.end(), [](const SamplingRow& r) {
    bool penalties = !r.seen.empty() && (r.repetition_penalty != 1 || r.presence_penalty != 0 ||
                                         r.frequency_penalty != 0);
    return !(r.temperature > 0) && r.allowed.empty() && !penalties;
  });
  run_rows(batch, kv, [&](const Batch& part, int base) {
    auto* store = static_cast<CudaKv*>(kv);
    const bool continuing = greedy && continues(part, store);
    if (continuing && take_ahead(part, store, out.subspan(base))) return;
    ahead_.forget();
    pass(part, store, greedy, [&](const Step& step, int first) {
      if (greedy && advances(step)) {
        run_ahead(step, part, continuing);
        read_drawn(part, out.subspan(base));
        return;
      }
      if (!greedy) sample_rows(step, rows.subspan(base + first, step.out_rows));
      APUD_CUDA(cudaStreamSynchronize(stream_));
      for (int r = 0; r < step.out_rows; ++r) out[base + first + r] = checked(drawn_[r], vocab_);
    });
    if (!ahead_.step.kv) APUD_CUDA(cudaStreamSynchronize(stream_));
  });
}

}  // namespace apud::cuda

namespace apud {

std::unique_ptr<Executor> make_cuda_executor(const Program& program, const Weights& weights,
                                             const CudaOptions& options) {
  std::string reason = cuda_unavailable_reason();
  if (!reason.empty())
    throw Error(ErrorKind::kUnavailable, "no usable CUDA device: " + reason, "use --device cpu");
  return std::make_unique<cuda::CudaExecutor>(program, weights, options);
}

}  // namespace apud
