#include "kernels/bert.h"

#include <fmt/format.h>

namespace apud {

ValueId add_bert(Program& program, const BertShape& s, const BertWeightFn& weight) {
  auto value = [&](const char* name, int cols) {
    program.values.push_back({name, Rows::kTokens, cols});
    return static_cast<ValueId>(program.values.size()) - 1;
  };
  auto add = [&](Op op) { program.ops.push_back(std::move(op)); };
  const int heads_width = s.heads * s.head_dim;
  ValueId x = value("x", s.width), q = value("q", heads_width), k = value("k", heads_width);
  ValueId v = value("v", heads_width), mixed = value("mixed", heads_width);
  ValueId branch = value("branch", s.width), inner = value("inner", s.ffn);

  auto embed = [&](const char* name, int rows, IndexSource index, int offset) {
    EmbedOp op{weight(BertWeight::kTable, name, rows, s.width), x};
    op.index = index;
    op.offset = offset;
    op.accumulate = index != IndexSource::kToken;
    add(op);
  };
  auto norm = [&](const std::string& name) {
    NormOp op{x, x};
    op.kind = NormKind::kLayer;
    op.eps = s.norm_eps;
    op.weight = weight(BertWeight::kNormWeight, name + ".weight", 1, s.width);
    op.bias = weight(BertWeight::kNormBias, name + ".bias", 1, s.width);
    add(op);
  };
  auto linear = [&](const std::string& name, ValueId from, ValueId to) {
    const int in = program.values[static_cast<size_t>(from)].cols;
    const int out = program.values[static_cast<size_t>(to)].cols;
    const WeightId matrix = weight(BertWeight::kMatrix, name + ".weight", out, in);
    add(LinearOp{from, to, matrix, weight(BertWeight::kBias, name + ".bias", 1, out)});
  };

  embed("embeddings.word_embeddings.weight", s.vocab, IndexSource::kToken, 0);
  embed("embeddings.position_embeddings.weight", s.position_rows, IndexSource::kPosition,
        s.position_offset);
  // One sentence at a time: every token is of type 0.
  embed("embeddings.token_type_embeddings.weight", s.type_rows, IndexSource::kZero, 0);
  norm("embeddings.LayerNorm");
  for (int layer = 0; layer < s.layers; ++layer) {
    const std::string at = fmt::format("encoder.layer.{}.", layer);
    linear(at + "attention.self.query", x, q);
    linear(at + "attention.self.key", x, k);
    linear(at + "attention.self.value", x, v);
    AttentionOp attention{q, mixed, k, v};
    attention.shape = {s.heads, s.heads, s.head_dim};
    attention.scale = s.attention_scale;
    add(attention);
    linear(at + "attention.output.dense", mixed, branch);
    add(AddOp{branch, x});
    norm(at + "attention.output.LayerNorm");
    linear(at + "intermediate.dense", x, inner);
    add(ActivationOp{inner, kNone, inner, s.activation});
    linear(at + "output.dense", inner, branch);
    add(AddOp{branch, x});
    norm(at + "output.LayerNorm");
  }
  return x;
}

}  // namespace apud
