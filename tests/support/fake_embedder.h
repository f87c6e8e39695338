// A deterministic embedder without a model: hashed bag of words, unit length. Texts that share
// words lie near each other, so retrieval can be tested. It counts its work and can fail on demand.
#pragma once

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "rag/embedder.h"
#include "rag/text/terms.h"

namespace apud::test {

class FakeEmbedder : public TextEmbedder {
 public:
  std::string fingerprint() const override { return print; }
  std::string name() const override { return "fake"; }
  int dimension() const override { return size; }
  int max_tokens() const override { return 256; }
  int count_tokens(std::string_view text) const override {
    return static_cast<int>(terms_of(text).size());
  }
  bool multilingual() const override { return knows_all; }
  void embed(std::span<const std::string> texts, EmbedKind kind, std::span<float> out) override {
    for (size_t i = 0; i < texts.size(); ++i) {
      if (fail_after >= 0 && embedded >= fail_after)
        throw Error(ErrorKind::kUnavailable, "fake embedder failed");
      if (kind == EmbedKind::kPassage) {
        ++embedded;
        if (!seen.insert(texts[i]).second) ++repeated;
      }
      float* row = out.data() + i * size;
      std::fill_n(row, size, 0.01f);
      for (const std::string& term : terms_of(texts[i]))
        row[xxh3_64(term) % size] += is_stop_word(term) ? 0.1f : 1;
      double norm = 0;
      for (int d = 0; d < size; ++d) norm += double{row[d]} * row[d];
      for (int d = 0; d < size; ++d) row[d] = static_cast<float>(row[d] / std::sqrt(norm));
    }
  }

  std::string print = "fake/1";
  int size = 64;
  bool knows_all = true;
  int fail_after = -1;
  int embedded = 0;  // passages
  int repeated = 0;  // passages embedded more than once
  std::set<std::string> seen;
};

/// One token per term.
class FakeCounter : public TokenCounter {
 public:
  int count(std::string_view text) const override {
    // Punctuation and line ends count, too, so that markup is not free.
    int n = 0;
    bool word = false;
    for (unsigned char c : text) {
      bool letter = std::isalnum(c) || c >= 0x80;
      if (letter && c >= 0x80) n += (c & 0xC0) != 0x80;
      if (letter && c < 0x80 && !word) ++n;
      if (!letter && c != ' ') ++n;
      word = letter && c < 0x80;
    }
    return n;
  }
};

}  // namespace apud::test
