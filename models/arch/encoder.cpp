// BERT and XLM-RoBERTa encoders, and the sentence-transformers head of every embedder.
#include <fmt/format.h>

#include "models/arch/builder.h"

namespace apud {

ValueId add_sentence_head(ProgramBuilder& builder, const ArchConfig& config, ValueId x) {
  const ModelConfig& c = config.model;
  ValueId vector = builder.value("pooled", c.width, Rows::kSequences);
  builder.add(PoolOp{x, vector, c.pooling});
  for (const DenseLayer& layer : config.dense) {
    ValueId next = builder.value("dense", layer.out, Rows::kSequences);
    WeightId bias = layer.bias ? builder.vector(layer.prefix + "linear.bias", layer.out) : kNone;
    builder.add(LinearOp{
        vector, next, builder.matrix(layer.prefix + "linear.weight", layer.out, layer.in), bias});
    vector = next;
  }
  if (config.normalize) builder.add(L2NormalizeOp{vector});
  return vector;
}

LoadedProgram build_bert(const ArchConfig& config, const TensorSource& source) {
  const ModelConfig& c = config.model;
  ProgramBuilder b(c.architecture, source);
  b.program().max_positions = c.context;
  // Files of a whole model with a head carry the model's name before each tensor's.
  std::string prefix;
  for (const char* candidate : {"bert.", "roberta."}) {
    if (source.find(std::string(candidate) + "embeddings.word_embeddings.weight"))
      prefix = candidate;
  }
  ValueId x = b.value("x", c.width), q = b.value("q", c.width), k = b.value("k", c.width);
  ValueId v = b.value("v", c.width), mixed = b.value("mixed", c.width);
  ValueId branch = b.value("branch", c.width), inner = b.value("inner", c.ffn_width);

  auto norm = [&](const std::string& name) {
    NormOp op;
    op.x = op.out = x;
    op.kind = NormKind::kLayer;
    op.eps = c.norm_eps;
    op.weight = b.vector(name + ".weight", c.width);
    op.bias = b.vector(name + ".bias", c.width);
    b.add(op);
  };
  auto linear = [&](const std::string& name, ValueId from, ValueId to) {
    int in = b.program().values[static_cast<size_t>(from)].cols;
    int out = b.program().values[static_cast<size_t>(to)].cols;
    b.add(LinearOp{from, to, b.matrix(name + ".weight", out, in), b.vector(name + ".bias", out)});
  };

  std::string tables = prefix + "embeddings.";
  b.add(EmbedOp{b.matrix(tables + "word_embeddings.weight", c.vocab, c.width), x});
  EmbedOp position{b.matrix(tables + "position_embeddings.weight", config.position_rows, c.width),
                   x};
  position.index = IndexSource::kPosition;
  position.offset = config.position_offset;
  position.accumulate = true;
  b.add(position);
  // One sentence at a time: every token is of type 0.
  std::string types = tables + "token_type_embeddings.weight";
  auto type_view = source.find(types);
  EmbedOp type{b.matrix(types, type_view ? type_view->rows : 1, c.width), x};
  type.index = IndexSource::kZero;
  type.accumulate = true;
  b.add(type);
  norm(tables + "LayerNorm");

  for (int layer = 0; layer < c.layers; ++layer) {
    std::string at = fmt::format("{}encoder.layer.{}.", prefix, layer);
    linear(at + "attention.self.query", x, q);
    linear(at + "attention.self.key", x, k);
    linear(at + "attention.self.value", x, v);
    AttentionOp attention;
    attention.q = q;
    attention.k = k;
    attention.v = v;
    attention.out = mixed;
    attention.shape = {c.heads, c.heads, c.head_dim};
    attention.scale = c.attention_scale;
    b.add(attention);
    linear(at + "attention.output.dense", mixed, branch);
    b.add(AddOp{branch, x});
    norm(at + "attention.output.LayerNorm");
    linear(at + "intermediate.dense", x, inner);
    b.add(ActivationOp{inner, kNone, inner, config.activation});
    linear(at + "output.dense", inner, branch);
    b.add(AddOp{branch, x});
    norm(at + "output.LayerNorm");
  }
  return b.finish(add_sentence_head(b, config, x));
}

}  // namespace apud
