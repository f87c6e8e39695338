#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/unpack.cuh"

namespace apud::cuda {
namespace {

// Through L2, as ld_stream.
__device__ __forceinline__ uint2 ld_stream8(const void* p) {
  uint2 v;
  asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
  return v;
}
template <typename H>
__device__ __forceinline__ H ld_stream_half(const H* p) {
  uint16_t bits;
  asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(bits) : "l"(p) : "memory");
  H v;
  memcpy(&v, &bits, 2);
  return v;
}

template <typename H>
__device__ float matrix_at(const Matrix& m, int64_t i) {
  return m.half16 ? to_float(ld_stream_half(static_cast<const H*>(m.data) + i))
                  : ld_stream(static_cast<const float*>(m.data) + i);
}
template <typename H>
__device__ void set_matrix(const Matrix& m, int64_t i, float v) {
  if (m.half16)
    static_cast<H*>(m.data)[i] = to_h16<H>(v);
  else
    static_cast<float*>(m.data)[i] = v;
}

/// One thread per group of a row.
template <WeightType F, typename H>
__global__ void embed_kernel(const __grid_constant__ EmbedArgs a) {
  grid_dependency_trigger();
  grid_dependency_wait();
  const PackedShape& shape = a.table[0].matrix.shape;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int row = i / shape.groups, g = i % shape.groups;
  if (row >= a.rows) return;
  constexpr int kGroup = plane_bytes(F).group;
  float v[kGroup] = {};
#pragma unroll
  for (int k = 0; k < kEmbedTables; ++k) {
    if (k >= a.tables) break;
    const EmbedTable& t = a.table[k];
    const int index = t.index == IndexSource::kToken      ? a.batch.tokens[row]
                      : t.index == IndexSource::kPosition ? a.batch.positions[row]
                                                          : 0;
    const uint8_t* from = t.matrix.data + int64_t{index + t.offset} * t.matrix.shape.stride;
    group_values<F>(load_group<F>(from, t.matrix.shape, g),
                    [&](int i, float x) { v[i] = fmaf(x, t.scale, v[i]); });
  }
  const int cols = a.table[0].matrix.cols, c0 = g * kGroup;
  const int64_t to = row * a.out.ld + c0;
  const bool whole = c0 + kGroup <= cols;
  if (whole && !a.accumulate && !a.out.half16 && a.out.ld % 4 == 0) {
    float4* out = reinterpret_cast<float4*>(static_cast<float*>(a.out.data) + to);
#pragma unroll
    for (int i = 0; i < kGroup / 4; ++i)
      out[i] = make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
    return;
  }
  if (whole && a.out.half16 && kGroup % 8 == 0 && a.out.ld % 8 == 0) {
    H* out = static_cast<H*>(a.out.data) + to;
#pragma unroll
    for (int i = 0; i < kGroup; i += 8) {
      uint4* at = reinterpret_cast<uint4*>(out + i);
      if (a.accumulate) {
        const float4 old = ld_stream4(reinterpret_cast<const float*>(at));
        H h[8];
        memcpy(h, &old, 16);
#pragma unroll
        for (int k = 0; k < 8; ++k) v[i + k] += to_float(h[k]);
      }
      *at = make_uint4(pack2<H>(v[i], v[i + 1]), pack2<H>(v[i + 2], v[i + 3]),
                       pack2<H>(v[i + 4], v[i + 5]), pack2<H>(v[i + 6], v[i + 7]));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kGroup; ++i)
    if (c0 + i < cols)
      set_matrix<H>(a.out, to + i, a.accumulate ? matrix_at<H>(a.out, to + i) + v[i] : v[i]);
}

/// Values 4c .. 4c+3 of a row.
template <typename H>
__device__ __forceinline__ float4 load_quad(const Matrix& m, int64_t row, int c) {
  if (!m.half16) return ld_stream4(static_cast<const float*>(m.data) + row * m.ld + 4 * c);
  const uint2 bits = ld_stream8(static_cast<const H*>(m.data) + row * m.ld + 4 * c);
  H h[4];
  memcpy(h, &bits, 8);
  return make_float4(to_float(h[0]), to_float(h[1]), to_float(h[2]), to_float(h[3]));
}
template <typename H>
__device__ __forceinline__ void norm_out(const NormArgs& a, int64_t row, int c, const float4& v) {
  if (a.out) *reinterpret_cast<float4*>(a.out + row * a.out_ld + 4 * c) = v;
  if (a.half_out) {
    uint2 packed = make_uint2(pack2<H>(v.x, v.y), pack2<H>(v.z, v.w));
    *reinterpret_cast<uint2*>(static_cast<H*>(a.half_out) + row * a.half_ld + 4 * c) = packed;
  }
  if (a.add_to) {
    float4* to = reinterpret_cast<float4*>(a.add_to + row * a.add_ld + 4 * c);
    const float4 old = ld_stream4(&to->x);
    *to = make_float4(old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w);
  }
}

/// A row by one warp (narrow rows, eight a block) or by the block; its values stay in registers.
/// PRECOND: cols % 4 == 0 and cols / 4 <= kQuads times the threads of a row.
template <typename H, bool kWarp, int kQuads>
__global__ void norm_kernel(const __grid_constant__ NormArgs a) {
  __shared__ float scratch[33];
  grid_dependency_trigger();
  grid_dependency_wait();
  const int64_t row = kWarp ? int64_t{blockIdx.x} * 8 + (threadIdx.x >> 5) : int64_t{blockIdx.x};
  if (kWarp && row >= a.rows) return;
  const int thread = kWarp ? threadIdx.x & 31 : threadIdx.x, step = kWarp ? 32 : blockDim.x;
  const int quads = a.cols / 4;
  auto all_sum = [&](float v) {
    if constexpr (kWarp)
      return warp_sum(v);
    else
      return block_sum(v, scratch);
  };
  float4 v[kQuads];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int c = thread + i * step;
    v[i] = make_float4(0, 0, 0, 0);
    if (c < quads) v[i] = load_quad<H>(a.x, row, c);
  }
  if (a.branch.data) {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int c = thread + i * step;
      if (c >= quads) continue;
      const float4 b = load_quad<H>(a.branch, row, c);
      v[i] = make_float4(v[i].x + b.x, v[i].y + b.y, v[i].z + b.z, v[i].w + b.w);
    }
  }
  float mean = 0;
  if (a.kind == NormKind::kLayer) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) sum += (v[i].x + v[i].y) + (v[i].z + v[i].w);
    mean = all_sum(sum) / static_cast<float>(a.cols);
#pragma unroll
    for (int i = 0; i < kQuads; ++i)
      if (thread + i * step < quads)
        v[i] = make_float4(v[i].x - mean, v[i].y - mean, v[i].z - mean, v[i].w - mean);
  }
  float ss = 0;
#pragma unroll
  for (int i = 0; i < kQuads; ++i)
    ss += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
  const float factor = rsqrtf(all_sum(ss) / static_cast<float>(a.cols) + a.eps);
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int c = thread + i * step;
    if (c >= quads) continue;
    const float4 w = *reinterpret_cast<const float4*>(a.weight + 4 * c);
    float4 b = make_float4(0, 0, 0, 0);
    if (a.bias) b = *reinterpret_cast<const float4*>(a.bias + 4 * c);
    norm_out<H>(a, row, c,
                make_float4(v[i].x * factor * (w.x + a.offset) + b.x,
                            v[i].y * factor * (w.y + a.offset) + b.y,
                            v[i].z * factor * (w.z + a.offset) + b.z,
                            v[i].w * factor * (w.w + a.offset) + b.w));
  }
}

/// Rows of any width, a value at a time, one block a row.
template <typename H>
__global__ void norm_any_kernel(const __grid_constant__ NormArgs a) {
  __shared__ float scratch[33];
  grid_dependency_trigger();
  grid_dependency_wait();
  const int64_t row = blockIdx.x;
  auto value = [&](int c) {
    float v = matrix_at<H>(a.x, row * a.x.ld + c);
    return a.branch.data ? v + matrix_at<H>(a.branch, row * a.branch.ld + c) : v;
  };
  float mean = 0;
  if (a.kind == NormKind::kLayer) {
    float sum = 0;
    for (int c = threadIdx.x; c < a.cols; c += blockDim.x) sum += value(c);
    mean = block_sum(sum, scratch) / static_cast<float>(a.cols);
  }
  float ss = 0;
  for (int c = threadIdx.x; c < a.cols; c += blockDim.x) {
    const float v = value(c) - mean;
    ss += v * v;
  }
  const float factor = rsqrtf(block_sum(ss, scratch) / static_cast<float>(a.cols) + a.eps);
  for (int c = threadIdx.x; c < a.cols; c += blockDim.x) {
    float v = (value(c) - mean) * factor * (a.weight[c] + a.offset);
    if (a.bias) v += a.bias[c];
    if (a.out) a.out[row * a.out_ld + c] = v;
    if (a.half_out) static_cast<H*>(a.half_out)[row * a.half_ld + c] = to_h16<H>(v);
    if (a.add_to) {
      float* const to = a.add_to + row * a.add_ld + c;
      *to = ld_stream(to) + v;
    }
  }
}

template <typename H>
__global__ void activation_kernel(Matrix gate, Matrix up, Matrix out, Activation kind, int rows,
                                  int cols) {
  grid_dependency_trigger();
  grid_dependency_wait();
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{rows} * cols) return;
  int64_t r = i / cols, c = i % cols;
  float v = activate(kind, matrix_at<H>(gate, r * gate.ld + c));
  if (up.data) v *= matrix_at<H>(up, r * up.ld + c);
  set_matrix<H>(out, r * out.ld + c, v);
}

/// All 16-bit, 8 values a thread; cols and leading dimensions multiples of 8.
template <typename H, Activation kKind>
__global__ void activation8_kernel(const H* gate, int64_t gate_ld, const H* up, int64_t up_ld,
                                   H* out, int64_t out_ld, int rows, int chunks) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;  // rows * chunks < 2^31
  if (i >= static_cast<uint32_t>(rows * chunks)) return;
  const int64_t r = i / static_cast<uint32_t>(chunks), c = i % static_cast<uint32_t>(chunks) * 8;
  uint4 g4 = *reinterpret_cast<const uint4*>(gate + r * gate_ld + c), u4 = make_uint4(0, 0, 0, 0);
  if (up) u4 = *reinterpret_cast<const uint4*>(up + r * up_ld + c);
  uint32_t words[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t gw = word(g4, k), uw = word(u4, k);
    H g[2], u[2];
    memcpy(g, &gw, 4);
    memcpy(u, &uw, 4);
    float a = activate(kKind, to_float(g[0])), b = activate(kKind, to_float(g[1]));
    if (up) {
      a *= to_float(u[0]);
      b *= to_float(u[1]);
    }
    words[k] = pack2<H>(a, b);
  }
  *reinterpret_cast<uint4*>(out + r * out_ld + c) =
      make_uint4(words[0], words[1], words[2], words[3]);
}

template <typename A, typename B>
__global__ void convert_kernel(const A* x, int64_t x_ld, B* out, int64_t out_ld, int rows,
                               int cols) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{rows} * cols) return;
  int64_t r = i / cols, c = i % cols;
  if constexpr (sizeof(B) == 2)
    out[r * out_ld + c] = to_h16<B>(x[r * x_ld + c]);
  else
    out[r * out_ld + c] = to_float(x[r * x_ld + c]);
}

__global__ void add_kernel(const float* x, int64_t x_ld, float* out, int64_t out_ld, int rows,
                           int cols) {
  grid_dependency_trigger();
  grid_dependency_wait();
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{rows} * cols) return;
  int64_t r = i / cols, c = i % cols;
  float* const to = out + r * out_ld + c;
  *to = ld_stream(to) + ld_stream(x + r * x_ld + c);
}

__global__ void select_kernel(const float* x, int64_t x_ld, float* out, int64_t out_ld, int first,
                              int cols, BatchView batch) {
  grid_dependency_trigger();
  grid_dependency_wait();
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= cols) return;
  out[blockIdx.y * out_ld + c] = ld_stream(x + batch.output_rows[first + blockIdx.y] * x_ld + c);
}

template <typename H>
__global__ void pool_kernel(Matrix x, float* out, int64_t out_ld, PoolKind kind, int cols,
                            BatchView batch) {
  grid_dependency_trigger();
  grid_dependency_wait();
  int c = blockIdx.y * blockDim.x + threadIdx.x, s = blockIdx.x;
  if (c >= cols) return;
  int first = batch.first[s], count = batch.count[s];
  float v = 0;
  if (kind == PoolKind::kMean) {
    auto sum = [&](auto at) {
      constexpr int kAhead = 8;
      int t = 0;
      for (; t + kAhead <= count; t += kAhead) {
        float values[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) values[i] = at(int64_t{first + t + i} * x.ld + c);
#pragma unroll
        for (int i = 0; i < kAhead; ++i) v += values[i];
      }
      for (; t < count; ++t) v += at(int64_t{first + t} * x.ld + c);
    };
    if (x.half16)
      sum([&](int64_t i) { return to_float(ld_stream_half(static_cast<const H*>(x.data) + i)); });
    else
      sum([&](int64_t i) { return ld_stream(static_cast<const float*>(x.data) + i); });
    v /= static_cast<float>(count);
  } else {
    v = matrix_at<H>(x, int64_t{kind == PoolKind::kFirst ? first : first + count - 1} * x.ld + c);
  }
  out[s * out_ld + c] = v;
}

__global__ void softcap_kernel(float* x, int64_t ld, float cap, int rows, int cols) {
  grid_dependency_trigger();
  grid_dependency_wait();
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{rows} * cols) return;
  float* at = x + i / cols * ld + i % cols;
  *at = soft_cap(ld_stream(at), cap);
}

__global__ void l2_kernel(float* x, int64_t ld, int cols) {
  __shared__ float scratch[33];
  grid_dependency_trigger();
  grid_dependency_wait();
  float* row = x + blockIdx.x * ld;
  float ss = 0;
  for (int c = threadIdx.x; c < cols; c += blockDim.x) {
    const float v = ld_stream(row + c);
    ss += v * v;
  }
  ss = block_sum(ss, scratch);
  float factor = ss > 0 ? 1.f / sqrtf(ss) : 0.f;
  for (int c = threadIdx.x; c < cols; c += blockDim.x) row[c] *= factor;
}

int blocks(int64_t n) { return ceil_div(n, 256); }

}  // namespace

void embed(const EmbedArgs& a, const Launch& where) {
  dim3 grid(ceil_div(int64_t{a.rows} * a.table[0].matrix.shape.groups, 128));
  with_type(a.type, [&]<WeightType F>() {
    if (a.half16 == Half16::kFp16)
      launch(where, embed_kernel<F, __half>, grid, dim3(128), 0, a);
    else
      launch(where, embed_kernel<F, __nv_bfloat16>, grid, dim3(128), 0, a);
  });
}

void norm(const NormArgs& a, const Launch& where) {
  auto wide = [](const void* p, int64_t ld, int bytes) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0 && ld % 4 == 0;
  };
  const bool quads = a.cols % 4 == 0 && a.cols <= 16 * 512 && wide(a.x.data, a.x.ld, 16) &&
                     wide(a.branch.data, a.branch.ld, 16) && wide(a.out, a.out_ld, 16) &&
                     wide(a.half_out, a.half_ld, 8) && wide(a.add_to, a.add_ld, 16) &&
                     wide(a.weight, 0, 16) && wide(a.bias, 0, 16);
  auto run = [&]<typename H>() {
    if (!quads)
      launch(where, norm_any_kernel<H>, dim3(a.rows), dim3(512), 0, a);
    else if (a.cols <= 384)
      launch(where, norm_kernel<H, true, 3>, dim3(ceil_div(a.rows, 8)), dim3(256), 0, a);
    else if (a.cols <= 1024)
      launch(where, norm_kernel<H, true, 8>, dim3(ceil_div(a.rows, 8)), dim3(256), 0, a);
    else if (a.cols <= 2048)
      launch(where, norm_kernel<H, false, 2>, dim3(a.rows), dim3(256), 0, a);
    else if (a.cols <= 4096)
      launch(where, norm_kernel<H, false, 4>, dim3(a.rows), dim3(256), 0, a);
    else
      launch(where, norm_kernel<H, false, 4>, dim3(a.rows), dim3(512), 0, a);
  };
  if (a.half16 == Half16::kFp16)
    run.template operator()<__half>();
  else
    run.template operator()<__nv_bfloat16>();
}

void activation(Matrix gate, Matrix up, Matrix out, Activation kind, int rows, int cols,
                Half16 half16, const Launch& where) {
  auto run = [&]<typename H>() {
    bool wide = gate.half16 && out.half16 && (!up.data || up.half16) && cols % 8 == 0 &&
                gate.ld % 8 == 0 && up.ld % 8 == 0 && out.ld % 8 == 0 &&
                int64_t{rows} * cols / 8 < (int64_t{1} << 31);
    if (wide) {
      auto kernel = kind == Activation::kSilu       ? activation8_kernel<H, Activation::kSilu>
                    : kind == Activation::kGeluTanh ? activation8_kernel<H, Activation::kGeluTanh>
                                                    : activation8_kernel<H, Activation::kGeluErf>;
      kernel<<<blocks(int64_t{rows} * cols / 8), 256, 0, where.stream>>>(
          static_cast<const H*>(gate.data), gate.ld, static_cast<const H*>(up.data), up.ld,
          static_cast<H*>(out.data), out.ld, rows, cols / 8);
      check_launch("activation");
    } else {
      launch(where, activation_kernel<H>, dim3(blocks(int64_t{rows} * cols)), dim3(256), 0, gate,
             up, out, kind, rows, cols);
    }
  };
  if (half16 == Half16::kFp16)
    run.template operator()<__half>();
  else
    run.template operator()<__nv_bfloat16>();
}

void convert(const float* x, int64_t x_ld, void* out, int64_t out_ld, int rows, int cols,
             Half16 half16, const Launch& where) {
  int n = blocks(int64_t{rows} * cols);
  if (half16 == Half16::kFp16)
    convert_kernel<<<n, 256, 0, where.stream>>>(x, x_ld, static_cast<__half*>(out), out_ld, rows,
                                                cols);
  else
    convert_kernel<<<n, 256, 0, where.stream>>>(x, x_ld, static_cast<__nv_bfloat16*>(out), out_ld,
                                                rows, cols);
  check_launch("convert");
}

void widen(const void* x, int64_t x_ld, float* out, int64_t out_ld, int rows, int cols,
           Half16 half16, const Launch& where) {
  int n = blocks(int64_t{rows} * cols);
  if (half16 == Half16::kFp16)
    convert_kernel<<<n, 256, 0, where.stream>>>(static_cast<const __half*>(x), x_ld, out, out_ld,
                                                rows, cols);
  else
    convert_kernel<<<n, 256, 0, where.stream>>>(static_cast<const __nv_bfloat16*>(x), x_ld, out,
                                                out_ld, rows, cols);
  check_launch("widen");
}

void add(const float* x, int64_t x_ld, float* out, int64_t out_ld, int rows, int cols,
         const Launch& where) {
  launch(where, add_kernel, dim3(blocks(int64_t{rows} * cols)), dim3(256), 0, x, x_ld, out, out_ld,
         rows, cols);
}

void select_rows(const float* x, int64_t x_ld, float* out, int64_t out_ld, int first, int rows,
                 int cols, const BatchView& batch, const Launch& where) {
  launch(where, select_kernel, dim3(blocks(cols), rows), dim3(256), 0, x, x_ld, out, out_ld, first,
         cols, batch);
}

void pool(const Matrix& x, Half16 half16, float* out, int64_t out_ld, PoolKind kind, int sequences,
          int cols, const BatchView& batch, const Launch& where) {
  dim3 grid(sequences, ceil_div(cols, 128));
  auto kernel = half16 == Half16::kFp16 ? pool_kernel<__half> : pool_kernel<__nv_bfloat16>;
  launch(where, kernel, grid, dim3(128), 0, x, out, out_ld, kind, cols, batch);
}

void softcap(float* x, int64_t ld, float cap, int rows, int cols, const Launch& where) {
  launch(where, softcap_kernel, dim3(blocks(int64_t{rows} * cols)), dim3(256), 0, x, ld, cap, rows,
         cols);
}

void l2_normalize(float* x, int64_t ld, int rows, int cols, const Launch& where) {
  launch(where, l2_kernel, dim3(rows), dim3(256), 0, x, ld, cols);
}

}  // namespace apud::cuda
