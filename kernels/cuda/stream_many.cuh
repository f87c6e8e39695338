// The kernel of quantised products with six to eight rows of activations, on the tensor cores: a
// tile's 16 outputs are one side of a product of bytes, the rows the other, a group of 32 values
// the depth, its halves apart. Sums of bytes are exact, and what follows adds in the order of
// stream.cuh, so that a row's bits are those that it has alone: there lane l of a warp adds groups
// l, l + 32, ... of a part of a row, and a tree adds the lanes. Here eight warps, an octet, share a
// part's 32 lanes: warp w has lanes 2w, 2w + 1, 2w + 16 and 2w + 17, for all 16 outputs and 8 rows.
//
// An octet streams its share of the weights through a ring in shared memory, a step of 32 groups of
// 16 rows at a time, row by row, so that loads are whole lines; `ldmatrix` gives every thread its
// bytes. Rings run on over the ends of parts and tiles.
#pragma once

#include "kernels/cuda/quant_rows.cuh"
#include "kernels/cuda/stream_many_parts.cuh"

namespace apud::cuda {

/// Columns of activations to shared memory, and their scales (kManyScales) in the form that the
/// weight type takes; columns beyond the last repeat it. Ends with a barrier.
template <WeightType F>
__device__ __forceinline__ void fetch_many(const StreamStage& p, uint8_t* columns, float* scales) {
  const int groups = p.x.groups;
  const size_t stride = many_stride(groups), row_bytes = QuantRows::row_bytes(groups);
  // A column a warp, or half of one.
  const int warp = threadIdx.x >> 5, m = warp % kOctet, lane = threadIdx.x & 31;
  if (m < p.columns) {
    const int jump = blockDim.x / kOctet, first = warp / kOctet * 32 + lane;
    const uint8_t* from = p.x.data + m * row_bytes + first * 16;
    uint8_t* to = columns + m * stride + first * 16;
#pragma unroll 4
    for (int c = first; c < 2 * groups; c += jump, from += jump * 16, to += jump * 16)
      copy_async16(to, from, true);
  }
  copy_commit();
#pragma unroll 4
  for (int i = threadIdx.x; i < (groups + 31) / 32 * 32 * StreamStage::kMaxColumns;
       i += blockDim.x) {
    const int g = i / StreamStage::kMaxColumns, m = i % StreamStage::kMaxColumns;
    float4 raw = {};
    if (g < groups)
      raw = ld_stream4(reinterpret_cast<const float*>(p.x.data + min(m, p.columns - 1) * row_bytes +
                                                      32 * groups + 16 * g));
    const ActivationScale s = activation_scale<F>(raw);
    float* to = scales + g * (3 * StreamStage::kMaxColumns) + m;
    to[0] = s.d[0];
    to[StreamStage::kMaxColumns] = s.d[1];
    to[2 * StreamStage::kMaxColumns] = __int_as_float(s.sum);
  }
  copy_wait<0>();
  __syncthreads();
}

/// Tiles (of many_outputs) first, first + jump, ... of the stage's segments of type F, of which
/// there are `tiles`.
template <WeightType F, ManyKind kKind>
__device__ __forceinline__ void many_body(const StreamStage& p, int first, int jump, int tiles,
                                          uint8_t* shared) {
  using S = ManySlot<F>;
  constexpr bool kPair = kKind == ManyKind::kPair;
  // A warp has its share of all matrices.
  constexpr int kMatrices = many_matrices(kKind), kOutputs = many_outputs(kKind),
                kSlot = kMatrices * S::kSize;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, w = warp % kOctet,
            octet = warp / kOctet, octets = p.octets;
  const int groups = p.x.groups, steps = (groups + 31) >> 5;
  const int parts = 1 << p.shift;  // of a row: octets share them out
  const size_t stride = many_stride(groups);
  float* scales = reinterpret_cast<float*>(shared + p.columns * stride);
  float* sums = scales + steps * 32 * (kManyScales / 4);
  float* factors = sums + octets * kMatrices * kOctet * 256;
  const uint32_t ring =
      shared_address(factors + StreamStage::kMaxColumns) + octet * (p.ring * kSlot);
  auto part_begin = [&](int part) { return steps * part >> p.shift; };
  auto segment_at = [&](int tile) { return kPair ? 0 : segment_of<F>(p, tile); };
  const PackedShape shape = p.segment[segment_at(first)].weight.shape;

  // What is loaded next.
  int load_tile = first, load_part = octet, load_step = part_begin(octet),
      load_end = part_begin(octet + 1);
  const int64_t second = kPair            ? p.segment[0].pair - p.segment[0].weight.data
                         : kMatrices == 2 ? kTileRows * shape.stride
                                          : 0;
  ManyPlane<F, plane_bytes(F).low> copy_low;
  ManyPlane<F, plane_bytes(F).high> copy_high;
  ManyPlane<F, plane_bytes(F).scale> copy_scale;
  const uint8_t* super_from = nullptr;
  const int super_row = static_cast<int>(threadIdx.x % (kOctet * 32)) - 128;
  auto set_rows = [&] {  // rows beyond the last repeat it
    constexpr PlaneBytes b = plane_bytes(F);
    const StreamSegment& s = p.segment[segment_at(load_tile)];
    const int row = (load_tile - s.first_tile) * kOutputs,
              last = min(kTileRows, s.weight.rows - row) - 1;
    const uint8_t* rows = s.weight.data + size_t{shape.stride} * row;
    copy_low.set(rows + load_step * (32 * b.low), last, shape.stride);
    if constexpr (b.high > 0)
      copy_high.set(rows + shape.high + load_step * (32 * b.high), last, shape.stride);
    copy_scale.set(rows + shape.scale + load_step * (32 * b.scale), last, shape.stride);
    if constexpr (b.super > 0)
      super_from =
          rows + min(super_row, last) * shape.stride + shape.super + load_step * (4 * b.super);
  };
  auto load = [&](uint32_t slot) {
    constexpr PlaneBytes b = plane_bytes(F);
    if (load_tile < tiles) {
      const int left = groups - load_step * 32;
      copy_low.template copy<kMatrices == 2>(slot, left, second);
      if constexpr (b.high > 0)
        copy_high.template copy<kMatrices == 2>(slot + S::kHighAt, left, second);
      copy_scale.template copy<kMatrices == 2>(slot + S::kScaleAt, left, second);
      if constexpr (b.super > 0)
        if (super_row >= 0 && super_row < kTileRows) {
          const uint32_t to = slot + S::kScaleAt + super_row * S::kScale + 64;
          copy_async_at<4 * b.super>(to, super_from, true);
          if constexpr (kMatrices == 2)
            copy_async_at<4 * b.super>(to + S::kSize, super_from + second, true);
          super_from += 4 * b.super;
        }
      if (++load_step == load_end) {
        load_part += octets;
        if (load_part >= parts) {
          load_part = octet;
          load_tile += jump;
        }
        load_step = part_begin(load_part);
        load_end = part_begin(load_part + 1);
        if (load_tile < tiles) set_rows();
      }
    }
    copy_commit();
  };
  set_rows();
#pragma unroll 1
  for (int i = 0; i + 1 < p.ring; ++i) load(ring + i * kSlot);

  // Octets take turns with the ends of tiles: a warp has a column, lane i and i + 16 output i of
  // either matrix.
  TileEnd<kPair, kOutputs> tile_end;
  bool finishes = false;
  auto out_at = [&](int tile) {
    const StreamSegment& s = p.segment[segment_at(tile)];
    return s.out + w * s.out_ld + tile_end.row;
  };
  auto constants = [&](int turn) {
    const int tile = first + turn * jump;
    finishes = (turn & (octets - 1)) == octet && w < p.columns;
    tile_end.row = -1;
    if (finishes) tile_end.ask(p, p.segment[segment_at(tile)], tile);
  };
  constants(0);
  grid_dependency_wait();

  NormSquares squares;
  const bool normed = p.normed && warp < p.columns;
  if (normed) squares.ask(p, warp);
  fetch_many<F>(p, shared, scales);
  if (normed) {
    const float factor = squares.factor(p, warp);
    if (lane == 0) factors[warp] = factor;
  }

  // Columns beyond the last repeat it; their sums are dropped. Matrices: halves of group g, of g+1.
  const int j = lane & 3;
  const uint32_t columns_at = shared_address(shared) + min(lane & 7, p.columns - 1) * stride +
                              ((lane >> 3) & 1) * 16 * groups + (2 * w + (lane >> 4)) * 16,
                 scales_at = shared_address(scales) + j * 8 + 2 * w * kManyScales;
  const typename ManyPair<F>::Offsets at_slot(w);
  // A sum of bytes added to the bits of 1.5 * 2^23 is that float plus the sum.
  constexpr int kMagicBits = 0x4b400000;
  constexpr float kMagic = 12582912.f;

  int at = 0;  // slot
  for (int turn = 0;; ++turn) {
    const int tile = first + turn * jump;
    if (tile >= tiles) return;
    if (turn > 0) constants(turn);
    if (!kPair && p.accumulate && tile_end.row >= 0) tile_end.residual = ld_stream(out_at(tile));
    float v = 0, u = 0;
#pragma unroll 1
    for (int round = 0; round < parts; round += octets) {
      float acc[kMatrices][4][4] = {};
      const int begin = part_begin(round + octet), end = part_begin(round + octet + 1);
#pragma unroll 1
      for (int step = begin; step < end; ++step) {
        const uint32_t slot = ring + at * kSlot;
        if (p.ring == 4)
          copy_wait<2>();
        else if (p.ring == 3)
          copy_wait<1>();
        else
          copy_wait<0>();
        octet_barrier(octet);  // this step has arrived, the one before has been read
        load(ring + (at == 0 ? p.ring - 1 : at - 1) * kSlot);
        if (++at == p.ring) at = 0;
          // Groups behind the last are zeros times anything.
#pragma unroll
        for (int two = 0; two < 2; ++two) {
          ManyPair<F> weights[kMatrices];
#pragma unroll
          for (int m = 0; m < kMatrices; ++m) weights[m].load(slot + m * S::kSize, at_slot, two, w);
          uint32_t x[4];  // group, half
          load_matrix4_at(x, columns_at + step * 512 + two * 256);
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const uint32_t scale_at =
                scales_at + step * (32 * kManyScales) + (two * 16 + k) * kManyScales;
            const uint2 d0 = load_shared8(scale_at),
                        d1 = load_shared8(scale_at + 4 * StreamStage::kMaxColumns);
            uint2 sum = {};
            if constexpr (sum_kind(F) != SumKind::kNone)
              sum = load_shared8(scale_at + 8 * StreamStage::kMaxColumns);
            const ActivationScale scale[2] = {
                {{__uint_as_float(d0.x), __uint_as_float(d1.x)}, static_cast<int>(sum.x), 0},
                {{__uint_as_float(d0.y), __uint_as_float(d1.y)}, static_cast<int>(sum.y), 0}};
#pragma unroll
            for (int m = 0; m < kMatrices; ++m) {
              const Affine affine[2] = {weights[m].affine(k, 0), weights[m].affine(k, 1)};
              int dot[2][4];
#pragma unroll
              for (int h = 0; h < 2; ++h) {
                int start[4] = {kMagicBits, kMagicBits, kMagicBits, kMagicBits};
                if constexpr (sum_kind(F) == SumKind::kSums16)
#pragma unroll
                  for (int c = 0; c < 2; ++c)
                    start[c] = start[c + 2] -=
                        affine[0].zero *
                        (h ? scale[c].sum >> 16 : static_cast<int16_t>(scale[c].sum & 0xffff));
                mma_bytes<F == WeightType::kQ8_0>(dot[h], weights[m].bytes(k, 0, h, j),
                                                  weights[m].bytes(k, 1, h, j), x[2 * k + h],
                                                  start);
              }
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                const float f[2] = {__fsub_rn(__int_as_float(dot[0][i]), kMagic),
                                    __fsub_rn(__int_as_float(dot[1][i]), kMagic)};
                float& to = acc[m][2 * two + k][i];
                to = add_scaled<F>(to, affine[i >> 1], f, scale[i & 1]);
              }
            }
          }
        }
      }

      // Octets pass as many barriers each, or racecheck loses count: parts differ by a step at
      // most.
      if (octets == 2) {
        const int other = round + (octet ^ 1);
        if (end - begin < part_begin(other + 1) - part_begin(other)) octet_barrier(octet);
      }
      __syncthreads();  // the sums before these have been read
      // Of warp w and lane l of its two: (l & 1, column, output), turned such that neither writers
      // nor readers share banks.
#pragma unroll
      for (int m = 0; m < kMatrices; ++m)
#pragma unroll
        for (int k = 0; k < 2; ++k)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            sums[((octet * kMatrices + m) * kOctet + w) * 256 + k * 128 + j * 32 +
                 ((16 * ((i & 1) ^ k) + 8 * (i >> 1) + (lane >> 2) + 8 * j) & 31)] =
                acc[m][k][i] + acc[m][2 + k][i];
      __syncthreads();
      if (!finishes) continue;
      for (int o = 0; o < octets; ++o) {
        const int k = lane >> 4, output = lane & 15;
#pragma unroll
        for (int m = 0; m < kMatrices; ++m) {
          const float* from = sums + (o * kMatrices + m) * kOctet * 256 + k * 128 + (w >> 1) * 32 +
                              ((16 * ((w & 1) ^ k) + output + 8 * (w >> 1)) & 31);
          float t[kOctet];
#pragma unroll
          for (int i = 0; i < kOctet; ++i) t[i] = from[i * 256];
#pragma unroll
          for (int n = kOctet / 2; n > 0; n >>= 1)
#pragma unroll
            for (int i = 0; i < n; ++i) t[i] += t[i + n];
          t[0] += __shfl_xor_sync(0xffffffffu, t[0], 16);
          float& to = m == 0 ? v : u;
          to = __fadd_rn(to, t[0]);
        }
      }
    }
    if (!finishes) continue;
    const float factor = p.normed ? factors[w] : 1.f;
    if (kKind == ManyKind::kTwoTiles && lane >= kTileRows) v = u;
    v = finished<kPair>(p, v, u, factor, tile_end);
    if (tile_end.row >= 0) *out_at(tile) = v;
    if (p.next.data) {
      if (tile_end.row < 0) v = 0;
      constexpr int kHalves = kOutputs / kTileRows;
      store_half(p.next, w, kHalves * tile + (kHalves > 1 ? lane >> 4 : 0), lane < kOutputs,
                 __fmul_rn(v, tile_end.norm_weight + p.next_offset), __fmul_rn(v, v));
    }
  }
}

/// Segments of type A or B, or one pair. PRECOND: p.octets * 256 threads, at most 512; at most a
/// block a tile; 3 to 8 columns; a ring of 2 to 4; many_shared bytes; of kTwoTiles all segments'
/// rows whole tiles.
template <WeightType A, WeightType B, ManyKind kKind>
__global__ void __launch_bounds__(2 * kOctet * 32)
    many_rows_kernel(const __grid_constant__ StreamStage p) {
  extern __shared__ __align__(16) uint8_t shared[];
  grid_dependency_trigger();
  const int block = blockIdx.x;
  if (A == B || block < p.blocks_a)
    many_body<A, kKind>(p, block, p.blocks_a, p.tiles_a, shared);
  else
    many_body<B, kKind>(p, block - p.blocks_a, p.blocks_b, p.tiles_b, shared);
}

template <ManyKind kKind>
StreamKernel many_kernel_for(WeightType a, WeightType b) {
  StreamKernel found = nullptr;
  if (a == b)
    with_type(a, [&]<WeightType F>() {
      if constexpr (!is_float_type(F)) found = many_rows_kernel<F, F, kKind>;
    });
  else
    with_mix(a, b, [&]<WeightType A, WeightType B>() { found = many_rows_kernel<A, B, kKind>; });
  return found;
}

}  // namespace apud::cuda
