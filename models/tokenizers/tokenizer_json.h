// Hugging Face's tokenizer.json, the byte-level BPE kind. What it names and we do not know is
// refused by name.
#pragma once

#include <memory>

#include "base/file.h"
#include "models/tokenizer.h"
#include "models/tokenizers/json.h"

namespace apud {

/// `config` is the folder's tokenizer_config.json (an object, maybe empty): BOS, EOS.
std::unique_ptr<Tokenizer> make_json_tokenizer(const Path& path, const nlohmann::json& config);
/// The same from bytes (tests, fuzzing); `name` is used in messages.
std::unique_ptr<Tokenizer> parse_json_tokenizer(std::string_view bytes, const std::string& name,
                                                const nlohmann::json& config);

}  // namespace apud
