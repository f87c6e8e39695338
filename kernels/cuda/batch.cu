// Batches on the device: one block of arrays at fixed places and its pinned twin.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/cuda/executor.h"

namespace apud::cuda {

namespace {
/// Up to so much crosses in one copy, used or not; of more, each array's beginning for itself.
constexpr size_t kWholeCopyBytes = size_t{256} << 10;
}  // namespace

void CudaExecutor::make_meta(Meta& m, int tokens, int capacity, size_t pages) {
  m.tokens = tokens;
  m.capacity = capacity;
  m.groups = std::max<int>(1, static_cast<int>(program_.kv_groups.size()));
  m.page_capacity = pages;
  m.tile_capacity = size_t{2} * (capacity + (tile_rows_ ? tokens / tile_rows_ : 0) + 1);
  size_t at = 0;
  auto take = [&](size_t n) {
    size_t here = at;
    at += round_up(static_cast<int64_t>(n), 4);
    return here;
  };
  size_t token_at = take(tokens), position_at = take(tokens), out_at = take(tokens);
  size_t first_at = take(capacity), count_at = take(capacity), start_at = take(capacity);
  size_t tile_at = take(m.tile_capacity),
         offset_at = take(static_cast<size_t>(m.groups) * capacity);
  size_t row_page_at = take(static_cast<size_t>(m.groups) * tokens);
  m.ints = at;
  m.device = DeviceBuffer((m.ints + pages) * 4, "batch");
  APUD_CUDA(cudaHostAlloc(&m.host, (m.ints + pages) * 4, cudaHostAllocDefault));
  std::memset(m.host, 0, m.ints * 4);
  APUD_CUDA(cudaMemset(m.device.as(), 0, m.ints * 4));
  const int32_t* d = m.device.as<int32_t>();
  m.view.tokens = d + token_at;
  m.view.positions = d + position_at;
  m.view.output_rows = d + out_at;
  m.view.first = d + first_at;
  m.view.count = d + count_at;
  m.view.position = d + start_at;
  m.view.tiles = d + tile_at;
  m.view.page_offset = d + offset_at;
  m.view.row_pages = d + row_page_at;
  m.view.pages = d + m.ints;
  m.view.token_capacity = tokens;
  m.view.capacity = capacity;
}

void CudaExecutor::check_batch(const Batch& batch, const KvStore* kv) const {
  APUD_CHECK(
      !batch.tokens.empty() && static_cast<int>(batch.tokens.size()) <= options_.max_step_tokens,
      "1 to max_step_tokens tokens");
  APUD_CHECK(program_.is_encoder() == (kv == nullptr), "decoders have a KV store");
  int row = 0;
  for (const SequenceSlice& s : batch.sequences) {
    APUD_CHECK(s.first_row == row && s.token_count > 0, "sequences cover the tokens in order");
    row += s.token_count;
  }
  APUD_CHECK(row == static_cast<int>(batch.tokens.size()), "sequences cover all tokens");
  for (int r : batch.output_rows) APUD_CHECK(r >= 0 && r < row, "an output row is a token");
}

/// Fills the pinned twin and enqueues the copy.
Step CudaExecutor::prepare(Meta& m, const Batch& batch, CudaKv* kv) {
  auto host = [&](const int32_t* device) { return m.host + (device - m.device.as<int32_t>()); };
  const int tokens = static_cast<int>(batch.tokens.size()),
            sequences = static_cast<int>(batch.sequences.size());
  const bool whole = m.ints * 4 <= kWholeCopyBytes;
  auto send = [&](const int32_t* device, size_t n) {
    if (n > 0)
      APUD_CUDA(cudaMemcpyAsync(const_cast<int32_t*>(device), host(device), n * 4,
                                cudaMemcpyHostToDevice, stream_));
  };
  std::copy(batch.tokens.begin(), batch.tokens.end(), host(m.view.tokens));
  if (!whole) send(m.view.tokens, tokens);  // cross while the others are filled
  std::copy(batch.output_rows.begin(), batch.output_rows.end(), host(m.view.output_rows));
  int32_t* positions = host(m.view.positions);
  int32_t* tiles = host(m.view.tiles);
  Step step;
  step.single = true;
  size_t pages = 0;
  int longest = 0;
  for (int s = 0; s < sequences; ++s) {
    const SequenceSlice& q = batch.sequences[s];
    host(m.view.first)[s] = q.first_row;
    host(m.view.count)[s] = q.token_count;
    host(m.view.position)[s] = q.position;
    step.single = step.single && q.token_count == 1;
    longest = std::max(longest, q.position + q.token_count);
    std::iota(positions + q.first_row, positions + q.first_row + q.token_count, q.position);
    if (tile_rows_ > 0)
      for (int t = 0; t < q.token_count && size_t(2 * step.tiles + 1) < m.tile_capacity;
           t += tile_rows_) {
        tiles[2 * step.tiles] = s;
        tiles[2 * step.tiles + 1] = t;
        ++step.tiles;
      }
    if (!kv) continue;
    for (int g = 0; g < m.groups; ++g) {
      std::span<const int32_t> list = q.pages[g];
      size_t needed = ceil_div(q.position + q.token_count, kKvPageTokens);
      APUD_CHECK(list.size() >= needed, "pages cover the sequence");
      if (pages + needed > m.page_capacity)
        throw Error(ErrorKind::kBusy,
                    "CUDA: a step over more than " + std::to_string(m.page_capacity) + " KV pages",
                    "run fewer sequences at once");
      host(m.view.page_offset)[g * m.capacity + s] = static_cast<int32_t>(pages);
      int32_t* by_row = host(m.view.row_pages) + static_cast<size_t>(g) * m.tokens + q.first_row;
      std::fill(by_row, by_row + q.token_count, static_cast<int32_t>(pages));
      std::copy(list.begin(), list.begin() + needed, m.host + m.ints + pages);
      pages += needed;
    }
  }
  // By whole pages: a step that runs ahead of its caller stays on the page of the one before.
  step.long_rows =
      ceil_div(longest, kKvPageTokens) * kKvPageTokens > context_.runs.short_units * kDecodeUnit;
  step.tokens = tokens;
  step.sequences = sequences;
  step.kv = kv;
  step.batch = m.view;
  step.small = kv && &m == &small_meta_;
  if (kv) kv->begin_step(step.small);  // a graph cannot wait between its layers
  step.few = short_text(batch);
  step.where = {stream_, programmatic_ && (step.small || step.few)};
  if (whole) {
    send(m.device.as<int32_t>(), m.ints + pages);
    return step;
  }
  send(m.view.positions, tokens);
  for (const int32_t* by_sequence : {m.view.first, m.view.count, m.view.position})
    send(by_sequence, sequences);
  send(m.view.output_rows, batch.output_rows.size());
  send(m.view.tiles, size_t(2 * step.tiles));
  for (int g = 0; kv && g < m.groups; ++g) {
    send(m.view.page_offset + g * m.capacity, sequences);
    send(m.view.row_pages + static_cast<size_t>(g) * m.tokens, tokens);
  }
  send(m.view.pages, pages);
  return step;
}

}  // namespace apud::cuda
