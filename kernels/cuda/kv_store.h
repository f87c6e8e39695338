// KV pages in device memory. A page holds, layer after layer: K of every head, then V of every
// head; a head's block is (64, dim) values and, for int8, 64 float scales.
//
// Threads: belongs to its executor's thread. Single pages move on the executor's stream and are
// there when the call returns; lists of pages move on a stream of their own, a few layers at a time
// of all of them, and the executor's stream waits for the layers that it is about to use.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/page_lanes.h"

namespace apud::cuda {

/// Bytes of one page of a group.
size_t kv_page_bytes(const KvGroup& group, KvType type);

class CudaKv : public KvStore {
 public:
  /// Throws kBusy when the memory cannot be had.
  CudaKv(const Program& program, std::span<const int> pages_per_group, KvType type,
         cudaStream_t stream, PageLanes& lanes);
  ~CudaKv() override;
  CudaKv(const CudaKv&) = delete;
  CudaKv& operator=(const CudaKv&) = delete;

  int page_count(int group) const override { return groups_[group].pages; }
  size_t page_bytes(int group) const override { return groups_[group].page_bytes; }
  std::string layout_id() const override;
  void copy_page(int group, int from, int to, int tokens) override;
  void export_page(int group, int page, std::span<std::byte> out) override;
  void import_page(int group, int page, std::span<const std::byte> bytes) override;
  bool on_device() const override { return true; }
  /// Pinned.
  std::unique_ptr<HostMemory> host_memory(size_t bytes) override;
  void import_pages(std::span<const PageTransfer> transfers) override;
  void export_pages(std::span<const PageTransfer> transfers) override;
  int read_pages(std::span<const int32_t> pages, int groups, const PageReader& reader) override;
  double finish_transfers() override;

  /// Before a step: the stream waits until what export_pages reads may be overwritten, and, with
  /// `all`, until every layer of imported pages is there.
  void begin_step(bool all);
  /// Before the first use of a layer in a step: the stream waits for its part of imported pages.
  void wait_for_layer(int layer);

  KvType type() const { return type_; }
  KvView view(int layer) const;

 private:
  struct Group {
    KvGroup shape;
    uint8_t* data = nullptr;
    int pages = 0;
    size_t page_bytes = 0, head_bytes = 0;
  };
  void check_page(int group, int page) const;
  KvType type_;
  cudaStream_t stream_;
  std::vector<KvLayerPlace> layers_;
  std::vector<Group> groups_;

  // Lists of pages. An import in flight has an event per part of the layers; `waited` parts the
  // executor's stream has been told to wait for.
  static constexpr int kParts = 8;
  cudaStream_t copies_ = nullptr;
  cudaEvent_t computed_ = nullptr, exported_ = nullptr, first_ = nullptr, part_[kParts] = {};
  bool importing_ = false, exporting_ = false;
  int waited_ = 0;

  class Sink;  // of read_pages
  PageLanes& lanes_;
};

}  // namespace apud::cuda
