// BERT and XLM-RoBERTa encoders, and the sentence-transformers head of every embedder.
#include "kernels/bert.h"
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
  BertShape shape;
  shape.vocab = c.vocab;
  shape.width = c.width;
  shape.ffn = c.ffn_width;
  shape.layers = c.layers;
  shape.heads = c.heads;
  shape.head_dim = c.head_dim;
  shape.position_rows = config.position_rows;
  shape.position_offset = config.position_offset;
  auto types = source.find(prefix + "embeddings.token_type_embeddings.weight");
  if (types) shape.type_rows = static_cast<int>(types->rows);
  shape.norm_eps = c.norm_eps;
  shape.attention_scale = c.attention_scale;
  shape.activation = config.activation;
  ValueId x = add_bert(b.program(), shape,
                       [&](BertWeight, const std::string& name, int64_t rows, int64_t cols) {
                         return b.matrix(prefix + name, rows, cols);
                       });
  return b.finish(add_sentence_head(b, config, x));
}

}  // namespace apud
