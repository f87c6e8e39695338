#include "kernels/backend.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

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

constexpr int kReaders = 6;  // one thread neither reads nor verifies as fast as memory takes

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

int KvStore::read_pages(std::span<const int32_t> pages, int groups, const PageReader& reader) {
  size_t bytes = 0;
  for (int g = 0; g < groups; ++g) bytes += page_bytes(g);
  const int count = static_cast<int>(pages.size());
  std::atomic<int> next{0}, good{count};
  std::mutex importing;
  auto work = [&] {
    std::vector<std::byte> page(bytes);
    for (int i; (i = next.fetch_add(1)) < good;) {
      MemorySink sink(page);
      const bool sound = reader(i, sink);
      std::lock_guard lock(importing);
      if (!sound) {
        good = std::min<int>(good, i);
        continue;
      }
      std::span<const std::byte> rest = page;
      for (int g = 0; g < groups; ++g) {
        import_page(g, pages[static_cast<size_t>(i)], rest.first(page_bytes(g)));
        rest = rest.subspan(page_bytes(g));
      }
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < std::min(kReaders, count); ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return good;
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
