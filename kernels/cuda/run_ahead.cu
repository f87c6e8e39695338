// Greedy decoding one step ahead of its caller. A step's last kernel leaves the drawn tokens and
// the next positions where the next step reads them; when a step has continued the one before, the
// next one's graph is enqueued before the host waits for this one's tokens. Where the caller then
// asks for something else, what ran ahead is forgotten: it wrote one token of KV behind the
// sequence's end, on a page of its own, before anything that is enqueued later.
#include <algorithm>

#include "kernels/cuda/executor.h"

namespace apud::cuda {

/// Whether a batch is the step after the last: a token each of the same sequences, the one drawn
/// there.
bool CudaExecutor::continues(const Batch& batch, const CudaKv* kv) const {
  const Ahead& a = ahead_;
  if (!kv || a.step.kv != kv || batch.sequences.size() != a.positions.size() ||
      batch.output_rows.size() != a.positions.size() ||
      !std::equal(batch.tokens.begin(), batch.tokens.end(), a.tokens.begin(), a.tokens.end()))
    return false;
  const Meta& m = small_meta_;
  const int32_t* offsets = m.host + (m.view.page_offset - m.device.as<int32_t>());
  for (size_t s = 0; s < a.positions.size(); ++s) {
    const SequenceSlice& q = batch.sequences[s];
    if (q.token_count != 1 || q.position != a.positions[s] ||
        batch.output_rows[s] != static_cast<int32_t>(s))
      return false;
    for (int g = 0; g < m.groups; ++g) {
      // Pages that the device knows; a step that needs another one is prepared anew.
      const int32_t* known = m.host + m.ints + offsets[g * m.capacity + s];
      const int needed = q.position / kKvPageTokens + 1, had = (q.position - 1) / kKvPageTokens + 1;
      if (static_cast<int>(q.pages[g].size()) < needed ||
          !std::equal(known, known + std::min(needed, had), q.pages[g].begin()))
        return false;
    }
  }
  return true;
}

/// Hands over the step that ran ahead, where there is one: PRECOND continues(batch).
bool CudaExecutor::take_ahead(const Batch& batch, CudaKv* kv, std::span<SampledToken> out) {
  if (!ahead_.running) return false;
  ahead_.turn ^= 1;
  ahead_.running = false;
  kv->begin_step(true);
  run_ahead(ahead_.step, batch, true);
  read_drawn(batch, out);
  return true;
}

/// After the step of `batch` was enqueued: the next one, if this one has continued another and has
/// a graph, and its pages are known; then waits for this one.
void CudaExecutor::run_ahead(const Step& step, const Batch& batch, bool continuing) {
  Ahead& a = ahead_;
  const bool taken = a.step.kv != nullptr;  // its event was recorded when it was enqueued
  a.step = step;
  if (!taken) APUD_CUDA(cudaEventRecord(a.done[a.turn], stream_));
  a.positions.clear();
  bool inside = true;
  for (const SequenceSlice& q : batch.sequences) {
    a.positions.push_back(q.position + 1);
    inside =
        inside && (q.position + 1) % kKvPageTokens != 0 && q.position + 2 <= program_.max_positions;
  }
  auto found = graphs_.find(graph_key(step, true));
  if (continuing && inside && found != graphs_.end() && found->second.graph) {
    APUD_CUDA(cudaGraphLaunch(found->second.graph, stream_));
    APUD_CUDA(cudaEventRecord(a.done[a.turn ^ 1], stream_));
    a.running = true;
  }
  APUD_CUDA(cudaEventSynchronize(a.done[a.turn]));
}

void CudaExecutor::read_drawn(const Batch& batch, std::span<SampledToken> out) {
  ahead_.tokens.clear();
  for (size_t r = 0; r < batch.sequences.size(); ++r) {
    const int position = batch.sequences[r].position;
    const SampledToken& drawn = drawn_[advanced_slot(static_cast<int>(r), position)];
    ahead_.tokens.push_back(drawn.id);
    out[r] = checked(drawn, vocab_);
  }
}

}  // namespace apud::cuda
