#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/unpack.cuh"

namespace apud::cuda {
namespace {

/// Grid (rows, group blocks); one thread per group of the table's row.
template <WeightType F>
__global__ void embed_kernel(const __grid_constant__ EmbedArgs a) {
  grid_dependency_trigger();
  grid_dependency_wait();
  int g = blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
  if (g >= a.table.shape.groups) return;
  int index = a.index == IndexSource::kToken      ? a.batch.tokens[row]
              : a.index == IndexSource::kPosition ? a.batch.positions[row]
                                                  : 0;
  const uint8_t* from = a.table.data + int64_t{index + a.offset} * a.table.shape.stride;
  float* to = a.out + row * a.ld;
  constexpr int kGroup = plane_bytes(F).group;
  group_values<F>(load_group<F>(from, a.table.shape, g), [&](int i, float v) {
    int c = g * kGroup + i;
    if (c < a.table.cols) to[c] = a.accumulate ? to[c] + v * a.scale : v * a.scale;
  });
}

/// One block per row. Sums in float over at most a few thousand values a row, two passes.
template <typename H>
__global__ void norm_kernel(const __grid_constant__ NormArgs a) {
  __shared__ float scratch[33];
  grid_dependency_trigger();
  grid_dependency_wait();
  int64_t row = blockIdx.x;
  const float* x = a.x + row * a.x_ld;
  float mean = 0;
  if (a.kind == NormKind::kLayer) {
    float sum = 0;
    for (int c = threadIdx.x; c < a.cols; c += blockDim.x) sum += ld_stream(x + c);
    mean = block_sum(sum, scratch) / static_cast<float>(a.cols);
  }
  float ss = 0;
  const int quads = a.cols / 4;
  for (int c = threadIdx.x; c < quads; c += blockDim.x) {
    float4 v = ld_stream4(x + 4 * c);
    v.x -= mean;
    v.y -= mean;
    v.z -= mean;
    v.w -= mean;
    ss += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  for (int c = 4 * quads + threadIdx.x; c < a.cols; c += blockDim.x) {
    float v = ld_stream(x + c) - mean;
    ss += v * v;
  }
  ss = block_sum(ss, scratch);
  float factor = rsqrtf(ss / static_cast<float>(a.cols) + a.eps);
  auto at = [&](int c, float v) {
    float y = (v - mean) * factor * (a.weight[c] + a.offset);
    return a.bias ? y + a.bias[c] : y;
  };
  for (int c = threadIdx.x; c < quads; c += blockDim.x) {
    float4 v = ld_stream4(x + 4 * c);
    v.x = at(4 * c, v.x);
    v.y = at(4 * c + 1, v.y);
    v.z = at(4 * c + 2, v.z);
    v.w = at(4 * c + 3, v.w);
    if (a.out) *reinterpret_cast<float4*>(a.out + row * a.out_ld + 4 * c) = v;
    if (a.half_out) {
      uint2 packed = make_uint2(pack2<H>(v.x, v.y), pack2<H>(v.z, v.w));
      *reinterpret_cast<uint2*>(static_cast<H*>(a.half_out) + row * a.half_ld + 4 * c) = packed;
    }
    if (a.add_to) {
      float4* to = reinterpret_cast<float4*>(a.add_to + row * a.add_ld + 4 * c);
      float4 old = *to;
      *to = make_float4(old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w);
    }
  }
  for (int c = 4 * quads + threadIdx.x; c < a.cols; c += blockDim.x) {
    float v = at(c, ld_stream(x + c));
    if (a.out) a.out[row * a.out_ld + c] = v;
    if (a.half_out) static_cast<H*>(a.half_out)[row * a.half_ld + c] = to_h16<H>(v);
    if (a.add_to) a.add_to[row * a.add_ld + c] += v;
  }
}

template <typename H>
__device__ float matrix_at(const Matrix& m, int64_t i) {
  return m.half16 ? to_float(static_cast<const H*>(m.data)[i])
                  : static_cast<const float*>(m.data)[i];
}
template <typename H>
__device__ void set_matrix(const Matrix& m, int64_t i, float v) {
  if (m.half16)
    static_cast<H*>(m.data)[i] = to_h16<H>(v);
  else
    static_cast<float*>(m.data)[i] = v;
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
template <typename H>
__global__ void activation8_kernel(const H* gate, int64_t gate_ld, const H* up, int64_t up_ld,
                                   H* out, int64_t out_ld, Activation kind, int rows, int chunks) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{rows} * chunks) return;
  int64_t r = i / chunks, c = i % chunks * 8;
  uint4 g4 = *reinterpret_cast<const uint4*>(gate + r * gate_ld + c), u4 = make_uint4(0, 0, 0, 0);
  if (up) u4 = *reinterpret_cast<const uint4*>(up + r * up_ld + c);
  uint32_t words[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t gw = word(g4, k), uw = word(u4, k);
    H g[2], u[2];
    memcpy(g, &gw, 4);
    memcpy(u, &uw, 4);
    float a = activate(kind, to_float(g[0])), b = activate(kind, to_float(g[1]));
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
  out[r * out_ld + c] += x[r * x_ld + c];
}

template <typename H>
__global__ void add_bias_kernel(Matrix out, const float* bias, int rows, int cols) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{rows} * cols) return;
  int64_t r = i / cols, c = i % cols;
  set_matrix<H>(out, r * out.ld + c, matrix_at<H>(out, r * out.ld + c) + bias[c]);
}

__global__ void select_kernel(const float* x, int64_t x_ld, float* out, int64_t out_ld, int first,
                              int cols, BatchView batch) {
  grid_dependency_trigger();
  grid_dependency_wait();
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= cols) return;
  out[blockIdx.y * out_ld + c] = x[batch.output_rows[first + blockIdx.y] * x_ld + c];
}

__global__ void pool_kernel(const float* x, int64_t x_ld, float* out, int64_t out_ld, PoolKind kind,
                            int cols, BatchView batch) {
  int c = blockIdx.y * blockDim.x + threadIdx.x, s = blockIdx.x;
  if (c >= cols) return;
  int first = batch.first[s], count = batch.count[s];
  float v = 0;
  if (kind == PoolKind::kMean) {
    for (int t = 0; t < count; ++t) v += x[int64_t{first + t} * x_ld + c];
    v /= static_cast<float>(count);
  } else {
    v = x[int64_t{kind == PoolKind::kFirst ? first : first + count - 1} * x_ld + c];
  }
  out[s * out_ld + c] = v;
}

__global__ void softcap_kernel(float* x, int64_t ld, float cap, int rows, int cols) {
  grid_dependency_trigger();
  grid_dependency_wait();
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= int64_t{rows} * cols) return;
  float* at = x + i / cols * ld + i % cols;
  *at = soft_cap(*at, cap);
}

__global__ void l2_kernel(float* x, int64_t ld, int cols) {
  __shared__ float scratch[33];
  float* row = x + blockIdx.x * ld;
  float ss = 0;
  for (int c = threadIdx.x; c < cols; c += blockDim.x) ss += row[c] * row[c];
  ss = block_sum(ss, scratch);
  float factor = ss > 0 ? 1.f / sqrtf(ss) : 0.f;
  for (int c = threadIdx.x; c < cols; c += blockDim.x) row[c] *= factor;
}

int blocks(int64_t n) { return ceil_div(n, 256); }

}  // namespace

void embed(const EmbedArgs& a, const Launch& where) {
  dim3 grid(a.rows, ceil_div(a.table.shape.groups, 128));
  with_type(a.table.type,
            [&]<WeightType F>() { launch(where, embed_kernel<F>, grid, dim3(128), 0, a); });
}

void norm(const NormArgs& a, const Launch& where) {
  dim3 block(a.cols <= 512 ? 128 : a.cols <= 2048 ? 256 : 512);
  if (a.half16 == Half16::kFp16)
    launch(where, norm_kernel<__half>, dim3(a.rows), block, 0, a);
  else
    launch(where, norm_kernel<__nv_bfloat16>, dim3(a.rows), block, 0, a);
}

void activation(Matrix gate, Matrix up, Matrix out, Activation kind, int rows, int cols,
                Half16 half16, const Launch& where) {
  auto run = [&]<typename H>() {
    bool wide = gate.half16 && out.half16 && (!up.data || up.half16) && cols % 8 == 0 &&
                gate.ld % 8 == 0 && up.ld % 8 == 0 && out.ld % 8 == 0;
    if (wide) {
      activation8_kernel<H><<<blocks(int64_t{rows} * cols / 8), 256, 0, where.stream>>>(
          static_cast<const H*>(gate.data), gate.ld, static_cast<const H*>(up.data), up.ld,
          static_cast<H*>(out.data), out.ld, kind, rows, cols / 8);
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

void add_bias(Matrix out, const float* bias, int rows, int cols, Half16 half16,
              const Launch& where) {
  int n = blocks(int64_t{rows} * cols);
  if (half16 == Half16::kFp16)
    add_bias_kernel<__half><<<n, 256, 0, where.stream>>>(out, bias, rows, cols);
  else
    add_bias_kernel<__nv_bfloat16><<<n, 256, 0, where.stream>>>(out, bias, rows, cols);
  check_launch("add_bias");
}

void select_rows(const float* x, int64_t x_ld, float* out, int64_t out_ld, int first, int rows,
                 int cols, const BatchView& batch, const Launch& where) {
  launch(where, select_kernel, dim3(blocks(cols), rows), dim3(256), 0, x, x_ld, out, out_ld, first,
         cols, batch);
}

void pool(const float* x, int64_t x_ld, float* out, int64_t out_ld, PoolKind kind, int sequences,
          int cols, const BatchView& batch, const Launch& where) {
  pool_kernel<<<dim3(sequences, ceil_div(cols, 128)), 128, 0, where.stream>>>(x, x_ld, out, out_ld,
                                                                              kind, cols, batch);
  check_launch("pool");
}

void softcap(float* x, int64_t ld, float cap, int rows, int cols, const Launch& where) {
  launch(where, softcap_kernel, dim3(blocks(int64_t{rows} * cols)), dim3(256), 0, x, ld, cap, rows,
         cols);
}

void l2_normalize(float* x, int64_t ld, int rows, int cols, const Launch& where) {
  l2_kernel<<<rows, 256, 0, where.stream>>>(x, ld, cols);
  check_launch("l2_normalize");
}

}  // namespace apud::cuda
