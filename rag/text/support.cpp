#include "rag/text/support.h"

#include "rag/text/terms.h"

namespace apud {

std::set<std::string> content_terms(std::string_view text) {
  std::set<std::string> terms;
  for (const std::string& t : terms_of(text)) {
    if (!is_stop_word(t)) terms.insert(t);
  }
  return terms;
}

std::string rough_stem(const std::string& term) {
  for (std::string_view ending : {"ing", "ed", "es", "s"}) {
    if (term.size() > ending.size() + 3 && term.ends_with(ending)) {
      return term.substr(0, term.size() - ending.size());
    }
  }
  return term;
}

std::set<std::string> content_stems(std::string_view text) {
  std::set<std::string> stems;
  for (const std::string& t : content_terms(text)) stems.insert(rough_stem(t));
  return stems;
}

double support(const std::set<std::string>& sentence, const std::set<std::string>& passage) {
  if (sentence.empty()) return 1;
  size_t held = 0;
  for (const std::string& t : sentence) held += passage.count(rough_stem(t));
  return static_cast<double>(held) / static_cast<double>(sentence.size());
}

}  // namespace apud
