#include "rag/relevance.h"

#include <algorithm>
#include <cmath>

#include "rag/text/terms.h"

namespace apud {

std::vector<std::string> distinct_terms(Store& store, std::string_view text) {
  std::vector<std::string> terms = store.index_terms(text);
  std::sort(terms.begin(), terms.end());
  terms.erase(std::unique(terms.begin(), terms.end()), terms.end());
  return terms;
}

std::vector<std::string> question_terms(Store& store, std::string_view question) {
  std::string kept;
  for (const std::string& t : terms_of(question)) {
    if (!is_stop_word(t)) kept += t + "\n";
  }
  return distinct_terms(store, kept.empty() ? question : std::string_view(kept));
}

IdfOverlap::IdfOverlap(std::vector<std::string> terms, const std::vector<int64_t>& frequencies,
                       int64_t total) {
  for (size_t i = 0; i < terms.size(); ++i) {
    double idf = std::log(1 + (static_cast<double>(total - frequencies[i]) + 0.5) /
                                  (static_cast<double>(frequencies[i]) + 0.5));
    idf = std::max(idf, 0.0);
    if (idf_.try_emplace(std::move(terms[i]), idf).second) sum_ += idf;
  }
}

IdfOverlap::IdfOverlap(Store& store, int64_t collection, std::string_view question) {
  std::vector<std::string> terms = question_terms(store, question);
  std::vector<int64_t> frequencies = store.document_frequencies(collection, terms);
  *this = IdfOverlap(std::move(terms), frequencies, store.chunk_count(collection));
}

double IdfOverlap::operator()(const std::vector<std::string>& terms) const {
  if (sum_ <= 0) return 0;
  double shared = 0;
  for (const std::string& t : terms) {
    auto at = idf_.find(t);
    if (at != idf_.end()) shared += at->second;
  }
  return shared / sum_;
}

double relevance(Store& store, const IdfOverlap& overlap, double cosine, std::string_view heading,
                 std::string_view text) {
  std::string all(heading);
  all += '\n';
  all += text;
  return cosine + kOverlapWeight * overlap(distinct_terms(store, all));
}

}  // namespace apud
