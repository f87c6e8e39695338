// The hostile corpus for vocabularies and templates (reliability decisions G18-G23, T1-T5, T7):
// each file is refused as bad data, or loads and encodes, in bounded processor time.
#include <gtest/gtest.h>

#include <cstdio>
#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/chat_template.h"
#include "models/gguf.h"
#include "models/tokenizer.h"
#include "models/tokenizers/bpe.h"
#include "models/tokenizers/sentencepiece_tokenizer.h"
#include "models/tokenizers/tokenizer_json.h"
#include "tests/support/corpus.h"
#include "tests/support/gguf_writer.h"

namespace apud {
namespace {

using test::Bytes;
using test::GgufWriter;
using test::kSlower;

/// The message with which `load` refuses, empty when it does not. Within `limit` seconds.
std::string refusal(const std::function<void()>& load, double limit = 0.5) {
  return test::refusal_of(load, limit * kSlower);
}

void expect_contains(const std::string& message, const std::string& field) {
  EXPECT_NE(message.find(field), std::string::npos) << field << " not in: '" << message << "'";
}

// ---- GGUF vocabularies ----

std::string strings(const std::vector<std::string>& values) {
  Bytes out;
  out.number<uint32_t>(test::kArray)
      .number<uint32_t>(test::kString)
      .number<uint64_t>(values.size());
  for (const auto& value : values) out.string(value);
  return out.str();
}
template <class T>
std::string numbers(uint32_t type, const std::vector<T>& values) {
  Bytes out;
  out.number<uint32_t>(test::kArray).number<uint32_t>(type).number<uint64_t>(values.size());
  for (T value : values) out.number(value);
  return out.str();
}

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kMerges = "tokenizer.ggml.merges";

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  void add(const std::string& token, int32_t type) {
    tokens.push_back(token);
    types.push_back(type);
  }
};

Vocabulary spm_vocabulary() {
  Vocabulary v;
  v.add("<unk>", 2);
  v.add("<s>", 3);
  v.add("</s>", 3);
  char text[8];
  for (int b = 0; b < 256; ++b) {
    std::snprintf(text, sizeof text, "<0x%02X>", b);
    v.add(text, 6);
  }
  for (const char* piece : {"a", "b", "ab", "\xE2\x96\x81"}) v.add(piece, 1);
  return v;
}

GgufWriter spm(const Vocabulary& v) {
  GgufWriter w;
  w.text("tokenizer.ggml.model", "llama").key(kTokens, strings(v.tokens));
  w.key(kTypes, numbers<int32_t>(test::kI32, v.types));
  w.key(kScores, numbers<float>(test::kF32, std::vector<float>(v.tokens.size(), -1)));
  return w.u32("tokenizer.ggml.unknown_token_id", 0).u32("tokenizer.ggml.bos_token_id", 1);
}

Vocabulary bpe_vocabulary() {
  Vocabulary v;
  for (int b = 0; b < 256; ++b) v.add(visible_of_byte(static_cast<uint8_t>(b)), 1);
  v.add("ab", 1);
  v.add("<|im_end|>", 3);
  return v;
}

GgufWriter bpe(const Vocabulary& v, const std::vector<std::string>& merges = {"a b"}) {
  GgufWriter w;
  w.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
  w.key(kTokens, strings(v.tokens)).key(kTypes, numbers<int32_t>(test::kI32, v.types));
  return w.key(kMerges, strings(merges)).u32("tokenizer.ggml.eos_token_id", 257);
}

/// Loads and encodes a few texts.
std::string gguf_refusal(const GgufWriter& writer, double limit = 0.5) {
  std::string bytes = writer.build();
  return refusal(
      [&] {
        GgufFile file = GgufFile::parse(test::as_bytes(bytes), "test.gguf");
        auto tokenizer = make_gguf_tokenizer(file);
        for (const char* text : {"", "ab ab", "\xFF\xFE", "<s>", "<|im_end|>"}) {
          for (int32_t id : tokenizer->encode(text)) {
            EXPECT_TRUE(id >= 0 && id < tokenizer->vocab_size()) << id;
            EXPECT_FALSE(tokenizer->is_control(id)) << id;
          }
        }
      },
      limit);
}

TEST(TokenizerCorpus, TheSoundOnesLoad) {
  EXPECT_EQ(gguf_refusal(spm(spm_vocabulary())), "");
  EXPECT_EQ(gguf_refusal(bpe(bpe_vocabulary())), "");
}

TEST(TokenizerCorpus, G18ArraysOfWrongTypeOrLength) {
  auto v = spm_vocabulary();
  size_t n = v.tokens.size();
  std::vector<uint8_t> u8(n, 1);
  expect_contains(gguf_refusal(spm(v).key(kScores, numbers<uint8_t>(test::kU8, u8))), kScores);
  expect_contains(gguf_refusal(spm(v).key(kTypes, numbers<uint8_t>(test::kU8, u8))), kTypes);
  // Of the same width, so that only the type tells.
  expect_contains(
      gguf_refusal(spm(v).key(kScores, numbers(test::kI32, std::vector<int32_t>(n, 1)))), kScores);
  for (size_t length : {size_t{0}, n - 1, n + 1}) {
    std::vector<float> scores(length, 0);
    std::vector<int32_t> types(length, 1);
    expect_contains(gguf_refusal(spm(v).key(kScores, numbers(test::kF32, scores))), kScores);
    expect_contains(gguf_refusal(spm(v).key(kTypes, numbers(test::kI32, types))), kTypes);
  }
  for (const char* key : {kTokens, kTypes, kScores}) {
    expect_contains(gguf_refusal(spm(v).without(key)), key);
  }
  expect_contains(gguf_refusal(bpe(bpe_vocabulary()).without(kMerges)), kMerges);
  expect_contains(gguf_refusal(bpe(bpe_vocabulary()).without(kTypes)), kTypes);
  expect_contains(gguf_refusal(spm(v).key(kTokens, strings({}))), kTokens);
  for (int32_t type : {0, 7, -1}) {
    auto wrong = v;
    wrong.types[5] = type;
    expect_contains(gguf_refusal(spm(wrong)), kTypes);
  }
  for (float score :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> scores(n, -1);
    scores[259] = score;
    expect_contains(gguf_refusal(spm(v).key(kScores, numbers(test::kF32, scores))), "score");
  }
  expect_contains(gguf_refusal(spm(v).text("tokenizer.ggml.model", "magic")), "magic");
  expect_contains(gguf_refusal(bpe(bpe_vocabulary()).text("tokenizer.ggml.pre", "magic")), "magic");
}

TEST(TokenizerCorpus, G19IdsOutside) {
  auto v = spm_vocabulary();
  for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                          "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id",
                          "tokenizer.ggml.eot_token_id"}) {
    for (uint32_t id : {static_cast<uint32_t>(v.tokens.size()), UINT32_MAX, 1u << 31}) {
      expect_contains(gguf_refusal(spm(v).u32(key, id)), key);
    }
    auto negative = Bytes().number<uint32_t>(test::kI32).number<int32_t>(-1).str();
    expect_contains(gguf_refusal(spm(v).key(key, negative)), key);
  }
  expect_contains(gguf_refusal(spm(v).without("tokenizer.ggml.unknown_token_id")),
                  "tokenizer.ggml.unknown_token_id");
}

TEST(TokenizerCorpus, G20ByteTokens) {
  for (const char* text : {"<0x-1>", "<0xZZ>", "<0x1>", "<0x100>", "<0x+1>", "0x41"}) {
    auto v = spm_vocabulary();
    v.tokens[3 + 65] = text;
    expect_contains(gguf_refusal(spm(v)), "byte piece");
  }
  auto v = spm_vocabulary();
  v.types[3 + 65] = 1;  // 255 of 256
  expect_contains(gguf_refusal(spm(v)), "255 byte pieces");
  v = spm_vocabulary();
  v.tokens[3 + 65] = v.tokens[3 + 66];  // one twice
  expect_contains(gguf_refusal(spm(v)), "repeated byte piece");
  v = spm_vocabulary();
  v.tokens[3 + 0xAB] = "<0xab>";
  v.tokens[3 + 0xAC] = "<0xAB>";  // one twice, in another spelling
  expect_contains(gguf_refusal(spm(v)), "repeated byte piece");
}

TEST(TokenizerCorpus, G21SizesAndOddTokens) {
  for (const std::string& odd :
       {std::string(), std::string("a"), std::string(1, '\0'), std::string("\xFF")}) {
    auto v = spm_vocabulary();
    v.add(odd, 1);
    v.add(odd, 1);
    EXPECT_EQ(gguf_refusal(spm(v)), "");
    auto b = bpe_vocabulary();
    b.add(odd, 1);
    b.add(odd, 3);
    EXPECT_EQ(gguf_refusal(bpe(b)), "");
  }
  for (int type : {1, 3, 4}) {
    auto v = spm_vocabulary();
    v.add(std::string(1 << 20, 'x'), type);
    expect_contains(gguf_refusal(spm(v)), kTokens);
    auto b = bpe_vocabulary();
    b.add(std::string(1 << 20, 'x'), type);
    expect_contains(gguf_refusal(bpe(b)), kTokens);
  }
  Vocabulary small;  // none of the bytes
  small.add("<unk>", 2);
  small.add("a", 1);
  EXPECT_NE(gguf_refusal(spm(small)), "");
  EXPECT_NE(gguf_refusal(bpe(small)), "");
}

TEST(TokenizerCorpus, G22Merges) {
  auto v = bpe_vocabulary();
  for (const char* merge : {"ab", "", " ", "a ", " b", "a b c", "a  b"}) {
    expect_contains(gguf_refusal(bpe(v, {merge})), kMerges);
  }
  for (const char* merge : {"a zz", "zz b", "a c"}) EXPECT_NE(gguf_refusal(bpe(v, {merge})), "");
  EXPECT_EQ(gguf_refusal(bpe(v, std::vector<std::string>(1'000'000, "a b")), 3), "");
}

// ---- SentencePiece files ----

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

std::string proto_refusal(const std::string& bytes, double limit = 0.5) {
  return refusal(
      [&] {
        SentencePieceSource source;
        source.file = "test.model";
        source.model = parse_sentencepiece_model(bytes, source.file);
        source.roles.control.resize(source.model.pieces.size());
        SentencePieceTokenizer tokenizer(std::move(source));
        for (const char* text : {"", "ab ab", "\xFF", "\xE2\x84\xAB \xEF\xAC\x81"})
          tokenizer.encode(text);
        EXPECT_EQ(tokenizer.decode_token(-1, true) + tokenizer.decode_token(1 << 30, true), "");
      },
      limit);
}

SentencePieceModel unigram_model() {
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, TokenKind::kUnknown},
                  {"a", -1, TokenKind::kNormal},
                  {"b", -2, TokenKind::kNormal}};
  return model;
}
std::string unigram(const SentencePieceModel& model) {
  return serialize_sentencepiece_model(model);
}

TEST(TokenizerCorpus, T1LongPieces) {
  for (size_t size : {size_t{65537}, size_t{400'000}}) {
    auto model = unigram_model();
    model.pieces.push_back({std::string(size, 'x'), -3, TokenKind::kNormal});
    expect_contains(proto_refusal(unigram(model)), "64 KiB");
  }
  EXPECT_EQ(proto_refusal(unigram(unigram_model())), "");
}

TEST(TokenizerCorpus, T2Charsmaps) {
  auto charsmap = [](uint32_t size, std::vector<uint32_t> units, const std::string& values) {
    Bytes out;
    out.number(size);
    for (uint32_t unit : units) out.number(unit);
    return out.raw(values).str();
  };
  auto sound = [&](auto change) {
    std::vector<uint32_t> units(512, 1);  // label 1 at the wrong place matches nothing
    units[0] = 256u << 10;
    change(units);
    auto model = unigram_model();
    model.charsmap = charsmap(2048, units, std::string("x\0", 2));
    return proto_refusal(unigram(model));
  };
  std::string field = "precompiled_charsmap";
  expect_contains(sound([](auto& u) { u[0] = 0x1FFFFFu << 10; }), field);
  expect_contains(sound([](auto& u) { u[0] = 0x1FFFFFu << 10 | 1u << 9; }), field);
  expect_contains(sound([](auto& u) { u[0] |= 0x80000000u; }), field);
  expect_contains(sound([](auto& u) { u[256 + 97] = 97 | 0x1FFFFFu << 10; }), field);
  expect_contains(sound([](auto& u) {
                    u[256 + 97] = 97 | 1u << 8 | 256u << 10;  // its replacement lies outside
                    u[(256 + 97) ^ 256] = 0x80000000u | 5000;
                  }),
                  field);
  for (uint32_t size : {0u, 3u, 2046u, 4096u, UINT32_MAX, UINT32_MAX - 3}) {
    auto model = unigram_model();
    model.charsmap = charsmap(size, std::vector<uint32_t>(512, 1), std::string("x\0", 2));
    expect_contains(proto_refusal(unigram(model)), field);
  }
  for (size_t size : {1, 3, 4, 5}) {
    auto model = unigram_model();
    model.charsmap = std::string(size, '\4');
    expect_contains(proto_refusal(unigram(model)), field);
  }
  auto model = unigram_model();  // replacements without an end
  std::vector<uint32_t> units(512, 1);
  units[0] = 256u << 10;
  model.charsmap = charsmap(2048, units, "x");
  expect_contains(proto_refusal(unigram(model)), field);
}

TEST(TokenizerCorpus, T3NestedPiecesAndOddModels) {
  for (auto algorithm : {SentencePieceModel::kUnigram, SentencePieceModel::kBpe}) {
    auto model = unigram_model();
    model.algorithm = algorithm;
    for (int i = 1; i <= 70; ++i)
      model.pieces.push_back({std::string(i, 'q'), 0, TokenKind::kUserDefined});
    expect_contains(proto_refusal(unigram(model)), "begin alike");
  }
  auto two = unigram_model();
  two.pieces.push_back({"<unk2>", 0, TokenKind::kUnknown});
  expect_contains(proto_refusal(unigram(two)), "second unknown");
  auto none = unigram_model();
  none.pieces[0].kind = TokenKind::kNormal;
  expect_contains(proto_refusal(unigram(none)), "no unknown piece");
  EXPECT_NE(proto_refusal(""), "");
}

TEST(TokenizerCorpus, T4WireFormat) {
  std::string good = unigram(unigram_model());
  for (size_t size = 0; size < good.size(); ++size)
    proto_refusal(good.substr(0, size));  // no crash
  // Field 100 means nothing to the tokenizer: what is refused there is refused for its form.
  const std::string number = "\xA0\x06", bytes = "\xA2\x06", one_letter = varint(1) + "x";
  EXPECT_EQ(proto_refusal(good + number + "\x01" + bytes + one_letter), "");
  EXPECT_EQ(proto_refusal(good + number + std::string(9, '\xFF') + "\x01"), "");
  EXPECT_NE(proto_refusal(good + bytes), "");
  EXPECT_NE(proto_refusal(good + bytes + "\x80"), "");
  EXPECT_NE(proto_refusal(good + number + std::string(10, '\xFF') + "\x01"), "");
  EXPECT_NE(proto_refusal(good + number + std::string(9, '\xFF') + "\x7F"), "");
  for (char type : {3, 4, 6, 7}) EXPECT_NE(proto_refusal(good + static_cast<char>(8 | type)), "");
  for (uint64_t size : {uint64_t{2}, uint64_t{100}, uint64_t{1} << 31, UINT64_MAX})
    EXPECT_NE(proto_refusal(good + bytes + varint(size) + "x"), "") << size;
  EXPECT_NE(proto_refusal(good + std::string("\0\0", 2)), "");
  // Any one byte changed: refused or sound, never a crash.
  for (size_t at = 0; at < good.size(); ++at) {
    for (int flip : {0x01, 0x80, 0xFF}) {
      std::string changed = good;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      proto_refusal(changed);
    }
  }
}

// ---- tokenizer.json ----

nlohmann::json sound_json() {
  nlohmann::json root;
  for (int b = 0; b < 256; ++b)
    root["model"]["vocab"][visible_of_byte(static_cast<uint8_t>(b))] = b;
  root["model"]["vocab"]["ab"] = 256;
  root["model"]["type"] = "BPE";
  root["model"]["merges"] = {"a b"};
  root["added_tokens"] = {{{"id", 257}, {"content", "<|im_end|>"}, {"special", true}}};
  root["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  return root;
}

std::string json_refusal(const std::string& text) {
  return refusal([&] {
    auto tokenizer = parse_json_tokenizer(text, "tokenizer.json", nlohmann::json::object());
    EXPECT_EQ(tokenizer->encode("ab"), std::vector<int32_t>{256});
  });
}

TEST(TokenizerCorpus, T5TokenizerJson) {
  EXPECT_EQ(json_refusal(sound_json().dump()), "");
  auto pairs = sound_json();
  pairs["model"]["merges"] = nlohmann::json::array({nlohmann::json::array({"a", "b"})});
  EXPECT_EQ(json_refusal(pairs.dump()), "");
  auto digits = sound_json();
  digits["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers",
                              {{{"type", "Digits"}, {"individual_digits", true}},
                               {{"type", "ByteLevel"}, {"add_prefix_space", false}}}}};
  EXPECT_EQ(parse_json_tokenizer(digits.dump(), "tokenizer.json", nlohmann::json::object())->kind(),
            "bpe:smollm");
  struct Case {
    const char* pointer;
    nlohmann::json value;
    const char* named;
  };
  const Case cases[] = {
      {"/model", 3, "model"},
      {"/model/type", "Unigram", "Unigram"},
      {"/model/vocab", nlohmann::json::array(), "vocab"},
      {"/model/vocab/ab", -1, "ab"},
      {"/model/vocab/ab", 1ll << 31, "ab"},
      {"/model/vocab/ab", UINT64_MAX, "ab"},
      {"/model/vocab/ab", "7", "ab"},
      {"/model/vocab/ab", 1.5, "ab"},
      {"/model/vocab/ab", 17, "17"},
      {"/model/vocab/ab", 4'000'000, "gaps"},
      {"/model/merges", "a b", "merges"},
      {"/model/merges/0", "ab", "merges"},
      {"/model/merges/0", 1, "merges"},
      {"/model/merges/0", {"a"}, "merges"},
      {"/model/merges/0", nlohmann::json::array({"a", "zz"}), "zz"},
      {"/added_tokens", 1, "added_tokens"},
      {"/added_tokens/0", 1, "added_tokens"},
      {"/added_tokens/0/id", -5, "id"},
      {"/added_tokens/0/id", 4'000'000'000ll, "id"},
      {"/added_tokens/0/id", 3, "3"},
      {"/normalizer", {{"type", "Magic"}}, "Magic"},
      {"/pre_tokenizer", nullptr, "pre_tokenizer"},
      {"/pre_tokenizer/type", "Magic", "pre_tokenizer"},
      {"/pre_tokenizer/add_prefix_space", true, "add_prefix_space"},
  };
  for (const Case& c : cases) {
    auto root = sound_json();
    root[nlohmann::json::json_pointer(c.pointer)] = c.value;
    SCOPED_TRACE(c.pointer + (" = " + c.value.dump()));
    expect_contains(json_refusal(root.dump()), c.named);
  }
  std::string text = sound_json().dump();
  for (size_t size = 0; size < text.size(); size += 7)
    EXPECT_NE(json_refusal(text.substr(0, size)), "");
  EXPECT_NE(json_refusal(std::string(1'000'000, '[')), "");
  EXPECT_NE(json_refusal("[]"), "");
  expect_contains(json_refusal("[1e9999]"), "1e9999");  // found by tokenizer_fuzz
}

// ---- any bytes as text ----

TEST(TokenizerCorpus, T7AnyBytes) {
  std::string bpe_file = bpe(bpe_vocabulary()).build(), spm_file = spm(spm_vocabulary()).build();
  auto bytes = make_gguf_tokenizer(GgufFile::parse(test::as_bytes(bpe_file), "bpe.gguf"));
  auto pieces = make_gguf_tokenizer(GgufFile::parse(test::as_bytes(spm_file), "spm.gguf"));
  std::vector<std::string> texts = {"\xED\xA0\x80",     "\xED\xBF\xBF",        "\xC0\xAF",
                                    "\xE0\x80\xAF",     "\xF0\x80\x80\xAF",    "\xF4\x90\x80\x80",
                                    "\xF7\xBF\xBF\xBF", "\xF8\x88\x80\x80\x80"};
  for (int a = 0; a < 256; ++a) {
    texts.push_back(std::string(1, static_cast<char>(a)));
    for (int b = 0; b < 256; ++b) texts.push_back({static_cast<char>(a), static_cast<char>(b)});
  }
  for (const auto& text : texts) {
    ASSERT_EQ(bytes->decode(bytes->encode(text)), text);
    pieces->decode(pieces->encode(text));
  }
}

// ---- chat templates ----

std::string template_refusal(const std::string& source, double limit = 3) {
  return refusal(
      [&] {
        ChatTemplate chat(source, "<s>", "</s>");
        ChatMessage message;
        message.role = "user";
        message.content = std::string(1000, 'x');
        chat.render({message}, {});
      },
      limit);
}

TEST(TokenizerCorpus, G23Templates) {
  EXPECT_EQ(template_refusal("{{ messages[0].content }}"), "");
  auto repeat = [](const std::string& unit, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += unit;
    return text;
  };
  const std::string hostile[] = {
      std::string(10 << 20, 'x'),
      "{{",
      "{%",
      "{{ 'abc",
      "{% if true %}x",
      "{% for m in messages %}x",
      "{{ messages[",
      "{{ (1 }}",
      "{% raw %}x",
      "{% for i in range(25000) %}{% for j in range(25000) %}{% endfor %}{% endfor %}",
      "{% for i in range(25000) %}{% for j in range(25000) %}x{% endfor %}{% endfor %}",
      "{{ range(1000000000000) | list | length }}",
      // Steps alone, and output alone.
      "{% for i in range(2000) %}" + repeat("{% if true %}{% endif %}", 2000) + "{% endfor %}",
      "{% for i in range(11000) %}{{ messages[0].content }}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
      "{{ 'x' * 1000000000 }}",
      "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% "
      "endfor %}{{ ns.s }}",
      "{% set ns = namespace(s='x') %}{% for i in range(1000000) %}{% set ns.s = ns.s + "
      "messages[0].content %}{% endfor %}",
      "{{ ''.__class__.__mro__[1].__subclasses__() }}",
      "{{ messages.__init__.__globals__ }}",
      "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
      "{{ 'x'.__class__() }}",
      "{% include 'x' %}",
      "{% import 'os' as os %}",
      "{% extends 'x' %}",
      repeat("(", 100'000),
      "{{ " + repeat("(", 100'000) + "1" + repeat(")", 100'000) + " }}",
      "{{ " + repeat("not ", 100'000) + "1 }}",
      "{{ " + repeat("-", 100'000) + "1 }}",
      "{{ " + repeat("[", 100'000) + repeat("]", 100'000) + " }}",
      repeat("{% if true %}", 10'000) + repeat("{% endif %}", 10'000),
      "{{ 1 // 0 }}",
      "{{ 1 % 0 }}",
      "{{ raise_exception('no') }}",
      "{{ 'a' | magic }}",
  };
  for (const auto& source : hostile) {
    std::string message = template_refusal(source);
    if (source == repeat("(", 100'000)) continue;  // plain text
    EXPECT_NE(message, "") << source.substr(0, 120);
  }
  // Long but plain ones run in linear time.
  EXPECT_EQ(template_refusal("{{ 1" + repeat(" }}{{ 1", 50'000) + " }}"), "");
}

}  // namespace
}  // namespace apud
