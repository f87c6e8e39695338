// libFuzzer target: a vocabulary and a text to encode with it. The first byte chooses a
// tokenizer.json or a SentencePiece model; the next two say where the text begins. Nothing but
// apud::Error may leave it.
#include "base/error.h"
#include "models/tokenizers/sentencepiece_tokenizer.h"
#include "models/tokenizers/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 3, size - 3);
  size_t cut = bytes.size() - std::min<size_t>(bytes.size(), data[1] << 8 | data[2]);
  std::string_view vocabulary = bytes.substr(0, cut), text = bytes.substr(cut);
  try {
    std::unique_ptr<apud::Tokenizer> tokenizer;
    if (data[0] % 2 == 0) {
      tokenizer = apud::parse_json_tokenizer(vocabulary, "fuzz", nlohmann::json::object());
    } else {
      apud::SentencePieceSource source;
      source.file = "fuzz";
      source.fairseq = data[0] % 4 == 3;
      source.model = apud::parse_sentencepiece_model(vocabulary, "fuzz");
      source.roles.control.resize(source.model.pieces.size() + 2);
      tokenizer = std::make_unique<apud::SentencePieceTokenizer>(std::move(source));
    }
    tokenizer->decode(tokenizer->encode(text), true);
  } catch (const apud::Error&) {
  }
  return 0;
}
