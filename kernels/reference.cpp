// The reference executor: every op as its definition reads, unfused, values in float, sums in
// double. It is the oracle of all other executors, so it favours being evidently right over being
// fast. Linear layers decode each weight row once per step and share it among the step's tokens,
// which makes a 0.5B model at 256 tokens a matter of seconds.
//
// A row's result never depends on its neighbours: the order of every sum is fixed by the shapes.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "base/check.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/quant.h"

namespace apud {

namespace {

/// KV pages in float. Page of group g: [layer][K, V][token][kv_heads * head_dim].
class ReferenceKv : public KvStore {
 public:
  ReferenceKv(const std::vector<KvGroup>& groups, std::span<const int> pages) : groups_(groups) {
    APUD_CHECK(pages.size() == groups.size(), "a page count for every KV group");
    try {
      for (size_t g = 0; g < groups.size(); ++g) {
        pages_.push_back(pages[g]);
        data_.emplace_back(static_cast<size_t>(pages[g]) * page_floats(static_cast<int>(g)));
      }
    } catch (const std::bad_alloc&) {
      throw Error(ErrorKind::kBusy, "not enough memory for the KV cache",
                  "ask for a smaller context");
    }
  }
  int page_count(int group) const override { return pages_[static_cast<size_t>(group)]; }
  size_t page_bytes(int group) const override { return page_floats(group) * sizeof(float); }
  std::string layout_id() const override { return "reference-f32-1"; }

  void copy_page(int group, int from, int to, int tokens) override {
    const KvGroup& g = groups_[static_cast<size_t>(group)];
    size_t width = token_floats(group);
    for (int layer = 0; layer < g.layers; ++layer) {
      for (bool value : {false, true}) {
        std::memcpy(at(group, to, layer, value, 0), at(group, from, layer, value, 0),
                    width * static_cast<size_t>(tokens) * sizeof(float));
      }
    }
  }
  void export_page(int group, int page, std::span<std::byte> out) override {
    APUD_CHECK(out.size() == page_bytes(group), "size of an exported page");
    std::memcpy(out.data(), at(group, page, 0, false, 0), out.size());
  }
  void import_page(int group, int page, std::span<const std::byte> bytes) override {
    APUD_CHECK(bytes.size() == page_bytes(group), "size of an imported page");
    std::memcpy(at(group, page, 0, false, 0), bytes.data(), bytes.size());
  }

  /// Row of `token` (0..63 within the page) of K or V: kv_heads * head_dim floats.
  float* at(int group, int page, int layer, bool value, int token) {
    APUD_CHECK(page >= 0 && page < page_count(group), "KV page in range");
    size_t width = token_floats(group);
    size_t slot = static_cast<size_t>(layer) * 2 + (value ? 1 : 0);
    return data_[static_cast<size_t>(group)].data() +
           static_cast<size_t>(page) * page_floats(group) +
           (slot * kKvPageTokens + static_cast<size_t>(token)) * width;
  }

 private:
  size_t token_floats(int group) const {
    const KvGroup& g = groups_[static_cast<size_t>(group)];
    return static_cast<size_t>(g.kv_heads) * static_cast<size_t>(g.head_dim);
  }
  size_t page_floats(int group) const {
    return token_floats(group) * 2 * kKvPageTokens *
           static_cast<size_t>(groups_[static_cast<size_t>(group)].layers);
  }
  std::vector<KvGroup> groups_;
  std::vector<int> pages_;
  std::vector<std::vector<float>> data_;
};

// Eight fixed lanes of double, so that the sum has one order whatever the compiler vectorises.
constexpr int kLanes = 8;
constexpr int kTile = 512;    // columns in cache at a time
constexpr int kRowBlock = 4;  // weight rows that share one pass over the tokens

/// sums[r] += w[r] · x for kRowBlock rows of `stride` doubles over n columns.
void add_dots(const double* w, size_t stride, const double* x, int n, double* sums) {
  typedef double Pair __attribute__((vector_size(16)));
  Pair lanes[kRowBlock][kLanes / 2] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes / 2; ++l) {
      Pair a;
      std::memcpy(&a, x + i + 2 * l, sizeof a);
      for (int r = 0; r < kRowBlock; ++r) {
        Pair b;
        std::memcpy(&b, w + static_cast<size_t>(r) * stride + i + 2 * l, sizeof b);
        lanes[r][l] += a * b;
      }
    }
  }
  for (int r = 0; r < kRowBlock; ++r) {
    Pair sum = (lanes[r][0] + lanes[r][1]) + (lanes[r][2] + lanes[r][3]);
    double total = sum[0] + sum[1];
    for (int j = i; j < n; ++j)
      total += w[static_cast<size_t>(r) * stride + static_cast<size_t>(j)] * x[j];
    sums[r] += total;
  }
}

double dot(const float* a, const float* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

double activate(Activation kind, double x) {
  switch (kind) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  }
  APUD_CHECK(false, "activation in range");
  return 0;
}

void rms_norm(const float* x, int n, const float* weight, float offset, float eps, float* out) {
  double squares = 0;
  for (int i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  double scale = 1 / std::sqrt(squares / n + eps);
  for (int i = 0; i < n; ++i) {
    out[i] = static_cast<float>(x[i] * scale * (static_cast<double>(weight[i]) + offset));
  }
}

void layer_norm(const float* x, int n, const float* weight, float offset, const float* bias,
                float eps, float* out) {
  double mean = 0, variance = 0;
  for (int i = 0; i < n; ++i) mean += x[i];
  mean /= n;
  for (int i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
  double scale = 1 / std::sqrt(variance / n + eps);
  for (int i = 0; i < n; ++i) {
    double y = (x[i] - mean) * scale * (static_cast<double>(weight[i]) + offset);
    out[i] = static_cast<float>(y + (bias ? bias[i] : 0));
  }
}

class ReferenceExecutor : public Executor {
 public:
  ReferenceExecutor(const Program& program, const Weights& weights)
      : program_(program), weights_(weights), pool_(usable_cpus()) {
    validate_program(program_, weights_);
    buffers_.resize(program_.values.size());
  }

  std::string name() const override { return "reference"; }
  const Program& program() const override { return program_; }
  KvType default_kv_type() const override { return KvType::kF32; }
  int max_step_tokens() const override { return 512; }

  std::unique_ptr<KvStore> make_kv(std::span<const int> pages_per_group, KvType type) override {
    if (type != KvType::kF32) {
      throw Error(ErrorKind::kUnavailable,
                  fmt::format("the reference executor keeps its KV cache in f32, not {}",
                              kv_type_name(type)));
    }
    return std::make_unique<ReferenceKv>(program_.kv_groups, pages_per_group);
  }

  size_t memory_bytes() const override {
    size_t total = 0;
    for (const auto& buffer : buffers_) total += buffer.capacity() * sizeof(float);
    return total + wide_.capacity() * sizeof(double);
  }

  void run(const Batch& batch, KvStore* kv, std::span<float> out) override {
    check_batch(batch, kv, out);
    batch_ = &batch;
    kv_ = static_cast<ReferenceKv*>(kv);
    out_ = out;
    token_positions();
    for (size_t i = 0; i < program_.values.size(); ++i) {
      auto id = static_cast<ValueId>(i);
      if (id != program_.result) {
        buffers_[i].assign(static_cast<size_t>(rows(id)) * static_cast<size_t>(cols(id)), 0);
      }
    }
    for (const Op& op : program_.ops) {
      std::visit([this](const auto& each) { apply(each); }, op);
    }
  }

 private:
  void check_batch(const Batch& batch, KvStore* kv, std::span<float> out) const {
    APUD_CHECK(!batch.tokens.empty() && !batch.sequences.empty(), "a step has tokens");
    APUD_CHECK((kv == nullptr) == program_.is_encoder(), "decoders take a KV store, encoders none");
    int next = 0;
    for (const SequenceSlice& s : batch.sequences) {
      APUD_CHECK(s.first_row == next && s.token_count > 0 && s.position >= 0,
                 "slices cover the tokens");
      next += s.token_count;
    }
    APUD_CHECK(static_cast<size_t>(next) == batch.tokens.size(), "slices cover the tokens");
    for (int32_t row : batch.output_rows) APUD_CHECK(row >= 0 && row < next, "output row in range");
    const Value& result = program_.values[static_cast<size_t>(program_.result)];
    size_t count =
        result.rows == Rows::kSequences ? batch.sequences.size() : batch.output_rows.size();
    APUD_CHECK(out.size() == count * static_cast<size_t>(result.cols), "size of the result");
  }

  void token_positions() {
    positions_.resize(batch_->tokens.size());
    for (const SequenceSlice& s : batch_->sequences) {
      for (int i = 0; i < s.token_count; ++i) {
        positions_[static_cast<size_t>(s.first_row + i)] = s.position + i;
      }
    }
  }

  int rows(ValueId id) const {
    switch (program_.values[static_cast<size_t>(id)].rows) {
      case Rows::kTokens:
        return static_cast<int>(batch_->tokens.size());
      case Rows::kOutputs:
        return static_cast<int>(batch_->output_rows.size());
      case Rows::kSequences:
        return static_cast<int>(batch_->sequences.size());
    }
    return 0;
  }
  int cols(ValueId id) const { return program_.values[static_cast<size_t>(id)].cols; }
  float* data(ValueId id) {
    return id == program_.result ? out_.data() : buffers_[static_cast<size_t>(id)].data();
  }
  float* row(ValueId id, int r) {
    return data(id) + static_cast<size_t>(r) * static_cast<size_t>(cols(id));
  }
  std::vector<float> vector(WeightId id) const {
    const WeightView& view = weights_[static_cast<size_t>(id)];
    std::vector<float> values(static_cast<size_t>(view.cols));
    dequantize_row(view, 0, values.data());
    return values;
  }
  void for_rows(int count, const std::function<void(int)>& body) {
    pool_.parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) body(static_cast<int>(r));
    });
  }

  void apply(const EmbedOp& op) {
    const WeightView& table = weights_[static_cast<size_t>(op.table)];
    std::vector<float> values(static_cast<size_t>(table.cols));
    for (int t = 0; t < rows(op.out); ++t) {
      auto at = static_cast<size_t>(t);
      int64_t index = op.index == IndexSource::kToken      ? batch_->tokens[at]
                      : op.index == IndexSource::kPosition ? positions_[at]
                                                           : 0;
      index += op.offset;
      APUD_CHECK(index >= 0 && index < table.rows, "token or position inside its embedding table");
      dequantize_row(table, index, values.data());
      float* out = row(op.out, t);
      for (int i = 0; i < cols(op.out); ++i) {
        float value = values[static_cast<size_t>(i)] * op.scale;
        out[i] = op.accumulate ? out[i] + value : value;
      }
    }
  }

  void apply(const NormOp& op) {
    std::vector<float> weight = vector(op.weight);
    std::vector<float> bias = op.bias == kNone ? std::vector<float>() : vector(op.bias);
    for_rows(rows(op.x), [&](int r) {
      if (op.kind == NormKind::kRms) {
        rms_norm(row(op.x, r), cols(op.x), weight.data(), op.weight_offset, op.eps, row(op.out, r));
        if (!bias.empty()) {
          for (int i = 0; i < cols(op.x); ++i) row(op.out, r)[i] += bias[static_cast<size_t>(i)];
        }
      } else {
        layer_norm(row(op.x, r), cols(op.x), weight.data(), op.weight_offset,
                   bias.empty() ? nullptr : bias.data(), op.eps, row(op.out, r));
      }
    });
  }

  void apply(const LinearOp& op) {
    const WeightView& weight = weights_[static_cast<size_t>(op.weight)];
    int count = rows(op.x), in = cols(op.x), features = cols(op.out);
    auto stride = static_cast<size_t>(in);
    wide_.assign(data(op.x), data(op.x) + static_cast<size_t>(count) * stride);
    std::vector<float> bias = op.bias == kNone ? std::vector<float>() : vector(op.bias);
    int64_t blocks = (features + kRowBlock - 1) / kRowBlock;
    pool_.parallel_for(blocks, 8, [&](int64_t begin, int64_t end) {
      std::vector<float> decoded(stride);
      std::vector<double> w(stride * kRowBlock);
      std::vector<double> sums(static_cast<size_t>(count) * kRowBlock);  // [row of x][weight row]
      for (int64_t block = begin; block < end; ++block) {
        int first = static_cast<int>(block) * kRowBlock;
        int used = std::min(kRowBlock, features - first);
        for (int r = 0; r < used; ++r) {
          dequantize_row(weight, first + r, decoded.data());
          std::copy(decoded.begin(), decoded.end(),
                    w.begin() + static_cast<std::ptrdiff_t>(stride) * r);
        }
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int column = 0; column < in; column += kTile) {
          int n = std::min(kTile, in - column);
          for (int t = 0; t < count; ++t) {
            add_dots(w.data() + column, stride,
                     wide_.data() + static_cast<size_t>(t) * stride + column, n,
                     sums.data() + static_cast<size_t>(t) * kRowBlock);
          }
        }
        for (int t = 0; t < count; ++t) {
          float* out = row(op.out, t) + first;
          for (int r = 0; r < used; ++r) {
            double sum = sums[static_cast<size_t>(t) * kRowBlock + static_cast<size_t>(r)];
            if (!bias.empty()) sum += bias[static_cast<size_t>(first + r)];
            out[r] = static_cast<float>(op.accumulate ? out[r] + sum : sum);
          }
        }
      }
    });
  }

  void rotate(const Rotary& rotary, int position, float* head) const {
    size_t half = rotary.inv_freq.size();
    for (size_t i = 0; i < half; ++i) {
      double angle = static_cast<double>(position) * rotary.inv_freq[i];
      double c = std::cos(angle) * rotary.magnitude, s = std::sin(angle) * rotary.magnitude;
      double a = head[i], b = head[i + half];
      head[i] = static_cast<float>(a * c - b * s);
      head[i + half] = static_cast<float>(b * c + a * s);
    }
  }

  void apply(const RotaryOp& op) {
    int dim = op.shape.dim;
    std::vector<float> q_norm = op.q_norm == kNone ? std::vector<float>() : vector(op.q_norm);
    std::vector<float> k_norm = op.k_norm == kNone ? std::vector<float>() : vector(op.k_norm);
    auto heads = [&](float* at, int count, const std::vector<float>& norm, int position) {
      for (int h = 0; h < count; ++h, at += dim) {
        if (!norm.empty()) rms_norm(at, dim, norm.data(), op.norm_offset, op.norm_eps, at);
        rotate(op.rotary, position, at);
      }
    };
    for_rows(rows(op.q), [&](int t) {
      int position = positions_[static_cast<size_t>(t)];
      heads(row(op.q, t), op.shape.heads, q_norm, position);
      heads(row(op.k, t), op.shape.kv_heads, k_norm, position);
    });
    if (op.kv_layer == kNone) return;
    KvLayerPlace place = program_.kv_layers[static_cast<size_t>(op.kv_layer)];
    size_t bytes = static_cast<size_t>(cols(op.k)) * sizeof(float);
    for (const SequenceSlice& s : batch_->sequences) {
      for (int i = 0; i < s.token_count; ++i) {
        int position = s.position + i, t = s.first_row + i;
        int page = page_of(s, place.group, position);
        std::memcpy(kv_->at(place.group, page, place.index, false, position % kKvPageTokens),
                    row(op.k, t), bytes);
        std::memcpy(kv_->at(place.group, page, place.index, true, position % kKvPageTokens),
                    row(op.v, t), bytes);
      }
    }
  }

  static int page_of(const SequenceSlice& s, int group, int position) {
    auto block = static_cast<size_t>(position / kKvPageTokens);
    auto pages = s.pages[static_cast<size_t>(group)];
    APUD_CHECK(block < pages.size() && pages[block] != kNone,
               "a page for every position that is used");
    return pages[block];
  }

  void apply(const AttentionOp& op) {
    for (const SequenceSlice& s : batch_->sequences) {
      pool_.parallel_for(static_cast<int64_t>(s.token_count) * op.shape.heads, 1,
                         [&](int64_t begin, int64_t end) {
                           std::vector<double> scores;
                           std::vector<const float*> values;
                           for (int64_t i = begin; i < end; ++i) {
                             attend(op, s, static_cast<int>(i / op.shape.heads),
                                    static_cast<int>(i % op.shape.heads), scores, values);
                           }
                         });
    }
  }

  /// One query row and head of a sequence.
  void attend(const AttentionOp& op, const SequenceSlice& s, int i, int head,
              std::vector<double>& scores, std::vector<const float*>& values) {
    int dim = op.shape.dim;
    int kv_head = head / (op.shape.heads / op.shape.kv_heads);
    int first, last;  // positions seen, inclusive
    if (op.kv_layer != kNone) {
      last = s.position + i;
      first = op.window > 0 ? std::max(0, last - op.window + 1) : 0;
    } else {
      first = op.window > 0 ? std::max(0, i - op.window / 2) : 0;
      last = op.window > 0 ? std::min(s.token_count - 1, i + op.window / 2) : s.token_count - 1;
    }
    const float* q =
        row(op.q, s.first_row + i) + static_cast<size_t>(head) * static_cast<size_t>(dim);
    scores.clear();
    values.clear();
    auto offset = static_cast<size_t>(kv_head) * static_cast<size_t>(dim);
    double best = -std::numeric_limits<double>::infinity();
    for (int p = first; p <= last; ++p) {
      const float *k, *v;
      if (op.kv_layer == kNone) {
        k = row(op.k, s.first_row + p) + offset;
        v = row(op.v, s.first_row + p) + offset;
      } else {
        KvLayerPlace place = program_.kv_layers[static_cast<size_t>(op.kv_layer)];
        int page = page_of(s, place.group, p);
        k = kv_->at(place.group, page, place.index, false, p % kKvPageTokens) + offset;
        v = kv_->at(place.group, page, place.index, true, p % kKvPageTokens) + offset;
      }
      double score = dot(q, k, dim) * op.scale;
      if (op.softcap > 0) score = op.softcap * std::tanh(score / op.softcap);
      scores.push_back(score);
      values.push_back(v);
      best = std::max(best, score);
    }
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - best);
    std::vector<double> mixed(static_cast<size_t>(dim), 0.0);
    for (size_t p = 0; p < scores.size(); ++p) {
      for (int d = 0; d < dim; ++d) mixed[static_cast<size_t>(d)] += scores[p] * values[p][d];
    }
    float* out =
        row(op.out, s.first_row + i) + static_cast<size_t>(head) * static_cast<size_t>(dim);
    for (int d = 0; d < dim; ++d) out[d] = static_cast<float>(mixed[static_cast<size_t>(d)] / sum);
  }

  void apply(const ActivationOp& op) {
    for_rows(rows(op.gate), [&](int r) {
      for (int i = 0; i < cols(op.gate); ++i) {
        double value = activate(op.kind, row(op.gate, r)[i]);
        if (op.up != kNone) value *= row(op.up, r)[i];
        row(op.out, r)[i] = static_cast<float>(value);
      }
    });
  }

  void apply(const AddOp& op) {
    auto count = static_cast<size_t>(rows(op.x)) * static_cast<size_t>(cols(op.x));
    for (size_t i = 0; i < count; ++i) data(op.out)[i] += data(op.x)[i];
  }

  void apply(const SelectOp& op) {
    for (int r = 0; r < rows(op.out); ++r) {
      const float* from = row(op.x, batch_->output_rows[static_cast<size_t>(r)]);
      std::copy(from, from + cols(op.x), row(op.out, r));
    }
  }

  void apply(const PoolOp& op) {
    int width = cols(op.x);
    for (int r = 0; r < rows(op.out); ++r) {
      const SequenceSlice& s = batch_->sequences[static_cast<size_t>(r)];
      int first = op.kind == PoolKind::kLast ? s.token_count - 1 : 0;
      int end = op.kind == PoolKind::kFirst ? 1 : s.token_count;
      for (int i = 0; i < width; ++i) {
        double sum = 0;
        for (int t = first; t < end; ++t) sum += row(op.x, s.first_row + t)[i];
        row(op.out, r)[i] = static_cast<float>(sum / (end - first));
      }
    }
  }

  void apply(const SoftcapOp& op) {
    if (op.softcap <= 0) return;
    auto count = static_cast<size_t>(rows(op.x)) * static_cast<size_t>(cols(op.x));
    float* x = data(op.x);
    for (size_t i = 0; i < count; ++i) {
      x[i] = static_cast<float>(op.softcap * std::tanh(static_cast<double>(x[i]) / op.softcap));
    }
  }

  void apply(const L2NormalizeOp& op) {
    for (int r = 0; r < rows(op.x); ++r) {
      float* x = row(op.x, r);
      double norm = std::sqrt(dot(x, x, cols(op.x)));
      if (norm == 0) continue;
      for (int i = 0; i < cols(op.x); ++i) x[i] = static_cast<float>(x[i] / norm);
    }
  }

  const Program program_;
  const Weights weights_;
  ThreadPool pool_;
  std::vector<std::vector<float>> buffers_;  // by value id, (rows, cols)
  std::vector<double> wide_;                 // input of a linear op
  std::vector<int> positions_;               // of each token row

  // Of the step in progress.
  const Batch* batch_ = nullptr;
  ReferenceKv* kv_ = nullptr;
  std::span<float> out_;
};

}  // namespace

std::unique_ptr<Executor> make_reference_executor(const Program& program, const Weights& weights) {
  return std::make_unique<ReferenceExecutor>(program, weights);
}

}  // namespace apud
