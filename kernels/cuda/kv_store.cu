#include "kernels/cuda/kv_store.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

namespace apud::cuda {
namespace {

class PinnedMemory : public HostMemory {
 public:
  explicit PinnedMemory(size_t bytes) : memory_(bytes) {}
  std::span<std::byte> bytes() override {
    return {reinterpret_cast<std::byte*>(memory_.data()), memory_.bytes()};
  }

 private:
  PinnedBuffer memory_;
};

size_t value_bytes(KvType type) { return type == KvType::kI8 ? 1 : 2; }
size_t head_block_bytes(const KvGroup& g, KvType type) {
  return size_t{kKvPageTokens} * g.head_dim * value_bytes(type) +
         (type == KvType::kI8 ? size_t{kKvPageTokens} * 4 : 0);
}

}  // namespace

size_t kv_page_bytes(const KvGroup& g, KvType type) {
  return size_t{2} * g.layers * g.kv_heads * head_block_bytes(g, type);
}

/// A reader's page on its way to the device, by its lane.
class CudaKv::Sink : public PageSink {
 public:
  Sink(CudaKv& kv, PageCopies& copies, int lane) : kv_(kv), copies_(copies), lane_(lane) {}
  void begin(int page) {
    page_ = page;
    group_ = 0;
    done_ = filled_ = 0;
  }
  std::span<std::byte> next(size_t most) override {
    send();
    while (group_ < kv_.groups_.size() && done_ == kv_.groups_[group_].page_bytes) {
      ++group_;
      done_ = 0;
    }
    if (group_ == kv_.groups_.size()) return {};
    filled_ = std::min({most, PageLane::kPieceBytes, kv_.groups_[group_].page_bytes - done_});
    return {reinterpret_cast<std::byte*>(copies_.next_piece(lane_)), filled_};
  }
  /// The piece given out last is full.
  void send() {
    if (filled_ == 0) return;
    const Group& g = kv_.groups_[group_];
    copies_.send(lane_, g.data + page_ * g.page_bytes + done_, filled_);
    done_ += filled_;
    filled_ = 0;
  }
  /// Attention reads whole pages and masks what it does not use: that must be numbers.
  void clear() {
    filled_ = 0;
    for (const Group& g : kv_.groups_)
      copies_.clear(lane_, g.data + page_ * g.page_bytes, g.page_bytes);
  }

 private:
  CudaKv& kv_;
  PageCopies& copies_;
  int lane_;
  size_t group_ = 0, page_ = 0, done_ = 0, filled_ = 0;  // bytes of the group sent, of the piece
};

CudaKv::CudaKv(const Program& program, std::span<const int> pages_per_group, KvType type,
               cudaStream_t stream, PageLanes& lanes)
    : type_(type), stream_(stream), layers_(program.kv_layers), lanes_(lanes) {
  APUD_CHECK(pages_per_group.size() == program.kv_groups.size(), "pages for every KV group");
  for (size_t i = 0; i < program.kv_groups.size(); ++i) {
    Group g;
    g.shape = program.kv_groups[i];
    g.pages = pages_per_group[i];
    g.head_bytes = head_block_bytes(g.shape, type);
    g.page_bytes = kv_page_bytes(g.shape, type);
    cudaError_t status = cudaMalloc(&g.data, g.page_bytes * g.pages);
    if (status != cudaSuccess) {
      cudaGetLastError();
      for (Group& taken : groups_) cudaFree(taken.data);
      throw Error(
          ErrorKind::kBusy,
          "GPU: no room for " + std::to_string((g.page_bytes * g.pages) >> 20) + " MiB of KV cache",
          "use a shorter --ctx, --kv i8 or a smaller model");
    }
    groups_.push_back(g);
    // Attention reads whole pages and masks what is not yet written: that must be numbers.
    APUD_CUDA(cudaMemsetAsync(g.data, 0, g.page_bytes * g.pages, stream_));
  }
  APUD_CUDA(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking));
  for (cudaEvent_t* e : {&computed_, &exported_})
    APUD_CUDA(cudaEventCreateWithFlags(e, cudaEventDisableTiming));
  APUD_CUDA(cudaEventCreate(&first_));
  for (cudaEvent_t& e : part_) APUD_CUDA(cudaEventCreate(&e));
}

CudaKv::~CudaKv() {
  cudaStreamSynchronize(stream_);
  if (copies_) {
    cudaStreamSynchronize(copies_);
    cudaStreamDestroy(copies_);
  }
  for (cudaEvent_t e : {computed_, exported_, first_})
    if (e) cudaEventDestroy(e);
  for (cudaEvent_t e : part_)
    if (e) cudaEventDestroy(e);
  for (Group& g : groups_) cudaFree(g.data);
}

std::string CudaKv::layout_id() const { return std::string("cuda-hnd64-") + kv_type_name(type_); }

void CudaKv::check_page(int group, int page) const {
  APUD_CHECK(group >= 0 && group < static_cast<int>(groups_.size()) && page >= 0 &&
                 page < groups_[group].pages,
             "page exists");
}

void CudaKv::copy_page(int group, int from, int to, int tokens) {
  check_page(group, from);
  check_page(group, to);
  begin_step(true);
  const Group& g = groups_[group];
  size_t blocks = size_t{2} * g.shape.layers * g.shape.kv_heads;
  uint8_t* source = g.data + from * g.page_bytes;
  uint8_t* target = g.data + to * g.page_bytes;
  APUD_CUDA(cudaMemcpy2DAsync(
      target, g.head_bytes, source, g.head_bytes,
      size_t{static_cast<unsigned>(tokens)} * g.shape.head_dim * value_bytes(type_), blocks,
      cudaMemcpyDeviceToDevice, stream_));
  if (type_ == KvType::kI8) {
    size_t scales = size_t{kKvPageTokens} * g.shape.head_dim;
    APUD_CUDA(cudaMemcpy2DAsync(target + scales, g.head_bytes, source + scales, g.head_bytes,
                                size_t{static_cast<unsigned>(tokens)} * 4, blocks,
                                cudaMemcpyDeviceToDevice, stream_));
  }
}

void CudaKv::export_page(int group, int page, std::span<std::byte> out) {
  check_page(group, page);
  const Group& g = groups_[group];
  APUD_CHECK(out.size() == g.page_bytes, "a whole page");
  begin_step(true);
  APUD_CUDA(cudaMemcpyAsync(out.data(), g.data + page * g.page_bytes, out.size(),
                            cudaMemcpyDeviceToHost, stream_));
  APUD_CUDA(cudaStreamSynchronize(stream_));
}

void CudaKv::import_page(int group, int page, std::span<const std::byte> bytes) {
  check_page(group, page);
  const Group& g = groups_[group];
  APUD_CHECK(bytes.size() == g.page_bytes, "a whole page");
  begin_step(true);
  APUD_CUDA(cudaMemcpyAsync(g.data + page * g.page_bytes, bytes.data(), bytes.size(),
                            cudaMemcpyHostToDevice, stream_));
  APUD_CUDA(cudaStreamSynchronize(stream_));
}

std::unique_ptr<HostMemory> CudaKv::host_memory(size_t bytes) {
  return std::make_unique<PinnedMemory>(bytes);
}

void CudaKv::import_pages(std::span<const PageTransfer> transfers) {
  if (transfers.empty()) return;
  // What the pages held may still be read by a step, or be on its way out on this stream.
  APUD_CUDA(cudaEventRecord(computed_, stream_));
  APUD_CUDA(cudaStreamWaitEvent(copies_, computed_));
  if (!importing_) APUD_CUDA(cudaEventRecord(first_, copies_));
  for (int part = 0; part < kParts; ++part) {
    for (const PageTransfer& t : transfers) {
      check_page(t.group, t.page);
      const Group& g = groups_[t.group];
      APUD_CHECK(t.host.size() == g.page_bytes, "a whole page");
      const size_t layer = g.page_bytes / g.shape.layers;
      const size_t begin = layer * (static_cast<size_t>(g.shape.layers) * part / kParts);
      const size_t end = layer * (static_cast<size_t>(g.shape.layers) * (part + 1) / kParts);
      if (begin == end) continue;
      APUD_CUDA(cudaMemcpyAsync(g.data + t.page * g.page_bytes + begin, t.host.data() + begin,
                                end - begin, cudaMemcpyHostToDevice, copies_));
    }
    APUD_CUDA(cudaEventRecord(part_[part], copies_));
  }
  importing_ = true;
  waited_ = 0;
}

void CudaKv::export_pages(std::span<const PageTransfer> transfers) {
  if (transfers.empty()) return;
  APUD_CUDA(cudaEventRecord(computed_, stream_));
  APUD_CUDA(cudaStreamWaitEvent(copies_, computed_));
  for (const PageTransfer& t : transfers) {
    check_page(t.group, t.page);
    const Group& g = groups_[t.group];
    APUD_CHECK(t.host.size() == g.page_bytes, "a whole page");
    APUD_CUDA(cudaMemcpyAsync(t.host.data(), g.data + t.page * g.page_bytes, g.page_bytes,
                              cudaMemcpyDeviceToHost, copies_));
  }
  APUD_CUDA(cudaEventRecord(exported_, copies_));
  exporting_ = true;
}

int CudaKv::read_pages(std::span<const int32_t> pages, int groups, const PageReader& reader) {
  if (pages.empty()) return 0;
  APUD_CHECK(groups == static_cast<int>(groups_.size()), "pages of every group");
  for (int32_t page : pages)
    for (int g = 0; g < groups; ++g) check_page(g, page);
  std::vector<PageLane>& lanes = lanes_.get();
  if (lanes.empty()) return KvStore::read_pages(pages, groups, reader);
  const int count = static_cast<int>(pages.size());
  const int readers = std::min(static_cast<int>(lanes.size()), count);
  // What the pages held may still be read by a step, or be on its way out on this stream.
  APUD_CUDA(cudaEventRecord(computed_, stream_));
  APUD_CUDA(cudaStreamWaitEvent(copies_, computed_));
  PageCopies copies(lanes, readers, copies_);
  std::atomic<int> next{0}, good{count};
  std::exception_ptr failure;
  std::mutex lock;
  auto work = [&](int lane) {
    try {
      Sink sink(*this, copies, lane);
      for (int i; (i = next.fetch_add(1)) < good;) {
        sink.begin(pages[i]);
        if (reader(i, sink)) {
          sink.send();
          continue;
        }
        sink.clear();
        std::lock_guard<std::mutex> hold(lock);
        good = std::min<int>(good, i);
      }
    } catch (...) {
      std::lock_guard<std::mutex> hold(lock);
      if (!failure) failure = std::current_exception();
      good = 0;
    }
    copies.reader_done();
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < readers; ++t) threads.emplace_back(work, t);
  try {
    copies.run();
  } catch (...) {  // readers that wait meet it, too
    std::lock_guard<std::mutex> hold(lock);
    if (!failure) failure = std::current_exception();
    good = 0;
  }
  for (std::thread& t : threads) t.join();
  if (failure) std::rethrow_exception(failure);
  return good;
}

double CudaKv::finish_transfers() {
  APUD_CUDA(cudaStreamSynchronize(copies_));
  float milliseconds = 0;
  if (importing_) APUD_CUDA(cudaEventElapsedTime(&milliseconds, first_, part_[kParts - 1]));
  importing_ = exporting_ = false;
  return milliseconds / 1000;
}

void CudaKv::begin_step(bool all) {
  if (exporting_) APUD_CUDA(cudaStreamWaitEvent(stream_, exported_));
  exporting_ = false;
  if (importing_ && all && waited_ < kParts) {
    APUD_CUDA(cudaStreamWaitEvent(stream_, part_[kParts - 1]));
    waited_ = kParts;
  }
}

void CudaKv::wait_for_layer(int layer) {
  if (!importing_ || waited_ == kParts) return;
  const KvLayerPlace& place = layers_[layer];
  const int layers = groups_[place.group].shape.layers;
  // The first part whose end lies behind the layer.
  int part = 0;
  while (layers * (part + 1) / kParts <= place.index) ++part;
  if (part < waited_) return;
  APUD_CUDA(cudaStreamWaitEvent(stream_, part_[part]));
  waited_ = part + 1;
}

KvView CudaKv::view(int layer) const {
  const KvLayerPlace& place = layers_[layer];
  const Group& g = groups_[place.group];
  KvView v;
  v.base = g.data + size_t{2} * place.index * g.shape.kv_heads * g.head_bytes;
  v.page_bytes = static_cast<int64_t>(g.page_bytes);
  v.head_bytes = static_cast<int64_t>(g.head_bytes);
  v.v_offset = static_cast<int64_t>(g.shape.kv_heads * g.head_bytes);
  v.group = place.group;
  v.type = type_;
  return v;
}

}  // namespace apud::cuda
