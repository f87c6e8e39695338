#include "kernels/gpu_bench.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>

#include "kernels/cuda/executor.h"
#include "kernels/cuda/median_seconds.h"
#include "kernels/random_model.h"

namespace apud {
namespace {

using cuda::check;
using cuda::median_seconds;
using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

__global__ void read_kernel(const uint4* data, int64_t count, uint32_t* out) {
  uint32_t x = 0;
  int64_t stride = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 a = cuda::ld_weight16(data + i), b = cuda::ld_weight16(data + i + stride);
    uint4 c = cuda::ld_weight16(data + i + 2 * stride),
          d = cuda::ld_weight16(data + i + 3 * stride);
    x ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^
         d.w;
  }
  if (x == 0x12345678) *out = x;
}

/// Not zeros: they run faster than data does.
__global__ void noise_kernel(uint32_t* data, int64_t words, bool halves) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= words) return;
  uint32_t x = static_cast<uint32_t>(i) * 2654435761u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  data[i] = halves ? (x & 0x83ff83ffu) | 0x38003800u : x;  // halves: +-[0.5, 1)
}

double gemm_rate(int rows) {
  const int n = 8192, k = 8192;
  cuda::DeviceBuffer w(size_t{2} * n * k, "bench"), x(size_t{2} * rows * k, "bench"),
      out(size_t{2} * rows * n, "bench");
  for (auto* b : {&w, &x}) {
    int64_t words = static_cast<int64_t>(b->bytes() / 4);
    noise_kernel<<<cuda::ceil_div(words, 256), 256>>>(b->as<uint32_t>(), words, true);
  }
  cuda::Gemm gemm;
  cuda::GemmArgs g;
  g.x = x.as();
  g.x_ld = k;
  g.w = w.as();
  g.w_ld = k;
  g.out = {out.as(), n, true};
  g.rows = rows;
  g.n = n;
  g.k = k;
  return 2.0 * rows * n * k / median_seconds(10, nullptr, [&] { gemm.run(g, nullptr); });
}

/// One model on the device with pages for `tokens` tokens of each of some sequences.
struct Bench {
  std::unique_ptr<RandomModel> random;  // owner, where the weights are random
  struct View {
    const Program& program;
    const Weights& weights;
    int layers;
  };
  std::unique_ptr<View> model;
  std::unique_ptr<cuda::CudaExecutor> executor;
  std::unique_ptr<KvStore> kv;
  std::vector<int32_t> pages;  // pages_each of a sequence, one sequence's behind the other's
  int pages_each = 0;
  double load_seconds = 0;

  Bench(const std::string& name, const GpuBenchOptions& options, int tokens, int max_step) {
    if (options.program) {
      int layers = static_cast<int>(
          std::count_if(options.program->ops.begin(), options.program->ops.end(),
                        [](const Op& op) { return std::holds_alternative<AttentionOp>(op); }));
      model.reset(new View{*options.program, *options.weights, layers});
    } else {
      random = random_model(name);
      model.reset(new View{random->program, random->weights, random->layers});
    }
    const int device = options.device;
    CudaOptions o;
    o.device = device;
    o.max_step_tokens = max_step;
    auto start = Clock::now();
    executor = std::make_unique<cuda::CudaExecutor>(model->program, model->weights, o);
    load_seconds = seconds_since(start);
    if (model->program.is_encoder()) return;
    pages_each = (tokens + kKvPageTokens - 1) / kKvPageTokens;
    const int count = pages_each * options.sequences;
    std::vector<int> counts(model->program.kv_groups.size(), count);
    kv = executor->make_kv(counts, executor->default_kv_type());
    pages.resize(count);
    for (int i = 0; i < count; ++i) pages[i] = count - 1 - i;
  }
  SequenceSlice slice(int count, int position, int sequence = 0) const {
    SequenceSlice s{0, count, position, {}};
    for (size_t g = 0; g < model->program.kv_groups.size(); ++g)
      s.pages[g] = std::span(pages).subspan(size_t(sequence) * pages_each, pages_each);
    return s;
  }
  SampledToken run(std::span<const int32_t> tokens, int position, int sequence = 0) {
    SequenceSlice s = slice(static_cast<int>(tokens.size()), position, sequence);
    int32_t last = static_cast<int32_t>(tokens.size()) - 1;
    SamplingRow row;
    SampledToken out;
    executor->run_sampled({tokens, std::span(&s, 1), std::span(&last, 1)}, kv.get(),
                          std::span(&row, 1), std::span(&out, 1));
    return out;
  }
  /// A token of each of some sequences.
  struct StepBatch {
    std::vector<int32_t> ids, rows;
    std::vector<SequenceSlice> slices;
    Batch view() const { return {ids, slices, rows}; }
  };
  StepBatch step_batch(std::span<const SampledToken> last, int position) const {
    StepBatch b;
    for (size_t i = 0; i < last.size(); ++i) {
      b.ids.push_back(last[i].id);
      b.rows.push_back(static_cast<int32_t>(i));
      b.slices.push_back(slice(1, position, static_cast<int>(i)));
      b.slices.back().first_row = static_cast<int32_t>(i);
    }
    return b;
  }
  void step(std::span<SampledToken> last, int position) {
    const StepBatch b = step_batch(last, position);
    std::vector<SamplingRow> sampling(last.size());
    executor->run_sampled(b.view(), kv.get(), sampling, last);
  }
  std::vector<int32_t> tokens(int n) const {
    std::vector<int32_t> t(n);
    int vocab = model->program.values[model->program.result].cols;
    if (model->program.is_encoder()) vocab = 250000;
    for (int i = 0; i < n; ++i) t[i] = static_cast<int32_t>((int64_t{i} * 7919 + 13) % vocab);
    return t;
  }
  void fill(int n, int sequence = 0) {
    int step = executor->max_step_tokens();
    auto t = tokens(n);
    for (int at = 0; at < n; at += step)
      run(std::span(t).subspan(at, std::min(step, n - at)), at, sequence);
  }
  uint64_t hash(int position) {
    int32_t token = 1, row = 0;
    SequenceSlice s = slice(1, position);
    std::vector<float> logits(model->program.values[model->program.result].cols);
    executor->run({std::span(&token, 1), std::span(&s, 1), std::span(&row, 1)}, kv.get(), logits);
    uint64_t h = 14695981039346656037ull;  // FNV-1a over the bits
    for (float f : logits) {
      uint32_t bits;
      __builtin_memcpy(&bits, &f, 4);
      h = (h ^ bits) * 1099511628211ull;
    }
    return h;
  }
};

/// Stages of a name together; what they lost beyond reading their bytes at the rate `read`, where
/// that is what bounds them (0: it is not).
std::vector<StageLoss> by_name(const std::vector<cuda::StageTime>& times, double read) {
  std::map<std::string, StageLoss> sums;
  for (const auto& t : times) {
    StageLoss& l = sums[t.name];
    l.stage = t.name;
    ++l.count;
    l.microseconds += t.microseconds;
    if (read > 0) l.lost += t.microseconds - t.bytes / read * 1e6;
  }
  std::vector<StageLoss> all;
  for (auto& [name, l] : sums) {
    l.lost /= l.count;
    all.push_back(l);
  }
  return all;
}

void bench_decode(Bench& b, int context, int steps, int sequences, const GpuCeilings& c,
                  bool stages, GpuBenchRow row,
                  const std::function<void(const GpuBenchRow&)>& emit) {
  for (int i = 0; i < sequences; ++i) b.fill(context, i);
  std::vector<SampledToken> tokens(sequences);
  for (int i = 0; i < sequences; ++i) tokens[i].id = i + 1;
  int position = context;
  for (int i = 0; i < 3; ++i) b.step(tokens, position++);
  auto start = Clock::now();
  for (int i = 0; i < steps; ++i) b.step(tokens, position++);
  double seconds = seconds_since(start) / steps;
  ProgramCost cost = program_cost(b.model->program, b.model->weights);
  double bytes = static_cast<double>(cost.read_bytes_per_token);
  for (const KvGroup& g : b.model->program.kv_groups)
    bytes += 4.0 * sequences * g.layers * g.kv_heads * g.head_dim *
             (g.window > 0 ? std::min(g.window, context) : context + steps / 2);
  row.work = "decode";
  row.context = context;
  if (sequences > 1) row.work += " x " + std::to_string(sequences);
  row.value = sequences / seconds;
  row.unit = "tok/s";
  row.share = bytes / seconds / c.read;
  row.ceiling = "read";
  row.microseconds_per_stage = (seconds - bytes / c.read) * 1e6 / (5 * b.model->layers + 1);
  row.logits_hash = b.hash(context);
  if (stages) {
    const Bench::StepBatch batch = b.step_batch(tokens, context);
    b.executor->profile(batch.view(), b.kv.get());
    row.stages = by_name(b.executor->profile(batch.view(), b.kv.get()), c.read);
  }
  emit(row);
}

void bench_prefill(Bench& b, int fresh, int cached, const GpuCeilings& c, bool stages,
                   GpuBenchRow row, const std::function<void(const GpuBenchRow&)>& emit) {
  if (cached) b.fill(cached);
  auto t = b.tokens(fresh);
  int step = b.executor->max_step_tokens();
  auto all = [&] {
    for (int at = 0; at < fresh; at += step)
      b.run(std::span(t).subspan(at, std::min(step, fresh - at)), cached + at);
  };
  all();
  std::vector<double> times;
  for (int i = 0; i < 3; ++i) {
    auto start = Clock::now();
    all();
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  ProgramCost cost = program_cost(b.model->program, b.model->weights);
  const Program& p = b.model->program;
  double head = 2.0 * p.values[p.result].cols * p.values[std::get<LinearOp>(p.ops.back()).x].cols;
  row.work = "prefill " + std::to_string(fresh);
  row.context = cached;
  row.value = fresh / times[1];
  row.unit = "tok/s";
  row.share = (static_cast<double>(cost.flops_per_token) - head) * row.value / c.gemm_2048;
  row.ceiling = "gemm";
  if (stages) {
    int n = std::min(step, fresh);
    SequenceSlice s = b.slice(n, cached);
    int32_t last = n - 1;
    row.stages = by_name(
        b.executor->profile({std::span(t).subspan(0, n), std::span(&s, 1), std::span(&last, 1)},
                            b.kv.get()),
        0);
  }
  emit(row);
}

void bench_attention(Bench& b, int context, int sequences, const GpuCeilings& c, GpuBenchRow row,
                     const std::function<void(const GpuBenchRow&)>& emit) {
  for (int i = 0; i < sequences; ++i) b.fill(context, i);
  const Bench::StepBatch step = b.step_batch(std::vector<SampledToken>(sequences), context);
  const Batch batch = step.view();
  b.executor->profile(batch, b.kv.get());
  std::vector<double> times;
  for (const auto& t : b.executor->profile(batch, b.kv.get()))
    if (t.name == "rope+attention") times.push_back(t.microseconds);
  std::sort(times.begin(), times.end());
  const KvGroup& g = b.model->program.kv_groups[0];
  double bytes = 4.0 * sequences * g.kv_heads * g.head_dim * context;
  const std::string of = sequences > 1 ? " x " + std::to_string(sequences) : "";
  row.work = "attention" + of;
  row.context = context;
  row.value = bytes / (times[times.size() / 2] * 1e-6) / 1e9;
  row.unit = "GB/s";
  row.share = row.value * 1e9 / c.read;
  row.ceiling = "read";
  row.microseconds_per_stage = times[times.size() / 2];
  emit(row);
  // One layer's behind the other's, as in decode.
  const double chained = b.executor->chain_seconds(batch, b.kv.get(), "rope+attention");
  row.work = "attention" + of + ", chained";
  row.value = bytes / chained / 1e9;
  row.share = row.value * 1e9 / c.read;
  row.microseconds_per_stage = chained * 1e6;
  emit(row);
}

void bench_embed(Bench& b, const GpuCeilings& c, bool stages, GpuBenchRow row,
                 const std::function<void(const GpuBenchRow&)>& emit) {
  const int length = 256, count = b.executor->max_step_tokens() / length;
  auto t = b.tokens(length * count);
  std::vector<SequenceSlice> slices;
  for (int i = 0; i < count; ++i) slices.push_back({i * length, length, 0, {}});
  std::vector<float> out(static_cast<size_t>(count) *
                         b.model->program.values[b.model->program.result].cols);
  Batch batch{t, slices, {}};
  b.executor->run(batch, nullptr, out);
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    auto start = Clock::now();
    b.executor->run(batch, nullptr, out);
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  ProgramCost cost = program_cost(b.model->program, b.model->weights);
  row.work = "embed 256";
  row.value = length * count / times[4];
  row.unit = "tok/s";
  row.share = static_cast<double>(cost.flops_per_token) * row.value / c.gemm_8192;
  row.ceiling = "gemm";
  if (stages) row.stages = by_name(b.executor->profile(batch, nullptr), 0);
  emit(row);
  // One short query.
  std::vector<SequenceSlice> one = {{0, 16, 0, {}}};
  Batch query{std::span(t).subspan(0, 16), one, {}};
  b.executor->run(query, nullptr, out);
  times.clear();
  for (int i = 0; i < 9; ++i) {
    auto start = Clock::now();
    b.executor->run(query, nullptr, out);
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  GpuBenchRow q;
  q.model = row.model;
  q.work = "embed one query of 16";
  q.value = times[4] * 1e3;
  q.unit = "ms";
  if (stages) q.stages = by_name(b.executor->profile(query, nullptr), 0);
  emit(q);
}

}  // namespace

GpuCeilings measure_gpu_ceilings(int device) {
  std::string reason = cuda_unavailable_reason();
  if (!reason.empty())
    throw Error(ErrorKind::kUnavailable, "no usable CUDA device: " + reason, "use --device cpu");
  APUD_CUDA(cudaSetDevice(device));
  GpuCeilings c;
  cudaDeviceProp properties;
  APUD_CUDA(cudaGetDeviceProperties(&properties, device));
  c.device = properties.name;
  size_t free_bytes = 0, total = 0;
  APUD_CUDA(cudaMemGetInfo(&free_bytes, &total));
  {
    size_t bytes = std::min<size_t>(size_t{4} << 30, free_bytes / 4) / 4096 * 4096;
    cuda::DeviceBuffer a(bytes, "bench"), b(bytes, "bench");
    int64_t words = static_cast<int64_t>(bytes / 4);
    noise_kernel<<<cuda::ceil_div(words, 256), 256>>>(a.as<uint32_t>(), words, false);
    int blocks = properties.multiProcessorCount * 4;
    c.read = static_cast<double>(bytes) / median_seconds(7, nullptr, [&] {
               read_kernel<<<blocks, 512>>>(a.as<uint4>(), static_cast<int64_t>(bytes / 16),
                                            b.as<uint32_t>());
             });
    c.copy = 2.0 * static_cast<double>(bytes) / median_seconds(7, nullptr, [&] {
               cudaMemcpyAsync(b.as(), a.as(), bytes, cudaMemcpyDeviceToDevice);
             });
    void* host = nullptr;
    size_t link = size_t{256} << 20;
    APUD_CUDA(cudaHostAlloc(&host, link, cudaHostAllocDefault));
    c.host_link = static_cast<double>(link) / median_seconds(5, nullptr, [&] {
                    cudaMemcpyAsync(a.as(), host, link, cudaMemcpyHostToDevice);
                  });
    cudaFreeHost(host);
  }
  c.gemm_2048 = gemm_rate(2048);
  c.gemm_8192 = gemm_rate(8192);
  return c;
}

void gpu_bench(const GpuBenchOptions& options, const GpuCeilings& ceilings,
               const std::function<void(const GpuBenchRow&)>& row) {
  auto has = [&](const char* work) {
    return std::find(options.works.begin(), options.works.end(), work) != options.works.end();
  };
  const std::vector<std::string> given = {options.name};
  for (const std::string& name : options.program ? given : options.models) {
    int tokens = 0, step = 4096;
    const std::vector<int>& attended =
        options.attention_contexts.empty() ? options.contexts : options.attention_contexts;
    for (int n : options.contexts) tokens = std::max(tokens, n);
    if (has("attention"))
      for (int n : attended) tokens = std::max(tokens, n);
    for (auto& [fresh, cached] : options.prefills)
      if (has("prefill")) tokens = std::max(tokens, fresh + cached);
    bool encoder = options.program ? options.program->is_encoder() : name.rfind("e5", 0) == 0;
    Bench b(name, options, tokens + options.decode_tokens + 128, encoder ? 65536 : step);
    GpuBenchRow base;
    base.model = name;
    if (has("load")) {
      // Weights lie in memory, as a file in the page cache does.
      ProgramCost cost = program_cost(b.model->program, b.model->weights);
      GpuBenchRow r = base;
      r.work = "load";
      r.value = b.load_seconds;
      r.unit = "s";
      r.share = static_cast<double>(cost.weight_bytes) / b.load_seconds / ceilings.host_link;
      r.ceiling = "link";
      row(r);
      if (!encoder) {
        auto t = b.tokens(32);
        auto start = Clock::now();
        b.run(t, 0);
        r.work = "first token of 32";
        r.value = seconds_since(start) * 1e3;
        r.unit = "ms";
        r.share = 0;
        r.ceiling.clear();
        row(r);
      }
    }
    if (encoder) {
      if (has("embed")) bench_embed(b, ceilings, options.stages, base, row);
      continue;
    }
    // Decode before prefill: behind seconds of it the clock is lower for a while, decode 3 to 4 %
    // slower.
    if (has("decode"))
      for (int n : options.contexts)
        bench_decode(b, n, options.decode_tokens, options.sequences, ceilings, options.stages, base,
                     row);
    if (has("prefill"))
      for (auto& [fresh, cached] : options.prefills)
        bench_prefill(b, fresh, cached, ceilings, options.stages, base, row);
    if (has("attention"))
      for (int n : attended) bench_attention(b, n, options.sequences, ceilings, base, row);
  }
}

}  // namespace apud
