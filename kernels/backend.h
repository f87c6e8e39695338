// The Backend seam: executors run a Program over ragged batches with paged KV. One interface, three
// implementations: the reference (plain, the oracle), the fast CPU executor, the CUDA executor.
//
// Threads: an Executor and its KvStores belong to one thread at a time. Weights are shared, const.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/program.h"
#include "kernels/sampling.h"

namespace apud {

/// One sequence's part of a step.
struct SequenceSlice {
  int first_row = 0;    // of its tokens in Batch::tokens
  int token_count = 0;  // > 0
  int position = 0;     // of its first new token = tokens already in the KV cache
  /// Page of block b (tokens b*64 .. b*64+63) per KV group; kNone behind a sliding window. Covers
  /// at least position + token_count tokens. Pages that this step writes belong to this sequence
  /// alone.
  std::array<std::span<const int32_t>, kMaxKvGroups> pages;
};

/// Tokens of several sequences, packed. Prefill, chunked prefill, decode, verification of drafts
/// and encoders are the same call.
struct Batch {
  std::span<const int32_t> tokens;           // T ids
  std::span<const SequenceSlice> sequences;  // in row order, covering all of tokens
  std::span<const int32_t> output_rows;      // R rows of tokens whose logits are wanted (decoders)
};

enum class KvType : uint8_t { kF16 = 0, kBF16 = 1, kI8 = 2, kF32 = 3 };
const char* kv_type_name(KvType type);

/// Host memory that pages move to and from at full speed (pinned, where KV lies on a device).
class HostMemory {
 public:
  virtual ~HostMemory() = default;
  virtual std::span<std::byte> bytes() = 0;
};

/// A page and its bytes in host memory, for KvStore::import_pages and export_pages.
struct PageTransfer {
  int group = 0;
  int page = 0;
  std::span<std::byte> host;  // page_bytes(group) of HostMemory
};

/// Takes a page's bytes in order, piece by piece.
class PageSink {
 public:
  virtual ~PageSink() = default;
  /// Memory for the page's next bytes, 1 to `most` (more than 0) of them; none at the page's end.
  /// What the call before gave must be filled by then.
  virtual std::span<std::byte> next(size_t most) = 0;
};
/// The plain one.
class MemorySink : public PageSink {
 public:
  explicit MemorySink(std::span<std::byte> memory) : left_(memory) {}
  std::span<std::byte> next(size_t most) override {
    std::span<std::byte> piece = left_.first(std::min(most, left_.size()));
    left_ = left_.subspan(piece.size());
    return piece;
  }

 private:
  std::span<std::byte> left_;
};
/// Reads page `index` of a list into `sink`, all of it; false where its bytes are of no use.
/// Several threads call it at once.
using PageReader = std::function<bool(int index, PageSink& sink)>;

/// Device memory for KV pages, taken whole at construction. Pages are opaque to everyone but the
/// executor; export and import move them as bytes for the host and disk tiers.
class KvStore {
 public:
  virtual ~KvStore() = default;
  /// KV lies on a device with memory of its own: then a tier in host memory makes sense.
  virtual bool on_device() const { return false; }
  virtual int page_count(int group) const = 0;
  /// Bytes of one page as exported. Layers are contiguous: layer l's part is
  /// [l * bytes/layers, (l+1) * bytes/layers).
  virtual size_t page_bytes(int group) const = 0;
  /// Identifies type and byte layout of exported pages; part of the disk tier's key.
  virtual std::string layout_id() const = 0;
  /// Copies the first `tokens` tokens of a page (copy-on-write of a partial page).
  virtual void copy_page(int group, int from, int to, int tokens) = 0;
  virtual void export_page(int group, int page, std::span<std::byte> out) = 0;
  virtual void import_page(int group, int page, std::span<const std::byte> bytes) = 0;

  /// Memory for page transfers. Throws kBusy when it cannot be had.
  virtual std::unique_ptr<HostMemory> host_memory(size_t bytes);
  /// Moves pages in from host memory, one layer of all of them after the other. May return before
  /// they are there: a run() that follows waits for each layer just before it needs it. The host
  /// memory must stay as it is until finish_transfers().
  virtual void import_pages(std::span<const PageTransfer> transfers);
  /// Moves pages out to host memory, whose bytes are good after finish_transfers(). The pages may
  /// be written by a run() that follows at once.
  virtual void export_pages(std::span<const PageTransfer> transfers);
  /// Fills pages[i] of `groups` groups, one behind another, from reader(i), several at once.
  /// Returns how many are good from the first on; what the others hold is of no use. All is there
  /// when it returns.
  virtual int read_pages(std::span<const int32_t> pages, int groups, const PageReader& reader);
  /// Waits for all transfers. Returns the seconds that imports took since the last call, 0 where
  /// they were done within import_pages().
  virtual double finish_transfers() { return 0; }
};

class Executor {
 public:
  virtual ~Executor() = default;
  /// Which implementation runs: "reference", "cpu-avx2", "cpu-vnni", "cpu-amx", "cuda-sm90".
  virtual std::string name() const = 0;
  virtual const Program& program() const = 0;
  /// KV memory; throws apud::Error (kBusy) when it cannot be had, before anything else is lost.
  virtual std::unique_ptr<KvStore> make_kv(std::span<const int> pages_per_group, KvType type) = 0;
  /// KV type used when the user names none.
  virtual KvType default_kv_type() const { return KvType::kF16; }
  /// Largest number of tokens (T) of one step; longer inputs are run in chunks by the caller.
  virtual int max_step_tokens() const = 0;

  /// Runs one step. `out` takes the program's result, row-major: (R, vocab) logits for decoders,
  /// (S, dim) vectors for encoders (kv = nullptr). A row's result depends only on its own sequence.
  virtual void run(const Batch& batch, KvStore* kv, std::span<float> out) = 0;

  /// As run, then draws one token for each output row. The default implementation samples on the
  /// host; device executors override it and copy back ids only.
  virtual void run_sampled(const Batch& batch, KvStore* kv, std::span<const SamplingRow> rows,
                           std::span<SampledToken> out);

  /// Bytes of memory held apart from KV stores: repacked weights, workspace.
  virtual size_t memory_bytes() const = 0;

 private:
  std::vector<float> host_logits_;
};

/// Plain float executor, unfused, every format dequantised: the oracle. KV in float. Slow.
std::unique_ptr<Executor> make_reference_executor(const Program& program, const Weights& weights);

enum class CpuIsa : uint8_t { kAuto, kAvx2, kAvx512, kVnni, kAmx };
const char* cpu_isa_name(CpuIsa isa);
/// The paths that really run on this machine, best last (probed; AMX by permission call and one
/// checked tile product, never from cpuinfo alone). Empty where not even AVX2 + FMA + F16C is
/// there.
std::vector<CpuIsa> available_cpu_isas();

struct CpuOptions {
  CpuIsa isa = CpuIsa::kAuto;  // a path that the machine lacks is refused (kUnavailable)
  int threads = 0;             // 0: usable_cpus()
  int max_step_tokens = 512;   // workspace grows with it
};
/// Fast CPU executor. `weights` must outlive it.
std::unique_ptr<Executor> make_cpu_executor(const Program& program, const Weights& weights,
                                            const CpuOptions& options);

/// True in builds with the CUDA executor.
bool cuda_compiled();
/// Why no CUDA device can be used ("no CUDA in this build", "no driver", …); empty when one can.
std::string cuda_unavailable_reason();

/// A device's memory now, and the rate at which its data sheet says it is read (a first guess:
/// `apud bench` measures). Creates the CUDA context. Throws kUnavailable without a device.
struct CudaMemory {
  std::string device;
  int64_t free_bytes = 0, total_bytes = 0;
  double read_bytes_per_second = 0;
};
CudaMemory cuda_memory(int device);

struct CudaOptions {
  int device = 0;
  int max_step_tokens = 4096;
  int max_sequences = 64;      // rows of a decode batch for which graphs are captured
  bool deterministic = false;  // row-invariant kernels in prefill, chunk and decode
  // What a 16-bit copy of the weights must leave free on the device, besides two fifths of it: for
  // the KV store that will be asked for.
  int64_t reserve_bytes = 0;
};
/// CUDA executor; throws kUnavailable with the reason where there is no usable device.
std::unique_ptr<Executor> make_cuda_executor(const Program& program, const Weights& weights,
                                             const CudaOptions& options);

}  // namespace apud
