#include "kernels/backend.h"

#include "base/check.h"
#include "base/error.h"

namespace apud {

namespace {

class PlainHostMemory : public HostMemory {
 public:
  explicit PlainHostMemory(size_t bytes) : memory_(bytes) {}
  std::span<std::byte> bytes() override { return memory_; }

 private:
  std::vector<std::byte> memory_;
};

}  // namespace

std::unique_ptr<HostMemory> KvStore::host_memory(size_t bytes) {
  return std::make_unique<PlainHostMemory>(bytes);
}

void KvStore::import_pages(std::span<const PageTransfer> transfers) {
  for (const PageTransfer& t : transfers) import_page(t.group, t.page, t.host);
}

void KvStore::export_pages(std::span<const PageTransfer> transfers) {
  for (const PageTransfer& t : transfers) export_page(t.group, t.page, t.host);
}

const char* kv_type_name(KvType type) {
  switch (type) {
    case KvType::kF16:
      return "f16";
    case KvType::kBF16:
      return "bf16";
    case KvType::kI8:
      return "i8";
    case KvType::kF32:
      return "f32";
  }
  APUD_CHECK(false, "KV type in range");
  return "";
}

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAuto:
      return "auto";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kVnni:
      return "vnni";
    case CpuIsa::kAmx:
      return "amx";
  }
  APUD_CHECK(false, "CPU path in range");
  return "";
}

void Executor::run_sampled(const Batch& batch, KvStore* kv, std::span<const SamplingRow> rows,
                           std::span<SampledToken> out) {
  const Program& p = program();
  auto vocab = static_cast<size_t>(p.values[static_cast<size_t>(p.result)].cols);
  size_t count = batch.output_rows.size();
  APUD_CHECK(rows.size() == count && out.size() == count,
             "one sampling row and result per output row");
  host_logits_.resize(count * vocab);
  run(batch, kv, host_logits_);
  for (size_t i = 0; i < count; ++i) {
    out[i] = sample_row(std::span<const float>(host_logits_).subspan(i * vocab, vocab), rows[i]);
  }
}

#ifndef APUD_HAVE_CUDA
bool cuda_compiled() { return false; }

std::string cuda_unavailable_reason() { return "this build has no CUDA executor"; }

CudaMemory cuda_memory(int) {
  throw Error(ErrorKind::kUnavailable, "no CUDA device: " + cuda_unavailable_reason(),
              "use --device cpu");
}

std::unique_ptr<Executor> make_cuda_executor(const Program&, const Weights&, const CudaOptions&) {
  throw Error(ErrorKind::kUnavailable, "no CUDA device: " + cuda_unavailable_reason(),
              "install the CUDA toolkit and build again, or run on the CPU");
}
#endif

}  // namespace apud
