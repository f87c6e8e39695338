#include <algorithm>

#include "kernels/cuda/stream.cuh"
#include "kernels/cuda/stream_many_parts.cuh"

namespace apud::cuda {
namespace {

// Up to here a column at a time costs less than all eight do on the tensor cores.
constexpr int kFewColumns = 5;

StreamKernel kernel_for(int columns, WeightType a, WeightType b, StreamKind kind) {
  switch (columns) {
    case 1:
      return stream_kernel_for<1>(a, b, kind);
    case 2:
      return stream_kernel_for<2>(a, b, kind);
    case 3:
      return stream_kernel_for<3>(a, b, kind);
    case 4:
      return stream_kernel_for<4>(a, b, kind);
    default:
      return stream_kernel_for<5>(a, b, kind);
  }
}

/// Shares the blocks that are resident at once among the tiles of two types, or of one: all blocks
/// get as many tiles where that leaves few places empty, the larger tiles' blocks fewer of them, so
/// that they end together; else some get one more.
void share_blocks(StreamStage& stage, int most) {
  const int tiles = stage.tiles_a + stage.tiles_b;
  size_t bytes_a = 0, bytes_b = 0;  // of a tile
  for (int i = 0; i < stage.segments; ++i)
    (stage.segment[i].weight.type == stage.segment[0].weight.type ? bytes_a : bytes_b) =
        stage.segment[i].weight.shape.stride;
  int turns_a = 1, turns_b = 1;
  for (;;) {
    stage.blocks_a = ceil_div(stage.tiles_a, turns_a);
    stage.blocks_b = ceil_div(stage.tiles_b, turns_b);
    if (stage.blocks_a + stage.blocks_b <= most) break;
    ++(stage.tiles_b == 0 || (turns_a + 1) * bytes_a <= (turns_b + 1) * bytes_b ? turns_a
                                                                                : turns_b);
  }
  if (tiles > most && stage.blocks_a + stage.blocks_b < 2 * most / 3) {
    const size_t all_a = stage.tiles_a * bytes_a, all_b = stage.tiles_b * bytes_b;
    if (stage.tiles_b > 0)
      stage.blocks_b =
          std::clamp(static_cast<int>(most * all_b / (all_a + all_b)), 1, stage.tiles_b);
    stage.blocks_a = std::min(most - stage.blocks_b, stage.tiles_a);
  }
}

/// What a launch of `stage` (all but its blocks) takes.
struct StreamLaunch {
  StreamKernel kernel = nullptr;
  int threads = 0;
  size_t shared = 0;
  int resident = 0;  // blocks a multiprocessor
  StreamLaunch(StreamKernel k, int t, size_t bytes) : kernel(k), threads(t), shared(bytes) {
    if (shared > 48 * 1024)
      APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shared)));
    APUD_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared));
  }
};

size_t shared_limit() {
  static const size_t limit = [] {
    int device = 0, bytes = 0;
    APUD_CUDA(cudaGetDevice(&device));
    APUD_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return static_cast<size_t>(bytes);
  }();
  return limit;
}

/// Numbers the tiles of `outputs` outputs, those of either type by themselves.
void number_tiles(StreamStage& stage, int outputs) {
  stage.tiles_a = stage.tiles_b = 0;
  for (int i = 0; i < stage.segments; ++i) {
    StreamSegment& s = stage.segment[i];
    int& tiles = s.weight.type == stage.segment[0].weight.type ? stage.tiles_a : stage.tiles_b;
    s.first_tile = tiles;
    s.tiles = ceil_div(s.weight.rows, outputs);
    tiles += s.tiles;
  }
}

/// The longest ring of up to four slots with which as many blocks are resident. Resident is 0 where
/// not even one is.
StreamLaunch launch_of_kind(StreamStage& stage, ManyKind kind, WeightType a, WeightType b) {
  const StreamKernel kernel = kind == ManyKind::kPair   ? many_pair_kernel(a)
                              : kind == ManyKind::kTile ? many_tile_kernel(a, b)
                                                        : many_two_tiles_kernel(a, b);
  const size_t slot = std::max(many_slot(a), many_slot(b));
  auto with_ring = [&](int slots) {
    stage.ring = slots;
    const size_t shared = many_shared(stage, kind, slot);
    if (shared > shared_limit()) {
      StreamLaunch none(kernel, stage.octets * kOctet * 32, 0);
      none.resident = 0;
      return none;
    }
    return StreamLaunch(kernel, stage.octets * kOctet * 32, shared);
  };
  StreamLaunch best = with_ring(2);
  int slots = 2;
  for (int more : {3, 4}) {
    const StreamLaunch l = with_ring(more);
    if (l.resident < best.resident) break;
    best = l;
    slots = more;
  }
  stage.ring = slots;
  return best;
}

/// Of more than kFewColumns, the stage's tiles numbered. Resident is 0 where not even one block is.
StreamLaunch launch_of_many(StreamStage& stage, WeightType a, WeightType b, int multiprocessors) {
  stage.octets = stage.shift > 0 ? 2 : 1;
  auto turns = [&](const StreamLaunch& l, ManyKind kind) {
    number_tiles(stage, many_outputs(kind));
    return ceil_div(stage.tiles_a + stage.tiles_b, std::max(l.resident, 1) * multiprocessors);
  };
  // Two tiles at once take half as long again as one.
  const ManyKind kind = stage.paired ? ManyKind::kPair : ManyKind::kTile;
  bool whole = !stage.paired;
  for (int i = 0; i < stage.segments; ++i)
    whole = whole && stage.segment[i].weight.rows % many_outputs(ManyKind::kTwoTiles) == 0;
  StreamStage one = stage;
  const StreamLaunch l = launch_of_kind(one, kind, a, b);
  const int of_one = turns(l, kind);
  if (whole) {
    const StreamLaunch two = launch_of_kind(stage, ManyKind::kTwoTiles, a, b);
    if (two.resident > 0 && 3 * turns(two, ManyKind::kTwoTiles) <= 2 * of_one) return two;
  }
  number_tiles(stage, many_outputs(kind));
  stage.ring = one.ring;
  return l;
}

/// Of as many of `left` columns as go together, stage.columns then; threads: see run_together.
StreamLaunch launch_of(StreamStage& stage, int left, WeightType a, WeightType b, StreamKind kind,
                       int threads, int multiprocessors) {
  int& n = stage.columns;
  for (n = std::min(left, StreamStage::kMaxColumns); n > kFewColumns; n = (n + 1) / 2) {
    const StreamLaunch l = launch_of_many(stage, a, b, multiprocessors);
    if (l.resident > 0) return l;
  }
  number_tiles(stage, kTileRows);
  auto shared = [&] { return stream_shared(n, stage.x.groups); };
  while (n > 1 && shared() > shared_limit()) n = (n + 1) / 2;
  return StreamLaunch(kernel_for(n, a, b, kind), threads, shared());
}

/// One launch per chunk of columns, all segments together. False where their mix of types has no
/// kernel. `threads`: of a block with few columns.
bool run_together(StreamStage stage, int threads, int multiprocessors, const Launch& where) {
  const WeightType a = stage.segment[0].weight.type;
  WeightType b = a;
  for (int i = 0; i < stage.segments; ++i) {
    const StreamSegment& s = stage.segment[i];
    APUD_CHECK(s.weight.cols == stage.cols && s.weight.shape.groups == stage.x.groups,
               "all weights of a stage read the same activations");
    if (s.weight.type == a) continue;
    if (b != a && s.weight.type != b) return false;
    b = s.weight.type;
  }
  APUD_CHECK(!stage.paired || (stage.segments == 1 && !stage.accumulate), "a pair stands alone");
  const StreamKind kind = stage.paired          ? StreamKind::kPair
                          : stage.segments == 1 ? StreamKind::kSingle
                                                : StreamKind::kSegments;
  if (!kernel_for(1, a, b, kind)) return false;
  const int groups = stage.x.groups;
  for (int left = stage.columns; left > 0;) {
    const StreamLaunch l = launch_of(stage, left, a, b, kind, threads, multiprocessors);
    APUD_CHECK(l.resident > 0, "a block fits");
    share_blocks(stage, l.resident * multiprocessors);
    launch(where, l.kernel, dim3(stage.blocks_a + stage.blocks_b), dim3(l.threads), l.shared,
           stage);
    const int n = stage.columns;
    left -= n;
    stage.x.data += n * QuantRows::row_bytes(groups);
    stage.x.squares += int64_t{n} * 2 * groups;
    if (stage.next.data) {
      stage.next.data += n * QuantRows::row_bytes(stage.next.groups);
      stage.next.squares += int64_t{n} * 2 * stage.next.groups;
    }
    for (int i = 0; i < stage.segments; ++i) stage.segment[i].out += n * stage.segment[i].out_ld;
  }
  return true;
}

/// Grid (groups / 8, rows), 8 warps.
__global__ void __launch_bounds__(256) quantise_kernel(const __grid_constant__ QuantiseArgs a) {
  grid_dependency_trigger();
  const int g = blockIdx.x * 8 + (threadIdx.x >> 5), c = g * 32 + (threadIdx.x & 31);
  const int row = blockIdx.y;
  const bool valid = c < a.cols;
  const float weight = a.norm && valid ? a.norm[c] + a.norm_offset : 1.f;
  grid_dependency_wait();
  if (g >= a.out.groups) return;
  const float v = valid ? ld_stream(a.x + row * a.x_ld + c) : 0.f;
  store_group(a.out, row, g, __fmul_rn(v, weight), __fmul_rn(v, v));
}

}  // namespace

void stream(StreamStage stage, int multiprocessors, const Launch& where) {
  APUD_CHECK(stage.segments >= 1 && stage.segments <= StreamStage::kMaxSegments, "segments");
  APUD_CHECK(!stage.next.data ||
                 (stage.segments == 1 &&
                  stage.next.groups == ceil_div(stage.segment[0].weight.rows, 2 * kTileRows)),
             "half a group of the next stage is a tile");
  // Two warps share a pair of rows that are longer than what one has in flight of them, or where
  // every tile has a multiprocessor to itself (there four share long ones); of pairs each takes an
  // output, also where twice the blocks of half the size would end later. Chosen by the stage
  // alone, so that a row's sum has one order however it is launched.
  int tiles = 0;
  bool narrow = true;  // none of two planes of bytes
  for (int i = 0; i < stage.segments; ++i) {
    tiles += ceil_div(stage.segment[i].weight.rows, kTileRows);
    narrow = narrow && !two_planes(stage.segment[i].weight.type);
  }
  const int groups = stage.x.groups;
  const bool alone = narrow && tiles <= multiprocessors;
  const bool sooner =
      ceil_div(tiles, 2 * multiprocessors) < 2 * ceil_div(tiles, 4 * multiprocessors);
  const bool large = groups > 64 || (groups > 32 && (!narrow || alone)) || (stage.paired && sooner);
  const int threads = alone && groups > 96 ? 1024 : large ? 512 : 256;
  stage.shift = (threads > 256) + (threads > 512) - (stage.paired && threads > 256);
  // Not every mix of types has a kernel: same-type neighbours go together.
  for (int from = 0; from < stage.segments;) {
    int to = stage.segments;
    StreamStage part = stage;
    for (;; --to) {
      part.segments = to - from;
      for (int i = from; i < to; ++i) part.segment[i - from] = stage.segment[i];
      if (run_together(part, threads, multiprocessors, where)) break;
      APUD_CHECK(to - from > 1, "every single type has a kernel");
    }
    from = to;
  }
}

void quantise(const QuantiseArgs& a, const Launch& where) {
  if (a.rows == 0) return;
  launch(where, quantise_kernel, dim3(ceil_div(a.out.groups, 8), a.rows), dim3(256), 0, a);
}

}  // namespace apud::cuda
