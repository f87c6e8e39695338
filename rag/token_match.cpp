#include "rag/token_match.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "base/error.h"
#include "rag/chunker.h"
#include "rag/store.h"

namespace apud {

TokenCenters stored_centers(Store& store, const TextEmbedder& embedder) {
  if (embedder.token_width() == 0) return {};
  TokenCenters centers(store.token_centers(embedder.fingerprint()));
  const auto width = static_cast<size_t>(embedder.token_width());
  if (!centers.empty() && centers.values().size() != 2 * width) {
    throw Error(ErrorKind::kBadData,
                fmt::format("store: the centres of {} are {} numbers, not {}", embedder.name(),
                            centers.values().size(), 2 * width),
                "the store is damaged: restore a copy, or remove it and ingest anew");
  }
  return centers;
}

std::vector<std::optional<TokenMatch>> match_chunks(Store& store,
                                                    std::span<const TokenQuestion> questions,
                                                    size_t width, std::span<const int64_t> chunks) {
  std::vector<std::optional<TokenMatch>> out;
  out.reserve(chunks.size());
  const auto share = 1 / static_cast<float>(questions.size());
  for (const std::string& packed : store.token_codes(chunks)) {
    std::optional<TokenCodes> codes = TokenCodes::unpack(packed, width);
    std::optional<TokenMatch>& mean = out.emplace_back();
    if (!codes || codes->bits.empty()) continue;
    for (const TokenQuestion& question : questions) {
      TokenMatch one = question.match(*codes);
      if (!mean) mean = TokenMatch{0, std::vector<float>(one.parts.size(), 0)};
      mean->all += share * one.all;
      for (size_t p = 0; p < one.parts.size(); ++p) mean->parts[p] += share * one.parts[p];
    }
  }
  return out;
}

std::vector<SentenceMatch> sentence_matches(const TokenMatch& match, std::string_view text,
                                            size_t begin) {
  std::vector<std::pair<size_t, size_t>> ranges = sentence_ranges(text, begin);
  // The heading is the first part. Codes that an earlier version made of other sentences say how
  // near the nearest is, not which: words decide among them.
  const bool same = match.parts.size() == ranges.size() + 1;
  const float nearest = match.parts.size() > 1
                            ? *std::max_element(match.parts.begin() + 1, match.parts.end())
                            : kUnread;
  std::vector<SentenceMatch> out;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const float part = same ? match.parts[i + 1] : nearest;
    if (part > kUnread) out.push_back({ranges[i].first, ranges[i].second, part});
  }
  return out;
}

}  // namespace apud
