// After Kudo and Richardson, "SentencePiece: A simple and language independent subword tokenizer"
// (2018). Both algorithms are ours where the vocabulary allows; the library is the rest's and the
// tests' oracle.
#include "models/tokenizers/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include "base/error.h"
#include "base/hash.h"

namespace apud {
namespace {

std::string running_text(const SentencePieceModel::Piece& piece) {
  if (piece.kind == TokenKind::kByte)
    return std::string(1, static_cast<char>(byte_of_piece(piece.text)));
  if (piece.kind == TokenKind::kControl || piece.kind == TokenKind::kUnknown) return piece.text;
  if (piece.kind == TokenKind::kUnused) return {};
  std::string out = piece.text;
  for (size_t at = out.find(kPieceSpace); at != std::string::npos;
       at = out.find(kPieceSpace, at + 1)) {
    out.replace(at, kPieceSpace.size(), " ");
  }
  return out;
}

}  // namespace

struct SentencePieceTokenizer::Library {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceSource source)
    : TokenizerBase(std::move(source.roles), source.file),
      bpe_(source.model.algorithm == SentencePieceModel::kBpe),
      fairseq_(source.fairseq),
      dummy_prefix_(source.model.add_dummy_prefix) {
  check_sentencepiece_model(source.model, source.file);
  const auto& pieces = source.model.pieces;
  bytes_.reserve(pieces.size() + 2);
  if (fairseq_) {
    if (pieces.size() < 4 || pieces[0].kind != TokenKind::kUnknown) {
      throw Error(ErrorKind::kBadData,
                  source.file + ": piece 0 is not the unknown piece, expected XLM-R's order");
    }
    bytes_ = {"<s>", "<pad>", "</s>", "<unk>"};
    for (size_t i = 3; i < pieces.size(); ++i) bytes_.push_back(running_text(pieces[i]));
    bytes_.push_back("<mask>");
  } else {
    for (const auto& piece : pieces) bytes_.push_back(running_text(piece));
  }
  std::string proto = serialize_sentencepiece_model(source.model);
  fingerprint_ = sha256_hex(proto + (fairseq_ ? "fairseq" : ""));
  if (!source.use_library && SentencePieceBpe::fits(source.model)) {
    encoder_ = std::make_unique<SentencePieceBpe>(source.model, source.file);
    return;
  }
  if (!source.use_library && SentencePieceUnigram::fits(source.model)) {
    unigram_ = std::make_unique<SentencePieceUnigram>(source.model);
    return;
  }
  library_ = std::make_unique<Library>();
  auto status = library_->processor.LoadFromSerializedProto(proto);
  if (!status.ok()) {
    throw Error(ErrorKind::kBadData,
                source.file + ": SentencePiece refuses it: " + status.ToString());
  }
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::string SentencePieceTokenizer::kind() const {
  return std::string("sentencepiece:") + (bpe_ ? "bpe" : "unigram") + (fairseq_ ? ":xlm-r" : "");
}

void SentencePieceTokenizer::encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
  if (encoder_) return encoder_->encode(text, ids);
  std::vector<int> pieces;
  if (unigram_) {
    unigram_->encode(text, pieces);
  } else {
    // Encoding fails only on allocation; the status then names a broken model, which was checked.
    auto status = library_->processor.Encode(absl::string_view(text.data(), text.size()), &pieces);
    if (!status.ok()) throw Error(ErrorKind::kInternal, "SentencePiece: " + status.ToString());
  }
  ids.reserve(ids.size() + pieces.size());
  for (int id : pieces) ids.push_back(fairseq_ ? (id == 0 ? 3 : id + 1) : id);
}

std::string SentencePieceTokenizer::decode_token(int32_t id, bool special) const {
  if (id < 0 || static_cast<size_t>(id) >= bytes_.size()) return {};
  if (!special && is_control(id)) return {};
  return bytes_[id];
}

std::string SentencePieceTokenizer::decode(std::span<const int32_t> ids, bool special) const {
  std::string text = TokenizerBase::decode(ids, special);
  if (dummy_prefix_ && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

}  // namespace apud
