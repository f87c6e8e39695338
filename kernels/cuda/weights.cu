#include "kernels/cuda/weights.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/upload.h"
#include "kernels/quant.h"

namespace apud::cuda {

void throw_cuda(cudaError_t status, const char* what) {
  cudaGetLastError();
  ErrorKind kind = status == cudaErrorMemoryAllocation ? ErrorKind::kBusy : ErrorKind::kUnavailable;
  throw Error(kind, std::string("CUDA: ") + what + ": " + cudaGetErrorString(status),
              kind == ErrorKind::kBusy
                  ? "use a shorter --ctx, --kv i8 or a smaller model"
                  : "run again with --device cpu, or check the driver with nvidia-smi");
}

DeviceBuffer::DeviceBuffer(size_t bytes, const char* what) : bytes_(bytes) {
  if (bytes == 0) return;
  if (cudaMalloc(&data_, bytes) != cudaSuccess) {
    cudaGetLastError();
    throw Error(ErrorKind::kBusy,
                "GPU: no room for " + std::to_string(bytes >> 20) + " MiB of " + what,
                "use a shorter --ctx, --kv i8 or a smaller model");
  }
}

std::vector<LinearGroup> linear_groups(const Program& program) {
  std::vector<LinearGroup> groups;
  for (int i = 0; i < static_cast<int>(program.ops.size()); ++i) {
    const auto* op = std::get_if<LinearOp>(&program.ops[i]);
    if (!op) continue;
    bool joins = false;
    if (!groups.empty() && groups.back().ops.back() == i - 1 && groups.back().ops.size() < 3) {
      const auto& first = std::get<LinearOp>(program.ops[groups.back().ops[0]]);
      joins = first.x == op->x && !first.accumulate && !op->accumulate && op->out != op->x &&
              first.out != op->x;
      for (int j : groups.back().ops)
        joins = joins && std::get<LinearOp>(program.ops[j]).out != op->out;
      // Column slices of one product start at multiples of 16 bytes.
      for (int j : groups.back().ops)
        joins = joins && program.values[std::get<LinearOp>(program.ops[j]).out].cols % 8 == 0;
      joins = joins && program.values[op->out].cols % 8 == 0 &&
              program.values[op->out].rows == Rows::kTokens;
    }
    if (joins)
      groups.back().ops.push_back(i);
    else
      groups.push_back({{i}});
  }
  return groups;
}

namespace {

/// Weights by use.
struct Uses {
  std::vector<WeightId> matrices;  // in upload order: groups together
  std::set<WeightId> vectors;
};

Uses uses_of(const Program& program, const std::vector<LinearGroup>& groups) {
  Uses u;
  std::set<WeightId> seen;
  auto matrix = [&](WeightId id) {
    if (seen.insert(id).second) u.matrices.push_back(id);
  };
  auto vector = [&](WeightId id) {
    if (id != kNone) u.vectors.insert(id);
  };
  for (const LinearGroup& g : groups)
    for (int i : g.ops) matrix(std::get<LinearOp>(program.ops[i]).weight);
  for (const Op& op : program.ops) {
    if (const auto* e = std::get_if<EmbedOp>(&op)) matrix(e->table);
    if (const auto* l = std::get_if<LinearOp>(&op)) vector(l->bias);
    if (const auto* n = std::get_if<NormOp>(&op)) {
      vector(n->weight);
      vector(n->bias);
    }
    if (const auto* r = std::get_if<RotaryOp>(&op)) {
      vector(r->q_norm);
      vector(r->k_norm);
    }
  }
  return u;
}

}  // namespace

DeviceWeights::DeviceWeights(const Program& program, const Weights& weights,
                             const std::vector<LinearGroup>& groups, int device, size_t spare_bytes,
                             const std::function<void()>& uploaded) {
  Uses uses = uses_of(program, groups);
  matrices_.resize(weights.size());
  vectors_.resize(weights.size(), nullptr);

  // Packed matrices; tied ones (same bytes in the file) once.
  size_t total = 0;
  std::map<std::pair<const std::byte*, int>, WeightId> placed;
  std::vector<std::pair<WeightId, size_t>> offsets;
  std::vector<std::pair<WeightId, WeightId>> tied;
  for (WeightId id : uses.matrices) {
    const WeightView& w = weights[id];
    PackedMatrix& m = matrices_[id];
    m.type = w.type;
    m.rows = static_cast<int>(w.rows);
    m.cols = static_cast<int>(w.cols);
    m.shape = packed_shape(w.type, w.cols);
    auto [it, fresh] = placed.emplace(std::make_pair(w.data, static_cast<int>(w.order)), id);
    if (!fresh) {
      tied.push_back({id, it->second});
      continue;
    }
    offsets.push_back({id, total});
    total += m.bytes();
  }
  packed_ = DeviceBuffer(total, "weights");
  std::vector<UploadItem> items;
  for (auto& [id, offset] : offsets) {
    matrices_[id].data = packed_.as() + offset;
    items.push_back({weights[id], packed_.as() + offset});
  }
  for (auto& [id, other] : tied) matrices_[id].data = matrices_[other].data;
  upload(items, device);
  if (uploaded) uploaded();

  // Vectors, and the biases of groups, as floats.
  std::vector<float> host;
  std::vector<std::pair<WeightId, size_t>> vector_at;
  for (WeightId id : uses.vectors) {
    const WeightView& w = weights[id];
    vector_at.push_back({id, host.size()});
    size_t at = host.size();
    host.resize(round_up(static_cast<int64_t>(at + w.rows * w.cols), 8));
    for (int64_t r = 0; r < w.rows; ++r) dequantize_row(w, r, host.data() + at + r * w.cols);
  }
  std::vector<int64_t> bias_at(groups.size(), -1);
  std::vector<int> bias_size(groups.size(), 0);
  for (size_t g = 0; g < groups.size(); ++g) {
    int n = 0;
    bool any = false;
    for (int i : groups[g].ops) {
      const auto& op = std::get<LinearOp>(program.ops[i]);
      n += program.values[op.out].cols;
      any = any || op.bias != kNone;
    }
    if (!any) continue;
    bias_at[g] = static_cast<int64_t>(host.size());
    bias_size[g] = n;
    for (int i : groups[g].ops) {
      const auto& op = std::get<LinearOp>(program.ops[i]);
      size_t at = host.size();
      host.resize(at + program.values[op.out].cols, 0.f);
      if (op.bias != kNone) dequantize_row(weights[op.bias], 0, host.data() + at);
    }
    host.resize(round_up(static_cast<int64_t>(host.size()), 8));
  }
  vectors_memory_ = DeviceBuffer(host.size() * 6, "norms and biases");
  if (!host.empty())
    APUD_CUDA(
        cudaMemcpy(vectors_memory_.as(), host.data(), host.size() * 4, cudaMemcpyHostToDevice));
  float* floats = vectors_memory_.as<float>();
  uint16_t* halves = reinterpret_cast<uint16_t*>(floats + host.size());
  for (auto& [id, at] : vector_at) vectors_[id] = floats + at;

  // The step's 16-bit type: bf16 where the file has bf16 matrices, else fp16 (more exact).
  for (const LinearGroup& g : groups)
    for (int i : g.ops)
      if (weights[std::get<LinearOp>(program.ops[i]).weight].type == WeightType::kBF16)
        half16_ = Half16::kBf16;
  group_bias_.assign(groups.size(), nullptr);
  group_bias_half_.assign(groups.size(), nullptr);
  for (size_t g = 0; g < groups.size(); ++g) {
    if (bias_at[g] < 0) continue;
    group_bias_[g] = floats + bias_at[g];
    group_bias_half_[g] = halves + bias_at[g];
    convert(floats + bias_at[g], bias_size[g], halves + bias_at[g], bias_size[g], 1, bias_size[g],
            half16_, Launch{nullptr, false});
  }

  // 16-bit matrices for prefill. A packed 16-bit matrix of whole groups already is one.
  halves_.resize(groups.size());
  WeightType same = half16_ == Half16::kFp16 ? WeightType::kF16 : WeightType::kBF16;
  size_t copy_bytes = 0;
  std::vector<int> copied;
  for (size_t g = 0; g < groups.size(); ++g) {
    const auto& first = std::get<LinearOp>(program.ops[groups[g].ops[0]]);
    if (program.values[first.out].rows == Rows::kOutputs) continue;  // logits: few rows, panels do
    bool direct = true;
    int64_t rows = 0;
    const uint8_t* at = matrices_[first.weight].data;
    for (int i : groups[g].ops) {
      const PackedMatrix& m = matrices_[std::get<LinearOp>(program.ops[i]).weight];
      direct = direct && m.type == same && m.data == at;
      at = m.data + m.bytes();
      rows += m.rows;
    }
    const PackedMatrix& m = matrices_[first.weight];
    int64_t ld = round_up(m.cols, 8);
    if (direct) {
      halves_[g] = {m.data, ld};
    } else {
      halves_[g].ld = ld;
      copied.push_back(static_cast<int>(g));
      copy_bytes += round_up(rows * ld * 2, 256);
    }
  }
  size_t free_bytes = 0, device_bytes = 0;
  APUD_CUDA(cudaMemGetInfo(&free_bytes, &device_bytes));
  resident_halves_ = copy_bytes + spare_bytes <= free_bytes;
  if (resident_halves_) {
    half_memory_ = DeviceBuffer(copy_bytes, "16-bit weights");
    uint8_t* to = half_memory_.as();
    for (int g : copied) {
      halves_[g].data = to;
      for (int i : groups[g].ops) {
        const PackedMatrix& m = matrices_[std::get<LinearOp>(program.ops[i]).weight];
        unpack_h16(m, 0, m.rows, half16_, to, halves_[g].ld, nullptr);
        to += m.rows * halves_[g].ld * 2;
      }
      to = half_memory_.as() + round_up(to - half_memory_.as(), 256);
    }
  }
  APUD_CUDA(cudaDeviceSynchronize());
}

size_t DeviceWeights::bytes() const {
  return packed_.bytes() + vectors_memory_.bytes() + half_memory_.bytes();
}

}  // namespace apud::cuda
