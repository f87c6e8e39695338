#include "kernels/cuda/repack.h"

#include "kernels/cuda/unpack.cuh"

namespace apud::cuda {
namespace {

__device__ uint32_t u16_at(const uint8_t* p) { return p[0] | (uint32_t{p[1]} << 8); }

/// 6-bit scale and min of group j of a Q4_K / Q5_K block (GGML's packing of 12 bytes).
__device__ uint32_t k4_scale_min(const uint8_t* s, int j) {
  uint32_t scale, min;
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
    min = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
  }
  return scale | (min << 8);
}
/// Signed 6-bit scale i of a Q3_K block.
__device__ int k3_scale(const uint8_t* s, int i) {
  int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
  int high = (s[8 + i % 4] >> (2 * (i / 4))) & 3;
  return (low | (high << 4)) - 32;
}

/// A group taken apart: 32 stored integers and the scale words of the packed layout.
struct RawGroup {
  uint8_t q[32];
  uint32_t scale, super;
};

template <WeightType F>
__device__ RawGroup read_group(const uint8_t* row, int g) {
  RawGroup r;
  r.scale = r.super = 0;
  if constexpr (F == WeightType::kQ4_0 || F == WeightType::kQ4_1) {
    constexpr int kScale = F == WeightType::kQ4_0 ? 2 : 4;
    const uint8_t* b = row + g * (16 + kScale);
    r.scale = u16_at(b) | (kScale == 4 ? u16_at(b + 2) << 16 : 0);
    for (int v = 0; v < 32; ++v) r.q[v] = (b[kScale + v % 16] >> (v < 16 ? 0 : 4)) & 15;
  } else if constexpr (F == WeightType::kQ5_0 || F == WeightType::kQ5_1) {
    constexpr int kScale = F == WeightType::kQ5_0 ? 2 : 4;
    const uint8_t* b = row + g * (20 + kScale);
    r.scale = u16_at(b) | (kScale == 4 ? u16_at(b + 2) << 16 : 0);
    const uint8_t* high = b + kScale;
    for (int v = 0; v < 32; ++v)
      r.q[v] = ((b[kScale + 4 + v % 16] >> (v < 16 ? 0 : 4)) & 15) |
               (((high[v / 8] >> (v % 8)) & 1) << 4);
  } else if constexpr (F == WeightType::kQ8_0) {
    const uint8_t* b = row + g * 34;
    r.scale = u16_at(b);
    for (int v = 0; v < 32; ++v) r.q[v] = b[2 + v];
  } else {
    int in = g % 8, n = in / 4, k = in % 4;  // 32 values: quarter k of half n of the block
    if constexpr (F == WeightType::kQ2_K) {
      const uint8_t* b = row + (g / 8) * 84;
      r.super = u16_at(b + 80) | (u16_at(b + 82) << 16);
      r.scale = b[2 * in] | (uint32_t{b[2 * in + 1]} << 8);
      for (int v = 0; v < 32; ++v) r.q[v] = (b[16 + 32 * n + v] >> (2 * k)) & 3;
    } else if constexpr (F == WeightType::kQ3_K) {
      const uint8_t* b = row + (g / 8) * 110;
      r.super = u16_at(b + 108);
      uint32_t s0 = static_cast<uint8_t>(k3_scale(b + 96, 2 * in));
      uint32_t s1 = static_cast<uint8_t>(k3_scale(b + 96, 2 * in + 1));
      r.scale = s0 | (s1 << 8);
      for (int v = 0; v < 32; ++v)
        r.q[v] = ((b[32 + 32 * n + v] >> (2 * k)) & 3) | (((b[v] >> in) & 1) << 2);
    } else if constexpr (F == WeightType::kQ4_K || F == WeightType::kQ5_K) {
      constexpr bool k5 = F == WeightType::kQ5_K;
      const uint8_t* b = row + (g / 8) * (k5 ? 176 : 144);
      r.super = u16_at(b) | (u16_at(b + 2) << 16);
      r.scale = k4_scale_min(b + 4, in);
      const uint8_t* qs = b + (k5 ? 48 : 16) + 32 * (in / 2);
      for (int v = 0; v < 32; ++v) {
        r.q[v] = (qs[v] >> (4 * (in % 2))) & 15;
        if (k5) r.q[v] |= ((b[16 + v] >> in) & 1) << 4;
      }
    } else {
      static_assert(F == WeightType::kQ6_K);
      const uint8_t* b = row + (g / 8) * 210;
      r.super = u16_at(b + 208);
      r.scale = b[192 + 2 * in] | (uint32_t{b[192 + 2 * in + 1]} << 8);
      for (int v = 0; v < 32; ++v) {
        uint32_t low = (b[64 * n + 32 * (k % 2) + v] >> (4 * (k / 2))) & 15;
        r.q[v] = low | (((b[128 + 32 * n + v] >> (2 * k)) & 3) << 4);
      }
    }
  }
  return r;
}

template <WeightType F>
__device__ void write_group(uint8_t* row, const PackedShape& p, int g, const RawGroup& r) {
  constexpr PlaneBytes b = plane_bytes(F);
  uint32_t low[4] = {0, 0, 0, 0}, high[4] = {0, 0, 0, 0};
  for (int h = 0; h < 2; ++h)
    for (int w = 0; w < 4; ++w)
      for (int j = 0; j < 4; ++j) {
        uint32_t q = r.q[16 * h + 4 * w + j];
        if constexpr (F == WeightType::kQ8_0) {
          (h ? high : low)[w] |= q << (8 * j);
        } else if constexpr (b.low == 8) {
          low[h] |= (q & 3) << (8 * j + 2 * w);
          if constexpr (b.high == 4) high[0] |= (q >> 2) << (8 * j + 2 * w + h);
        } else {
          low[w] |= (q & 15) << (8 * j + 4 * h);
          if constexpr (b.high == 4) high[0] |= (q >> 4) << (8 * j + 2 * w + h);
          if constexpr (b.high == 8) high[h] |= (q >> 4) << (8 * j + 2 * w);
        }
      }
  for (int i = 0; i < b.low / 4; ++i) reinterpret_cast<uint32_t*>(row + g * b.low)[i] = low[i];
  for (int i = 0; i < b.high / 4; ++i)
    reinterpret_cast<uint32_t*>(row + p.high + g * b.high)[i] = high[i];
  if constexpr (b.scale == 2)
    *reinterpret_cast<uint16_t*>(row + p.scale + g * 2) = static_cast<uint16_t>(r.scale);
  else
    *reinterpret_cast<uint32_t*>(row + p.scale + g * 4) = r.scale;
  if (g % 8 == 0) {
    if constexpr (b.super == 2)
      *reinterpret_cast<uint16_t*>(row + p.super + (g / 8) * 2) = static_cast<uint16_t>(r.super);
    if constexpr (b.super == 4) *reinterpret_cast<uint32_t*>(row + p.super + (g / 8) * 4) = r.super;
  }
}

__device__ int64_t logical_row(const RepackJob& job, int stored) {
  if (job.order == RowOrder::kPlain) return stored;
  int head = stored / job.head_dim, in = stored % job.head_dim, half = job.head_dim / 2;
  return int64_t{head} * job.head_dim + (in % 2 == 0 ? in / 2 : half + in / 2);
}

/// One thread per group.
template <WeightType F>
__global__ void repack_kernel(RepackJob job, size_t raw_row_bytes) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{job.rows} * job.shape.groups) return;
  int r = static_cast<int>(i / job.shape.groups), g = static_cast<int>(i % job.shape.groups);
  const uint8_t* from = job.raw + r * raw_row_bytes;
  uint8_t* to = job.to + logical_row(job, job.first_row + r) * job.shape.stride;
  if constexpr (is_float_type(F)) {
    constexpr int kSize = F == WeightType::kF32 ? 4 : 2;
    for (int v = 0; v < 8; ++v) {
      int c = g * 8 + v;
      uint8_t* at = kSize == 2 ? to + g * 16 + v * 2
                               : to + (v < 4 ? 0 : job.shape.high) + g * 16 + (v % 4) * 4;
      for (int k = 0; k < kSize; ++k) at[k] = c < job.cols ? from[int64_t{c} * kSize + k] : 0;
    }
  } else {
    RawGroup raw = read_group<F>(from, g);
    write_group<F>(to, job.shape, g, raw);
    if (g + 1 == job.shape.groups) {
      // What fills planes up to 16 bytes is zeros: who reads many groups at once takes it in.
      constexpr PlaneBytes b = plane_bytes(F);
      const PackedShape& p = job.shape;
      auto clear = [&](uint32_t begin, uint32_t end) {
        for (uint32_t at = begin; at < end; ++at) to[at] = 0;
      };
      clear(p.groups * b.low, p.high);
      clear(p.high + p.groups * b.high, p.scale);
      clear(p.scale + p.groups * b.scale, p.super);
      clear(p.super + (p.groups + 7) / 8 * b.super, p.stride);
    }
  }
}

template <WeightType F, typename T>
__global__ void unpack_kernel(PackedMatrix m, int first, int rows, T* out, int64_t ld) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{rows} * m.shape.groups) return;
  int r = static_cast<int>(i / m.shape.groups), g = static_cast<int>(i % m.shape.groups);
  const uint8_t* row = m.data + int64_t{first + r} * m.shape.stride;
  constexpr int kGroup = plane_bytes(F).group;
  Group group = load_group<F>(row, m.shape, g);
  T* to = out + r * ld + int64_t{g} * kGroup;
  if constexpr (sizeof(T) == 2) {
    if (((ld * 2) % 16 == 0) && (g + 1) * kGroup <= m.cols) {
      uint32_t words[kGroup / 2];
      float even = 0;
      group_values<F>(group, [&](int v, float x) {
        if (v % 2 == 0)
          even = x;
        else
          words[v / 2] = pack2<T>(even, x);
      });
#pragma unroll
      for (int k = 0; k < kGroup / 8; ++k)
        reinterpret_cast<uint4*>(to)[k] =
            make_uint4(words[4 * k], words[4 * k + 1], words[4 * k + 2], words[4 * k + 3]);
      return;
    }
    group_values<F>(group, [&](int v, float x) {
      if (g * kGroup + v < m.cols) to[v] = to_h16<T>(x);
    });
  } else {
    group_values<F>(group, [&](int v, float x) {
      if (g * kGroup + v < m.cols) to[v] = x;
    });
  }
}

template <typename T>
void unpack(const PackedMatrix& m, int first, int rows, T* out, int64_t ld, cudaStream_t stream) {
  int64_t groups = int64_t{rows} * m.shape.groups;
  with_type(m.type, [&]<WeightType F>() {
    unpack_kernel<F, T><<<ceil_div(groups, 256), 256, 0, stream>>>(m, first, rows, out, ld);
  });
  check_launch("unpack");
}

}  // namespace

void repack(const RepackJob& job, cudaStream_t stream) {
  int64_t groups = int64_t{job.rows} * job.shape.groups;
  size_t raw = row_bytes(job.type, job.cols);
  with_type(job.type, [&]<WeightType F>() {
    repack_kernel<F><<<ceil_div(groups, 128), 128, 0, stream>>>(job, raw);
  });
  check_launch("repack");
}

void unpack_h16(const PackedMatrix& m, int first, int rows, Half16 type, void* out, int64_t ld,
                cudaStream_t stream) {
  if (type == Half16::kFp16)
    unpack(m, first, rows, static_cast<__half*>(out), ld, stream);
  else
    unpack(m, first, rows, static_cast<__nv_bfloat16*>(out), ld, stream);
}

void unpack_f32(const PackedMatrix& m, int first, int rows, float* out, int64_t ld,
                cudaStream_t stream) {
  unpack(m, first, rows, out, ld, stream);
}

}  // namespace apud::cuda
