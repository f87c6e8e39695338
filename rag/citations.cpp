#include "rag/citations.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "base/utf8.h"
#include "rag/chunker.h"
#include "rag/text/language.h"
#include "rag/text/names.h"
#include "rag/text/support.h"

namespace apud {
namespace {

constexpr size_t kMaxMark = 48;   // bytes of "[12, 3, 45]"
constexpr double kSupport = 0.5;  // share of a sentence's content words that its passage must hold
constexpr size_t kQuoteBytes = 12;  // shorter quoted words are emphasis, not quotations
constexpr size_t kQuoteHan = 4;     // the same for Han characters

/// A mark at text[pos] == '[': its ids and the byte after ']'. No ids: not a mark.
struct Mark {
  std::vector<int> ids;
  size_t end = 0;
  bool open = false;  // the text ends inside what may become a mark
};

Mark read_mark(std::string_view text, size_t pos) {
  Mark mark;
  std::vector<int> ids;
  int number = -1;
  int range_from = -1;
  auto finish_number = [&] {
    if (number < 0) return;
    if (range_from >= 0 && number > range_from && number - range_from <= 16) {
      for (int i = range_from + 1; i < number; ++i) ids.push_back(i);
    }
    ids.push_back(number);
    range_from = -1;
    number = -1;
  };
  for (size_t i = pos + 1; i < text.size() && i - pos <= kMaxMark; ++i) {
    char c = text[i];
    if (c >= '0' && c <= '9') {
      number = std::min(100000000, std::max(number, 0) * 10 + (c - '0'));
    } else if (c == ',' || c == ';' || c == ' ') {
      finish_number();
    } else if (c == '-') {
      int from = number;
      finish_number();
      range_from = from;
    } else if (c == ']') {
      finish_number();
      if (!ids.empty()) {
        mark.ids = std::move(ids);
        mark.end = i + 1;
      }
      return mark;
    } else {
      return mark;
    }
  }
  mark.open = text.size() - pos <= kMaxMark;
  return mark;
}

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

}  // namespace

CheckedAnswer check_answer(std::string_view answer, std::span<const Passage> passages) {
  CheckedAnswer out;
  std::map<int, const Passage*> by_id;
  for (const Passage& p : passages) by_id[p.id] = &p;

  // Numbers first: the shown text, and where each mark stands in it.
  struct Place {
    size_t at;  // in out.text, of the mark's end
    size_t citation;
  };
  std::vector<Place> places;
  std::map<int, size_t> number_of;  // passage id -> index into citations
  for (size_t pos = 0; pos < answer.size();) {
    Mark mark = answer[pos] == '[' ? read_mark(answer, pos) : Mark{};
    if (mark.ids.empty()) {
      out.text += answer[pos++];
      continue;
    }
    pos = mark.end;
    std::string shown;
    std::vector<size_t> cited;
    for (int id : mark.ids) {
      auto known = by_id.find(id);
      if (known == by_id.end()) {
        ++out.invented;
        continue;
      }
      auto [at, fresh] = number_of.try_emplace(id, out.citations.size());
      if (fresh) {
        const Passage& p = *known->second;
        Citation c;
        c.number = static_cast<int>(out.citations.size()) + 1;
        c.passage = id;
        c.document = p.document;
        c.path = p.path;
        c.page = p.from.page;
        c.page_end = p.to.page;
        c.line = p.from.line;
        c.line_end = p.to.line;
        c.member = p.from.member;
        c.start = p.begin;
        c.end = p.end;
        out.citations.push_back(std::move(c));
      }
      if (std::find(cited.begin(), cited.end(), at->second) != cited.end()) continue;
      cited.push_back(at->second);
      shown += "[" + std::to_string(out.citations[at->second].number) + "]";
    }
    if (shown.empty() && !out.text.empty() && out.text.back() == ' ' &&
        (pos == answer.size() ||
         std::string_view(" .,;:!?\n").find(answer[pos]) != std::string_view::npos)) {
      out.text.pop_back();  // no gap where an invented mark stood
    }
    out.text += shown;
    for (size_t c : cited) places.push_back({out.text.size(), c});
  }

  // Then sentence by sentence: which marks it carries, whether they bear it.
  std::vector<Judge> judges;
  for (const Citation& c : out.citations) {
    const Passage* p = by_id[c.passage];
    std::string text = p->source_text + "\n" + p->heading_path + "\n" + p->title + "\n" + p->path;
    std::set<std::string> stems =
        content_stems(p->source_text + "\n" + p->heading_path + "\n" + p->title);
    judges.push_back(
        {p, std::move(text), fold(p->source_text), std::move(stems), language_of(p->source_text)});
  }
  std::vector<int> supported(out.citations.size(), 0), failed(out.citations.size(), 0);
  std::vector<Sentence> sentences = split_sentences(out.text);
  // Marks behind a full stop, which open the next sentence's range: that one's own only where it
  // has no other.
  std::set<size_t> taken;
  for (size_t s = 0; s < sentences.size(); ++s) {
    size_t begin = sentences[s].begin;
    // A mark after the full stop belongs to the sentence before it.
    size_t limit = s + 1 < sentences.size() ? sentences[s + 1].begin : out.text.size();
    size_t end = sentences[s].end;
    std::vector<size_t> cited, before;
    for (size_t i = 0; i < places.size(); ++i) {
      const Place& p = places[i];
      bool trailing = false;
      if (p.at > end && p.at > limit) {
        // "… sentence. [1] Next": the mark opens the next range but follows this one directly.
        size_t width = 2 + std::to_string(out.citations[p.citation].number).size();
        std::string_view between = std::string_view(out.text).substr(end, p.at - width - end);
        trailing = between.find_first_not_of(" []0123456789") == std::string_view::npos;
      }
      if (trailing) {
        cited.push_back(p.citation);
        taken.insert(i);
      } else if (p.at > begin && p.at <= limit) {
        (taken.contains(i) ? before : cited).push_back(p.citation);
      }
    }
    if (cited.empty()) cited = before;
    std::string_view whole = std::string_view(out.text).substr(begin, end - begin);
    std::string bare;
    for (size_t p = 0; p < whole.size();) {
      Mark mark = whole[p] == '[' ? read_mark(whole, p) : Mark{};
      if (!mark.ids.empty()) {
        p = mark.end;
      } else {
        bare += whole[p++];
      }
    }
    std::set<std::string> words = content_terms(bare);
    if (words.size() < 3 && cited.empty()) continue;  // "Yes.", a list's label
    if (cited.empty()) {
      if (!bare.empty() && (bare.back() == '?' || bare.back() == ':' || bare.ends_with("：") ||
                            bare.ends_with("？"))) {
        continue;
      }
      out.unsupported.push_back({begin, end, "no citation"});
      continue;
    }
    // What is said of E33 is not borne by what says the same of E14, word by word as it may be.
    std::vector<std::string> names = exact_names(bare);
    std::erase_if(names, [](const std::string& name) {  // numbers hold by their worth, as words do
      return name.find_first_not_of("0123456789-") == std::string::npos;
    });
    auto holds_names = [&](size_t c) {
      return std::all_of(names.begin(), names.end(),
                         [&](const std::string& name) { return holds_name(judges[c].text, name); });
    };
    const bool counted = hold_numbers(judges, cited, words);
    const bool named = counted && std::any_of(cited.begin(), cited.end(), holds_names);
    std::vector<std::string> quotes = quotes_in(bare);
    out.quotes += static_cast<int>(quotes.size());
    const Language language = language_of(bare);
    bool borne = false;
    for (size_t c : cited) {
      bool words_hold = counted && bears(judges[c], words, language) && holds_names(c);
      borne = borne || words_hold;
      if (quotes.empty()) (words_hold ? supported : failed)[c]++;
    }
    for (const std::string& quote : quotes) {
      bool found = false;
      for (size_t c : cited) {
        auto at = find_quote(judges[c].folded, quote);
        if (!at) continue;
        found = true;
        borne = true;
        supported[c]++;
        if (out.citations[c].quote.empty()) {
          const Passage& p = *judges[c].passage;
          out.citations[c].quote = p.source_text.substr(at->begin, at->end - at->begin);
          out.citations[c].start = p.begin + at->begin;
          out.citations[c].end = p.begin + at->end;
        }
        break;
      }
      if (!found) {
        ++out.quotes_failed;
        for (size_t c : cited) failed[c]++;
        out.unsupported.push_back({begin, end, "quote not found"});
      }
    }
    if (!named && !quotes.empty()) {
      for (size_t c : cited) failed[c]++;
    }
    const bool told = !out.unsupported.empty() && out.unsupported.back().begin == begin;
    if (!told && ((!borne && quotes.empty()) || !named)) {
      std::string reason = "words not in";
      for (size_t c : cited) reason += " [" + std::to_string(out.citations[c].number) + "]";
      out.unsupported.push_back({begin, end, reason});
    }
  }
  for (size_t c = 0; c < out.citations.size(); ++c)
    out.citations[c].verified = supported[c] > 0 && failed[c] == 0;
  return out;
}

CitationStream::CitationStream(std::span<const Passage> passages) {
  for (const Passage& p : passages) known_.push_back(p.id);
}

int CitationStream::shown_number(int passage) {
  if (std::find(known_.begin(), known_.end(), passage) == known_.end()) return 0;
  auto at = std::find(shown_.begin(), shown_.end(), passage);
  if (at == shown_.end()) at = shown_.insert(shown_.end(), passage);
  return static_cast<int>(at - shown_.begin()) + 1;
}

std::string CitationStream::push(std::string_view text) {
  pending_ += text;
  std::string out;
  size_t pos = 0;
  while (pos < pending_.size()) {
    if (pending_[pos] != '[') {
      // A space is held while it may stand before an invented mark.
      bool edge = pending_[pos] == ' ' && pos + 1 == pending_.size();
      if (edge && !finishing_) break;
      bool before_mark =
          pending_[pos] == ' ' && pos + 1 < pending_.size() && pending_[pos + 1] == '[';
      if (before_mark) {
        Mark mark = read_mark(pending_, pos + 1);
        if (mark.open && !finishing_) break;
        bool any = mark.ids.empty();
        for (int id : mark.ids)
          any = any || std::find(known_.begin(), known_.end(), id) != known_.end();
        if (!any) {
          // What follows decides whether the space goes with the mark.
          if (mark.end == pending_.size() && !finishing_) break;
          bool drop =
              mark.end == pending_.size() ||
              std::string_view(" .,;:!?\n").find(pending_[mark.end]) != std::string_view::npos;
          if (!drop) out += ' ';
          pos = mark.end;
          continue;
        }
      }
      out += pending_[pos++];
      continue;
    }
    Mark mark = read_mark(pending_, pos);
    if (mark.open && !finishing_) break;
    if (mark.ids.empty()) {
      out += pending_[pos++];
      continue;
    }
    std::vector<int> seen;
    for (int id : mark.ids) {
      int number = shown_number(id);
      if (number == 0 || std::find(seen.begin(), seen.end(), number) != seen.end()) continue;
      seen.push_back(number);
      out += "[" + std::to_string(number) + "]";
    }
    pos = mark.end;
  }
  pending_.erase(0, pos);
  return out;
}

std::string CitationStream::finish() {
  finishing_ = true;
  return push("");
}

std::string legend_line(const Citation& c) {
  std::string line = "[" + std::to_string(c.number) + "] " + c.path;
  if (!c.member.empty()) line += " › " + c.member;
  if (c.page > 0) {
    line += c.page_end > c.page
                ? " pp. " + std::to_string(c.page) + "-" + std::to_string(c.page_end)
                : " p. " + std::to_string(c.page);
  } else if (c.line > 0) {
    line += ":" + std::to_string(c.line);
    if (c.line_end > c.line) line += "-" + std::to_string(c.line_end);
  }
  return line;
}

}  // namespace apud
