// Speed of single CPU kernels on one core, data in cache:
//   cpu_kernel_bench [ISA] [FORMAT,...] [ROWS,...] [N x K]
// prints GOP/s (2 x rows x N x K per second; best of many runs) of the products, and GB/s of packed
// weights for up to 4 rows; then attention. The best run counts: other work only makes it slower.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/memory.h"
#include "tests/kernels/synthetic.h"

namespace {

using namespace apud;

double best_seconds(double budget, const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9, spent = 0;
  for (int i = 0; i < 5 || spent < budget; ++i) {
    auto start = Clock::now();
    work();
    double t = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, t);
    spent += t;
  }
  return best;
}

// In huge pages, as the executor's.
template <class T>
T* in_arena(cpu::Arena& arena, size_t count) {
  arena = cpu::Arena(count * sizeof(T), "the bench");
  return reinterpret_cast<T*>(arena.data());
}

void bench_linear(const cpu::Kernels& kernels, WeightType type, cpu::Packing packing, int rows,
                  int n, int k) {
  test::Synthetic made(7);
  WeightId id = made.weight("w", n, k, type);
  const WeightView& view = made.weights[static_cast<size_t>(id)];
  cpu::PackedMatrix packed = cpu::packed_layout(type, packing, n, k);
  cpu::Arena packed_bytes, act_bytes, scratch_bytes, outputs;
  packed.data = in_arena<uint8_t>(packed_bytes, packed.bytes());
  cpu::pack_strips(view, packed, 0, packed.strips());
  std::vector<float> x(static_cast<size_t>(rows) * static_cast<size_t>(k));
  const int64_t stride = cpu::row_stride(n);
  float* out = in_arena<float>(outputs, static_cast<size_t>(rows) * static_cast<size_t>(stride));
  std::normal_distribution<float> normal;
  for (float& v : x) v = normal(made.generator());
  cpu::LinearArgs args;
  args.weight = &packed;
  args.x = x.data();
  args.x_stride = k;
  args.out = out;
  args.out_stride = stride;
  args.row_end = rows;
  if (cpu::takes_acts(type, packing)) {
    args.act_layout = cpu::act_layout(cpu::act_kind(type, packing), k);
    args.act_layout.group = cpu::act_group(cpu::act_kind(type, packing), rows);
    uint8_t* acts = in_arena<uint8_t>(
        act_bytes, static_cast<size_t>(rows + cpu::kActSlackRows) * args.act_layout.stride);
    args.acts = acts;
    for (int r = 0; r < rows; ++r) {
      kernels.quantize(cpu::act_kind(type, packing),
                       x.data() + static_cast<size_t>(r) * static_cast<size_t>(k), args.act_layout,
                       acts + args.act_layout.at(r));
    }
  }
  uint8_t* scratch = in_arena<uint8_t>(scratch_bytes, cpu::linear_scratch_bytes(k, kernels.tiles));
  int step = packing == cpu::Packing::kTiles ? 16 : 8;  // strips a call, as the executor does
  double t = best_seconds(0.2, [&] {
    for (int s = 0; s < packed.strips(); s += step)
      kernels.linear(args, s, std::min(packed.strips(), s + step), scratch);
  });
  std::printf("%-10s %-5s rows %4d  %dx%d  %8.1f GOP/s", kernels.name,
              packing == cpu::Packing::kWords ? "words" : weight_type_name(type), rows, n, k,
              2.0 * rows * n * k / t / 1e9);
  if (rows <= 4) std::printf("  %6.1f GB/s", static_cast<double>(packed.bytes()) / t / 1e9);
  std::printf("\n");
}

// One piece of work: `rows` query rows of one KV head over `keys` keys, all visible.
void bench_attention(const cpu::Kernels& kernels, int rows, int keys, int dim) {
  cpu::KvHeadLayout layout = cpu::kv_head_layout(KvType::kF16, dim);
  int blocks = keys / kKvPageTokens;
  cpu::Arena kv;
  auto* base = in_arena<std::byte>(kv, layout.bytes * static_cast<size_t>(blocks));
  std::mt19937 g(3);
  std::normal_distribution<float> normal;
  auto d = static_cast<size_t>(dim);
  std::vector<float> row(d), q(static_cast<size_t>(rows) * d), out(q.size());
  std::vector<const std::byte*> block;
  for (int b = 0; b < blocks; ++b) {
    block.push_back(base + static_cast<size_t>(b) * layout.bytes);
    for (int t = 0; t < kKvPageTokens; ++t) {
      for (float& v : row) v = normal(g);
      kernels.store_kv(layout, base + static_cast<size_t>(b) * layout.bytes, t, row.data(),
                       row.data());
    }
  }
  for (float& v : q) v = normal(g);
  std::vector<const float*> q_rows;
  std::vector<float*> out_rows;
  for (int r = 0; r < rows; ++r) {
    q_rows.push_back(&q[static_cast<size_t>(r) * d]);
    out_rows.push_back(&out[static_cast<size_t>(r) * d]);
  }
  std::vector<int> low(static_cast<size_t>(rows), 0), high(static_cast<size_t>(rows), keys);
  std::vector<float> scratch(cpu::attention_scratch_floats(rows, dim));
  cpu::AttentionArgs args;
  args.layout = layout;
  args.blocks = block.data();
  args.end_block = blocks;
  args.rows = rows;
  args.q = q_rows.data();
  args.out = out_rows.data();
  args.low = low.data();
  args.high = high.data();
  args.scale = 0.1f;
  args.scratch = scratch.data();
  double t = best_seconds(0.2, [&] { kernels.attend(args); });
  std::printf("%-10s attention  rows %4d  keys %5d  dim %3d  %8.1f GFLOP/s  %6.1f GB/s\n",
              kernels.name, rows, keys, dim, 4.0 * rows * keys * dim / t / 1e9,
              static_cast<double>(layout.bytes) * blocks / t / 1e9);
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find(',', at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

}  // namespace

int main(int argc, char** argv) {
  std::string isa = argc > 1 ? argv[1] : "auto";
  std::vector<std::string> types = split(argc > 2 ? argv[2] : "q4_k,q5_0,q6_k,q8_0,f32");
  std::vector<std::string> rows = split(argc > 3 ? argv[3] : "96,1");
  int n = argc > 4 ? std::atoi(argv[4]) : 512, k = argc > 5 ? std::atoi(argv[5]) : 1536;
  for (CpuIsa each : available_cpu_isas()) {
    if (isa != "all" && isa != cpu_isa_name(each) &&
        !(isa == "auto" && each == available_cpu_isas().back())) {
      continue;
    }
    const cpu::Kernels& kernels = cpu::kernels_of(each);
    for (int i = 0; i <= static_cast<int>(WeightType::kQ6_K); ++i) {
      auto type = static_cast<WeightType>(i);
      if (std::find(types.begin(), types.end(), weight_type_name(type)) == types.end()) continue;
      bool tiles = kernels.tiles && cpu::tile_format(type);
      auto packing = tiles ? cpu::Packing::kTiles : cpu::Packing::kExact;
      for (const std::string& r : rows)
        bench_linear(kernels, type, packing, std::atoi(r.c_str()), n, k);
    }
    if (std::find(types.begin(), types.end(), "words") != types.end()) {  // an encoder's F32
      for (const std::string& r : rows)
        bench_linear(kernels, WeightType::kF32, cpu::Packing::kWords, std::atoi(r.c_str()), n, k);
    }
    if (std::find(types.begin(), types.end(), "attention") != types.end()) {
      for (const std::string& r : rows) {
        for (int dim : {64, 128}) bench_attention(kernels, std::atoi(r.c_str()), 2048, dim);
      }
    }
  }
  return 0;
}
