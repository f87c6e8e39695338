#include "rag/citations.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "base/utf8.h"
#include "rag/chunker.h"
#include "rag/citation_mark.h"
#include "rag/text/language.h"
#include "rag/text/names.h"
#include "rag/text/support.h"

namespace apud {
namespace {

constexpr double kSupport = 0.5;  // share of a sentence's content words that its passage must hold
constexpr size_t kQuoteBytes = 12;  // shorter quoted words are emphasis, not quotations
constexpr size_t kQuoteHan = 4;     // the same for Han characters

/// Text folded for comparison with a map back: white space to one space, typographic quotes and
/// full-width forms to ASCII, case folded for ASCII, round brackets for square ones (escape_marks).
struct Folded {
  std::string text;
  std::vector<size_t> origin;  // (text.size() + 1) byte of the source
};

Folded fold(std::string_view text) {
  Folded out;
  bool space = false;
  size_t pos = 0;
  auto put = [&](char c, size_t at) {
    out.text += c;
    out.origin.push_back(at);
  };
  while (pos < text.size()) {
    Utf8Char c = utf8_decode(text, pos);
    char32_t code = c.code;
    size_t at = pos;
    pos += c.size;
    if (code == 0x3000 || code == 0xA0) code = ' ';
    if (code >= 0xFF01 && code <= 0xFF5E) code -= 0xFEE0;
    if (code == 0x2018 || code == 0x2019) code = '\'';
    if (code == 0x201C || code == 0x201D) code = '"';
    if (code == 0x2010 || code == 0x2011 || code == 0x2013 || code == 0x2014) code = '-';
    if (code == 0x200B || code == 0xFEFF || code == 0xAD) continue;
    if (code == '[') code = '(';
    if (code == ']') code = ')';
    if (code == ' ' || code == '\n' || code == '\t' || code == '\r') {
      space = !out.text.empty();
      continue;
    }
    if (space) put(' ', at);
    space = false;
    if (code >= 'A' && code <= 'Z') code += 'a' - 'A';
    if (code < 0x80) {
      put(static_cast<char>(code), at);
    } else {
      for (size_t i = 0; i < c.size; ++i) put(text[at + i], at);
    }
  }
  out.origin.push_back(text.size());
  return out;
}

/// Spaces beside CJK come and go when lines are joined: they do not count.
std::string without_spaces(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c != ' ') out += c;
  }
  return out;
}

struct Found {
  size_t begin;  // in the passage's source_text
  size_t end;
};

std::optional<Found> find_quote(const Folded& passage, std::string_view quote) {
  Folded wanted = fold(quote);
  while (!wanted.text.empty() &&
         std::string_view(" .,;:!?").find(wanted.text.back()) != std::string_view::npos) {
    wanted.text.pop_back();
  }
  if (wanted.text.empty()) return std::nullopt;
  size_t at = passage.text.find(wanted.text);
  if (at != std::string::npos)
    return Found{passage.origin[at], passage.origin[at + wanted.text.size()]};
  std::string dense = without_spaces(passage.text);
  size_t squeezed = dense.find(without_spaces(wanted.text));
  bool cjk = false;
  for (size_t p = 0; p < quote.size();) {
    Utf8Char c = utf8_decode(quote, p);
    p += c.size;
    cjk = cjk || is_cjk(c.code);
  }
  if (!cjk || squeezed == std::string::npos) return std::nullopt;
  // Back through both foldings.
  std::vector<size_t> kept;
  for (size_t i = 0; i < passage.text.size(); ++i) {
    if (passage.text[i] != ' ') kept.push_back(i);
  }
  size_t last = squeezed + without_spaces(wanted.text).size() - 1;
  return Found{passage.origin[kept[squeezed]], passage.origin[kept[last] + 1]};
}

/// Quotations in a sentence: text between paired quote marks, long enough to be one.
std::vector<std::string> quotes_in(std::string_view sentence) {
  static const std::pair<std::string_view, std::string_view> kPairs[] = {
      {"\"", "\""}, {"“", "”"}, {"「", "」"}, {"『", "』"}, {"«", "»"}};
  std::vector<std::string> quotes;
  for (auto [open, close] : kPairs) {
    for (size_t at = sentence.find(open); at != std::string_view::npos;) {
      size_t begin = at + open.size();
      size_t end = sentence.find(close, begin);
      if (end == std::string_view::npos) break;
      std::string_view inside = sentence.substr(begin, end - begin);
      size_t han = 0;
      for (size_t p = 0; p < inside.size();) {
        Utf8Char c = utf8_decode(inside, p);
        p += c.size;
        han += is_cjk(c.code);
      }
      if (han >= kQuoteHan ||
          (inside.size() >= kQuoteBytes && inside.find(' ') != std::string_view::npos)) {
        quotes.emplace_back(inside);
      }
      at = sentence.find(open, end + close.size());
    }
  }
  return quotes;
}

struct Judge {
  const Passage* passage;
  std::string text;  // with its headings
  Folded folded;
  std::set<std::string> stems;
  Language language;
};

/// Of a sentence's content words those that a passage in another language can hold: its numbers
/// and names, and of a Chinese sentence every other word in Latin letters.
std::set<std::string> carried_over(std::set<std::string> words, Language sentence) {
  std::erase_if(words, [&](const std::string& word) {
    const bool latin =
        std::all_of(word.begin(), word.end(), [](unsigned char c) { return c < 0x80; });
    const bool plain = word.find_first_of("0123456789_") == std::string::npos;
    return !latin || word.size() < 2 || (plain && sentence != Language::kChinese);
  });
  return words;
}

/// Whether the passage bears a sentence of these words. One in another language shares only what
/// carried_over() says: all of it has to stand there, and it must not be nothing.
bool bears(const Judge& judge, const std::set<std::string>& words, Language sentence) {
  const bool foreign = sentence != judge.language && sentence != Language::kOther &&
                       judge.language != Language::kOther;
  if (!foreign) return support(words, judge.stems) >= kSupport;
  const std::set<std::string> carried = carried_over(words, sentence);
  return !carried.empty() && support(carried, judge.stems) >= 1;
}

/// What is near a sentence in words does not bear another number: "18.40 EUR" not "10.40 EUR". One
/// digit may number a list; of several passages cited together each may bring a number.
bool hold_numbers(const std::vector<Judge>& judges, const std::vector<size_t>& cited,
                  const std::set<std::string>& words) {
  return std::all_of(words.begin(), words.end(), [&](const std::string& word) {
    const bool number =
        word.size() > 1 && word.find_first_not_of("0123456789.") == std::string::npos;
    return !number || std::any_of(cited.begin(), cited.end(),
                                  [&](size_t c) { return judges[c].stems.contains(word); });
  });
}

std::string without_marks(std::string_view text) {
  std::string bare;
  for (size_t p = 0; p < text.size();) {
    Mark mark = text[p] == '[' ? read_mark(text, p) : Mark{};
    if (!mark.ids.empty()) {
      p = mark.end;
    } else {
      bare += text[p++];
    }
  }
  return bare;
}

bool asks(std::string_view sentence) {
  sentence = sentence.substr(0, sentence.find_last_not_of(' ') + 1);  // where a mark stood
  return sentence.ends_with('?') || sentence.ends_with("？");
}

bool opens_a_list(std::string_view sentence) {
  return sentence.ends_with(':') || sentence.ends_with("：");
}

/// What is said of E33 is not borne by what says the same of E14, word by word as it may be.
/// Numbers hold by their worth, as words do.
std::vector<std::string> names_in(std::string_view sentence) {
  std::vector<std::string> names = exact_names(sentence);
  std::erase_if(names, [](const std::string& name) {
    return name.find_first_not_of("0123456789-") == std::string::npos;
  });
  return names;
}

Judge judge_of(const Passage& p) {
  // With what stands over the passage in the prompt: minutes are named by their date.
  const std::string headed = p.source_text + "\n" + p.heading_path + "\n" + p.title;
  return {&p, headed + "\n" + p.path, fold(p.source_text),
          content_stems(headed + "\n" + std::string(file_name(p))), language_of(p.source_text)};
}

/// Checks one answer: numbers its marks, then judges it sentence by sentence.
class AnswerCheck {
 public:
  explicit AnswerCheck(std::span<const Passage> passages) {
    for (const Passage& p : passages) by_id_[p.id] = &p;
  }

  CheckedAnswer run(std::string_view answer) {
    number_marks(answer);
    for (const Citation& c : out_.citations) judges_.push_back(judge_of(*by_id_[c.passage]));
    supported_.resize(out_.citations.size());
    failed_.resize(out_.citations.size());
    const std::vector<Sentence> sentences = split_sentences(out_.text);
    for (size_t s = 0; s < sentences.size(); ++s) {
      const size_t next = s + 1 < sentences.size() ? sentences[s + 1].begin : out_.text.size();
      judge(sentences[s], marks_of(sentences[s], next));
    }
    for (size_t c = 0; c < out_.citations.size(); ++c)
      out_.citations[c].verified = supported_[c] > 0 && failed_[c] == 0;
    return std::move(out_);
  }

 private:
  struct Place {
    size_t at;  // in out_.text, of the mark's end
    size_t citation;
    bool taken = false;  // by the sentence that it follows directly
  };

  /// The shown text, and where each mark stands in it.
  void number_marks(std::string_view answer) {
    for (size_t pos = 0; pos < answer.size();) {
      Mark mark = answer[pos] == '[' ? read_mark(answer, pos) : Mark{};
      if (mark.ids.empty()) {
        out_.text += answer[pos++];
        continue;
      }
      pos = mark.end;
      std::string shown;
      std::vector<size_t> cited;
      for (int id : mark.ids) {
        auto known = by_id_.find(id);
        if (known == by_id_.end()) {
          ++out_.invented;
          continue;
        }
        auto [at, fresh] = number_of_.try_emplace(id, out_.citations.size());
        if (fresh) cite(*known->second);
        if (std::find(cited.begin(), cited.end(), at->second) != cited.end()) continue;
        cited.push_back(at->second);
        shown += "[" + std::to_string(out_.citations[at->second].number) + "]";
      }
      if (shown.empty() && out_.text.ends_with(' ') &&
          (pos == answer.size() ||
           std::string_view(" .,;:!?\n").find(answer[pos]) != std::string_view::npos)) {
        out_.text.pop_back();  // no gap where an invented mark stood
      }
      out_.text += shown;
      for (size_t c : cited) places_.push_back({out_.text.size(), c});
    }
  }

  void cite(const Passage& p) {
    Citation c;
    c.number = static_cast<int>(out_.citations.size()) + 1;
    c.passage = p.id;
    c.document = p.document;
    c.path = p.path;
    c.page = p.from.page;
    c.page_end = p.to.page;
    c.line = p.from.line;
    c.line_end = p.to.line;
    c.member = p.from.member;
    c.start = p.begin;
    c.end = p.end;
    out_.citations.push_back(std::move(c));
  }

  /// The citations that a sentence carries; `next`: where the one after it begins. Marks behind a
  /// full stop, which open the next sentence's range, are that one's own only where it has no
  /// other.
  std::vector<size_t> marks_of(const Sentence& sentence, size_t next) {
    std::vector<size_t> cited, before;
    for (Place& p : places_) {
      bool trailing = false;
      if (p.at > sentence.end && p.at > next) {
        // "… sentence. [1] Next": the mark opens the next range but follows this one directly.
        const size_t width = 2 + std::to_string(out_.citations[p.citation].number).size();
        const std::string_view between =
            std::string_view(out_.text).substr(sentence.end, p.at - width - sentence.end);
        trailing = between.find_first_not_of(" []0123456789") == std::string_view::npos;
      }
      if (trailing) {
        cited.push_back(p.citation);
        p.taken = true;
      } else if (p.at > sentence.begin && p.at <= next) {
        (p.taken ? before : cited).push_back(p.citation);
      }
    }
    return cited.empty() ? before : cited;
  }

  /// Whether what a sentence cites bears it.
  void judge(const Sentence& sentence, const std::vector<size_t>& cited) {
    const size_t begin = sentence.begin, end = sentence.end;
    const std::string bare = without_marks(std::string_view(out_.text).substr(begin, end - begin));
    // Marks alone, and the question said again, state nothing.
    if (bare.find_first_not_of(' ') == std::string::npos || asks(bare)) return;
    const std::set<std::string> words = content_terms(bare);
    if (cited.empty()) {
      if (words.size() < 3 || opens_a_list(bare)) return;  // "Yes.", a list's label
      out_.unsupported.push_back({begin, end, "no citation"});
      return;
    }
    const std::vector<std::string> names = names_in(bare);
    auto holds_names = [&](size_t c) {
      return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
        return holds_name(judges_[c].text, name);
      });
    };
    const bool counted = hold_numbers(judges_, cited, words);
    const bool named = counted && std::any_of(cited.begin(), cited.end(), holds_names);
    const Language language = language_of(bare);
    const std::vector<std::string> quotes = quotes_in(bare);
    bool borne = false;
    for (size_t c : cited) {
      bool words_hold = counted && bears(judges_[c], words, language) && holds_names(c);
      borne = borne || words_hold;
      if (quotes.empty()) (words_hold ? supported_ : failed_)[c]++;
    }
    bool all_found = true;
    for (const std::string& quote : quotes) {
      if (holds_quote(quote, cited)) continue;
      all_found = false;
      out_.unsupported.push_back({begin, end, "quote not found"});
    }
    if (!named && !quotes.empty()) {
      for (size_t c : cited) failed_[c]++;
    }
    if (all_found && ((!borne && quotes.empty()) || !named)) {
      std::string reason = "words not in";
      for (size_t c : cited) reason += " [" + std::to_string(out_.citations[c].number) + "]";
      out_.unsupported.push_back({begin, end, reason});
    }
  }

  /// Looks a quotation up in the passages cited for it; the first that holds it keeps its place.
  bool holds_quote(const std::string& quote, const std::vector<size_t>& cited) {
    ++out_.quotes;
    for (size_t c : cited) {
      auto at = find_quote(judges_[c].folded, quote);
      if (!at) continue;
      supported_[c]++;
      Citation& citation = out_.citations[c];
      if (citation.quote.empty()) {
        const Passage& p = *judges_[c].passage;
        citation.quote = p.source_text.substr(at->begin, at->end - at->begin);
        citation.start = p.begin + at->begin;
        citation.end = p.begin + at->end;
      }
      return true;
    }
    ++out_.quotes_failed;
    for (size_t c : cited) failed_[c]++;
    return false;
  }

  std::map<int, const Passage*> by_id_;
  std::map<int, size_t> number_of_;  // passage id -> index into citations
  std::vector<Place> places_;
  std::vector<Judge> judges_;            // (citations)
  std::vector<int> supported_, failed_;  // (citations) sentences
  CheckedAnswer out_;
};

}  // namespace

CheckedAnswer check_answer(std::string_view answer, std::span<const Passage> passages) {
  return AnswerCheck(passages).run(answer);
}

}  // namespace apud
