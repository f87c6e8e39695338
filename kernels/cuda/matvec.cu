#include "kernels/cuda/matvec.cuh"

#include <algorithm>

namespace apud::cuda {
namespace {

constexpr int kBlocksPerSm = 2;
constexpr size_t kSharedLimit = 96 * 1024;  // fits the 99 KB of sm_86 and sm_89

/// Warps per row: the least time in steps of the slowest warp, a row's end counted as 0.3 steps.
int choose_split(const MatvecStage& stage, int multiprocessors) {
  int64_t rows = 0;
  int steps = 1 << 30;
  for (int i = 0; i < stage.segments; ++i) {
    rows += stage.segment[i].weight.rows;
    steps = std::min(steps, ceil_div(stage.segment[i].weight.shape.groups, 32));
  }
  int best = 1;
  double best_cost = 0;
  for (int split : {1, 2, 4, 8}) {
    if (split > steps) break;
    int64_t teams = int64_t{kBlocksPerSm} * multiprocessors * kMatvecWarps / split;
    double cost = ceil_div(rows, teams) * (ceil_div(steps, split) + 0.3);
    if (split == 1 || cost < best_cost * 0.98) {
      best = split;
      best_cost = cost;
    }
  }
  return best;
}

/// Gives each segment blocks in proportion to its bytes; returns the grid.
int share_blocks(MatvecStage& stage, int multiprocessors) {
  int teams_per_block = kMatvecWarps / stage.k_split;
  int64_t bytes = 0, needed = 0;
  for (int i = 0; i < stage.segments; ++i) {
    bytes += static_cast<int64_t>(stage.segment[i].weight.bytes());
    needed += ceil_div(stage.segment[i].weight.rows, teams_per_block);
  }
  int64_t grid = std::min<int64_t>(kBlocksPerSm * multiprocessors, needed);
  int first = 0;
  int64_t bytes_before = 0;
  for (int i = 0; i < stage.segments; ++i) {
    MatvecSegment& s = stage.segment[i];
    bytes_before += static_cast<int64_t>(s.weight.bytes());
    int end = static_cast<int>((grid * bytes_before + bytes / 2) / bytes);
    s.first_cta = first;
    s.ctas = std::max(1, std::min(end - first, ceil_div(s.weight.rows, teams_per_block)));
    first += s.ctas;
  }
  return first;
}

MatvecKernel kernel_for(int columns, WeightType type, bool paired) {
  if (columns == 1) return matvec_kernel_for<1>(type, paired);
  if (columns == 2) return matvec_kernel_for<2>(type, paired);
  return columns <= 4 ? matvec_kernel_for<4>(type, paired) : matvec_kernel_for<8>(type, paired);
}

/// One launch per chunk of columns, all segments together. False where their types differ.
bool run_together(MatvecStage stage, int multiprocessors, const Launch& where) {
  const WeightType type = stage.segment[0].weight.type;
  size_t column = 0;
  for (int i = 0; i < stage.segments; ++i) {
    const PackedMatrix& w = stage.segment[i].weight;
    APUD_CHECK(w.cols == stage.cols, "all weights of a stage read the same activations");
    column = std::max(column, matvec_column_bytes(w.shape.groups));
    if (w.type != type) return false;
  }
  int grid = share_blocks(stage, multiprocessors);
  int left = stage.columns;
  while (left > 0) {
    int n = std::min(left, MatvecStage::kMaxColumns);
    while (n > 1 && kMatvecScratch + n * column > kSharedLimit) n = (n + 1) / 2;
    MatvecKernel kernel = kernel_for(n, type, stage.paired);
    APUD_CHECK(kernel, "float weights: quantised ones go to stream()");
    stage.columns = n;
    size_t shared = kMatvecScratch + n * column;
    if (shared > 48 * 1024)
      APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shared)));
    launch(where, kernel, dim3(grid), dim3(kMatvecThreads), shared, stage);
    left -= n;
    stage.x += n * stage.x_ld;
    for (int i = 0; i < stage.segments; ++i) stage.segment[i].out += n * stage.segment[i].out_ld;
  }
  return true;
}

}  // namespace

void matvec(MatvecStage stage, int multiprocessors, const Launch& where) {
  APUD_CHECK(stage.segments >= 1 && stage.segments <= MatvecStage::kMaxSegments, "segments");
  APUD_CHECK(stage.x_ld % 4 == 0, "activations are read 16 bytes at a time");
  // Chosen once for the whole stage, so that a row's sum has one order however it is launched.
  stage.k_split = choose_split(stage, multiprocessors);
  // Same-type neighbours go together.
  for (int from = 0; from < stage.segments;) {
    int to = stage.segments;
    MatvecStage part = stage;
    for (;; --to) {
      part.segments = to - from;
      for (int i = from; i < to; ++i) part.segment[i - from] = stage.segment[i];
      if (run_together(part, multiprocessors, where)) break;
      APUD_CHECK(to - from > 1, "every single type has a kernel");
    }
    from = to;
  }
}

}  // namespace apud::cuda
