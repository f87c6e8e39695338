#include "rag/loaders/pdf_text.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "base/ascii.h"
#include "base/utf8.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/encoding.h"
#include "rag/loaders/pdf_contents.h"

namespace apud {

namespace {

constexpr size_t kEdgeLines = 3;            // of a page that may be a running header or footer
constexpr double kRunningShare = 0.3;       // of the pages that carry it
constexpr size_t kTextPageCharacters = 20;  // fewer: a page without text

struct Line {
  std::string text;
  int page = 0;
  int width = 0;       // columns
  int page_width = 0;  // what a full line of its page has
};

bool letter(unsigned char c) { return static_cast<unsigned>((c | 32) - 'a') < 26u || c >= 0x80; }

// Digits become one #, lower-case Roman numbers standing alone ~, so that page numbers compare
// equal.
std::string masked(std::string_view line) {
  std::string out;
  for (size_t i = 0; i < line.size();) {
    if (ascii_digit(line[i])) {
      while (i < line.size() && ascii_digit(line[i])) ++i;
      out += '#';
      continue;
    }
    size_t end = i;
    while (end < line.size() && std::string_view("ivxlc").find(line[end]) != std::string_view::npos)
      ++end;
    bool alone =
        end > i && (i == 0 || line[i - 1] == ' ') && (end == line.size() || line[end] == ' ');
    if (alone) {
      out += '#';
      i = end;
    } else {
      out += line[i++];
    }
  }
  return out;
}

std::vector<std::string_view> lines_of(std::string_view page) {
  std::vector<std::string_view> lines;
  while (!page.empty()) {
    size_t end = page.find('\n');
    std::string_view line = page.substr(0, end);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) lines.push_back(line);
    if (end == std::string_view::npos) break;
    page.remove_prefix(end + 1);
  }
  return lines;
}

// For each page how many lines at its top and bottom are running headers and footers: their masked
// text stands at an edge of more than 30 % of the pages, or at the same edge of three pages in a
// row or every other (chapter titles).
struct Edges {
  size_t top = 0, bottom = 0;
};
std::vector<Edges> running_lines(const std::vector<std::vector<std::string_view>>& pages) {
  std::vector<Edges> edges(pages.size());
  if (pages.size() < 4) return edges;
  std::unordered_map<std::string, size_t> on_pages;
  auto edge_line = [&](size_t page, size_t i, bool top) -> std::string {
    const auto& lines = pages[page];
    if (i >= lines.size()) return {};
    return masked(lines[top ? i : lines.size() - 1 - i]);
  };
  for (size_t page = 0; page < pages.size(); ++page) {
    std::unordered_set<std::string> here;
    for (bool top : {true, false}) {
      for (size_t i = 0; i < kEdgeLines; ++i) {
        std::string line = edge_line(page, i, top);
        if (!line.empty() && here.insert(line).second) ++on_pages[line];
      }
    }
  }
  size_t needed = std::max<size_t>(
      3, static_cast<size_t>(static_cast<double>(pages.size()) * kRunningShare) + 1);
  for (size_t page = 0; page < pages.size(); ++page) {
    for (bool top : {true, false}) {
      size_t count = 0;
      // A short page may lose one line at each edge, so that forms with equal text keep theirs.
      size_t most = std::clamp<size_t>(pages[page].size() / 6, 1, kEdgeLines);
      for (size_t i = 0; i < most && i < pages[page].size(); ++i) {
        std::string line = edge_line(page, i, top);
        bool running =
            on_pages[line] >= needed || line == "#" || line == "- # -" || line == "– # –";
        for (size_t step : {1u, 2u}) {
          size_t near = 0;
          for (int side : {-2, -1, 1, 2}) {
            long other = static_cast<long>(page) + side * static_cast<long>(step);
            if (other >= 0 && other < static_cast<long>(pages.size())) {
              near += edge_line(static_cast<size_t>(other), i, top) == line;
            }
          }
          running |= near >= 2 && i == count;
        }
        if (!running) break;
        ++count;
      }
      (top ? edges[page].top : edges[page].bottom) = count;
    }
    size_t lines = pages[page].size();
    if (edges[page].top + edges[page].bottom > lines) edges[page].bottom = lines - edges[page].top;
  }
  return edges;
}

// Ligatures of fonts, spelled out.
std::string spell_ligatures(std::string text) {
  static constexpr std::array<const char*, 7> kLigatures = {"ff",  "fi", "fl", "ffi",
                                                            "ffl", "st", "st"};
  if (text.find("\xEF\xAC") == std::string::npos) return text;
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "\xEF\xAC") == 0 && i + 2 < text.size()) {
      unsigned last = static_cast<unsigned char>(text[i + 2]);
      if (last >= 0x80 && last <= 0x86) {
        out += kLigatures[last - 0x80];
        i += 2;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

// Typeset backquotes come out as combining grave accents; one on a character that has no accented
// form is a backquote.
std::string spell_backquotes(std::string text) {
  for (size_t at = 0; (at = text.find("\xCC\x80", at)) != std::string::npos; ++at) {
    bool accent =
        at > 0 && std::string_view("aeiounwyAEIOUNWY").find(text[at - 1]) != std::string_view::npos;
    if (!accent) text.replace(at, 2, "`");
  }
  return text;
}

// Dot leaders of tables of contents shrink to one sign.
std::string shrink_leaders(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    size_t end = i, dots = 0;
    for (size_t width = 1; end < text.size() && width > 0; end += width) {
      std::string_view rest = std::string_view(text).substr(end);
      width = text[end] == '.' || text[end] == ' ' ? 1
              : rest.starts_with("·")              ? 2
              : rest.starts_with("…")              ? 3
                                                   : 0;
      dots += width == 3 ? 3 : width > 0 && text[end] != ' ';
    }
    if (dots >= 5) {
      out += " … ";
      i = end;
    } else {
      out += text[i++];
    }
  }
  return out;
}

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> list) {
  return std::any_of(list.begin(), list.end(),
                     [&](std::string_view s) { return text.substr(0, s.size()) == s; });
}
bool ends_with_any(std::string_view text, std::initializer_list<std::string_view> list) {
  return std::any_of(list.begin(), list.end(), [&](std::string_view s) {
    return text.size() >= s.size() && text.substr(text.size() - s.size()) == s;
  });
}

bool is_full(const Line& line) { return line.width * 4 >= line.page_width * 3; }
bool ends_sentence(std::string_view text) {
  return ends_with_any(text, {".", "!", "?", ":", "。", "！", "？", "："});
}

// Bullets, dashes and numbers that begin a list item, and shell prompts.
bool starts_item(std::string_view line) {
  if (starts_with_any(
          line, {"• ", "◦ ", "▪ ", "■ ", "– ", "— ", "- ", "* ", "∗ ", "● ", "○ ", "$ ", "# "}))
    return true;
  size_t i = line.size() > 1 && line[0] == '(' ? 1 : 0, begin = i;
  while (i < line.size() && ascii_digit(line[i]) && i - begin < 3) ++i;
  return i > begin && i + 1 < line.size() && (line[i] == '.' || line[i] == ')') &&
         line[i + 1] == ' ';
}

// Level of a heading by its number ("2.3.1 Title", "Chapter 4", "第 3 章", "A.2 Title"); 0: none.
// Single numbers count only when they go on from the last one: lists and tables begin so, too. A
// number at the start of a line may also be one of the sentence that `before` began.
int heading_level(const Line* before, const Line& line, const Line* next, int& last_chapter) {
  std::string_view text = line.text;
  if (line.width > 100 || text.size() < 3 || text.find("…") != std::string_view::npos) return 0;
  if (ends_with_any(text, {".", ",", ";", ":", "。", "，", "；", "：", "、", "-", "）"}) &&
      line.width > 40)
    return 0;
  if (starts_with_any(text, {"Chapter ", "CHAPTER ", "Appendix ", "APPENDIX ", "Part ", "PART "}) &&
      line.width < 70) {
    size_t space = text.find(' ') + 1;
    return space < text.size() && (ascii_digit(text[space]) ||
                                   (text[space] >= 'A' && text[space] <= 'Z' &&
                                    (space + 1 == text.size() || text[space + 1] == ' ' ||
                                     text[space + 1] == '.' || text[space + 1] == ':')))
               ? 1
               : 0;
  }
  if (text.substr(0, 3) == "第") {
    size_t at = std::min(text.find("章"), text.find("节"));
    if (at != std::string_view::npos && at <= 24) return text.find("章") == at ? 1 : 2;
    return 0;
  }
  size_t i = 0;
  int dots = 0;
  bool appendix = text[0] >= 'A' && text[0] <= 'Z' && text[1] == '.' && ascii_digit(text[2]);
  if (appendix) i = 1;
  while (i < text.size() && (ascii_digit(text[i]) ||
                             (text[i] == '.' && i + 1 < text.size() && ascii_digit(text[i + 1])))) {
    dots += text[i] == '.';
    if (++i > 14) return 0;
  }
  if (i == 0) return 0;
  if (i < text.size() && text[i] == '.') ++i;  // "2.1. Title"
  if (i >= text.size() || text[i] != ' ') return 0;
  std::string_view title = text.substr(text.find_first_not_of(' ', i) == std::string_view::npos
                                           ? i
                                           : text.find_first_not_of(' ', i));
  // "3.4. /bin: essential commands" is one, too.
  if (title.empty() || (!letter(static_cast<unsigned char>(title[0])) && title[0] != '/')) return 0;
  bool lower = title[0] >= 'a' && title[0] <= 'z';
  if (dots > 0) {
    bool in_sentence = before && before->page == line.page && is_full(*before) &&
                       !ends_sentence(before->text) && (lower || is_full(line));
    return in_sentence || text.starts_with("0.") ? 0 : dots + 1;
  }
  int number = 0;
  // Capped: a row of digits is no chapter, and must not overflow.
  for (size_t k = 0; k < i && ascii_digit(text[k]); ++k)
    number = std::min(number * 10 + (text[k] - '0'), 100'000);
  bool list =
      next && !next->text.empty() && (ascii_digit(next->text[0]) || starts_item(next->text));
  if (lower || list || line.width > 60 || (number != last_chapter + 1)) return 0;
  last_chapter = number;
  return 1;
}

class Joiner {
 public:
  explicit Joiner(const std::vector<Line>& lines) {
    bool cut = false;
    for (const Line& line : lines) {
      collect_words(line.text, cut);
      cut = line.text.back() == '-';
    }
  }

  // What stands between the end of `before` and the start of `line`; a hyphen that only broke the
  // word is cut off `before`.
  void join(std::string& before, const std::string& line) const {
    Utf8Char head = utf8_decode(line, 0);
    size_t last = before.size() - 1;
    while (last > 0 && (static_cast<unsigned char>(before[last]) & 0xC0) == 0x80) --last;
    Utf8Char tail = utf8_decode(before, last);
    if (tail.code == '-' || tail.code == 0x2010) {
      bool after_slash =
          last > 0 && before[last - 1] == '/' && letter(static_cast<unsigned char>(line[0]));
      if (after_slash || (last > 0 && letter(static_cast<unsigned char>(before[last - 1])) &&
                          broken_word(before, last, line))) {
        before.resize(last);
      }
      before += line;
      return;
    }
    bool wide = display_width(tail.code) == 2 || display_width(head.code) == 2;
    bool both = display_width(tail.code) == 2 && display_width(head.code) == 2;
    bool punctuation = wide && (!is_cjk(tail.code) || !is_cjk(head.code)) &&
                       (is_full_width_mark(tail.code) || is_full_width_mark(head.code));
    if (!both && !punctuation) before += ' ';
    before += line;
  }

 private:
  static bool is_full_width_mark(char32_t c) {
    return (c >= 0x3000 && c <= 0x303F) || (c >= 0xFF00 && c <= 0xFF65) || c == 0x201C ||
           c == 0x201D;
  }

  // Words that the end of a line may have cut do not count: with `cut` the first, and any last one.
  void collect_words(std::string_view text, bool cut) {
    size_t first = cut ? std::min(text.find(' '), text.size()) : 0;
    for (size_t i = first; i < text.size();) {
      if (!letter(static_cast<unsigned char>(text[i]))) {
        ++i;
        continue;
      }
      size_t end = i;
      while (end < text.size() && (letter(static_cast<unsigned char>(text[end])) ||
                                   (text[end] == '-' && end + 1 < text.size() &&
                                    letter(static_cast<unsigned char>(text[end + 1]))))) {
        ++end;
      }
      if (end < text.size() && !(text[end] == '-' && end + 1 == text.size())) {
        std::string word = ascii_lower(text.substr(i, end - i));
        // Of a-b-c also a-b and b-c: what a line may end in.
        for (size_t hyphen = word.find('-'); hyphen != std::string::npos;
             hyphen = word.find('-', hyphen + 1)) {
          size_t before = hyphen == 0 ? 0 : word.rfind('-', hyphen - 1) + 1;
          words_.insert(word.substr(before, word.find('-', hyphen + 1) - before));
          if (word.size() > 128) break;
        }
        words_.insert(std::move(word));
      }
      i = end;
    }
  }

  bool broken_word(const std::string& before, size_t hyphen, const std::string& line) const {
    if (!letter(static_cast<unsigned char>(line[0])) || (line[0] >= 'A' && line[0] <= 'Z'))
      return false;
    size_t token = before.rfind(' ', hyphen - 1);
    token = token == std::string::npos ? 0 : token + 1;
    std::string_view whole(before.data() + token, hyphen - token);
    // Paths, addresses, options and identifiers keep their hyphens.
    if (whole.find_first_of("/_@0123456789=") != std::string_view::npos || whole[0] == '-')
      return false;
    size_t begin = hyphen;
    while (begin > token && letter(static_cast<unsigned char>(before[begin - 1]))) --begin;
    size_t end = 0;
    while (end < line.size() && letter(static_cast<unsigned char>(line[end]))) ++end;
    std::string left = ascii_lower(std::string_view(before).substr(begin, hyphen - begin));
    std::string right = ascii_lower(std::string_view(line).substr(0, end));
    if (words_.count(left + right)) return true;
    if (words_.count(left + "-" + right)) return false;
    // Neither is known: a compound when both halves are words of this document by themselves.
    return !(left.size() > 3 && right.size() > 3 && words_.count(left) && words_.count(right));
  }

  std::unordered_set<std::string> words_;
};

// True when `line` goes on with the paragraph that ends with `before`.
bool continues(const Line& before, const Line& line) {
  if (starts_item(line.text)) return false;
  if (starts_with_any(line.text, {"，", "。", "、", "；", "：", "！", "？", "）", "”", "’", "》",
                                  "」", ",", ")"}))
    return true;
  if (ends_with_any(before.text, {"、", "，", "（", "“", "《", "「", "-", "\xE2\x80\x90"}))
    return true;
  bool full = is_full(before);
  bool ended = ends_sentence(before.text);
  if (full && !ended) return true;
  // A full line that ends a sentence goes on unless it is notably short of the margin.
  if (full) return before.width * 20 >= before.page_width * 19;
  bool lower = line.text[0] >= 'a' && line.text[0] <= 'z';
  return lower && !ended && before.width * 2 >= before.page_width && before.text[0] != '$';
}

/// A heading that is longer than its line: the next begins with a small letter.
bool heading_continues(const Line& before, const Line& line) {
  bool open = std::count(before.text.begin(), before.text.end(), '(') >
              std::count(before.text.begin(), before.text.end(), ')');
  bool lower = line.text[0] >= 'a' && line.text[0] <= 'z';
  return lower && before.page == line.page && (open || before.width * 2 >= before.page_width) &&
         line.width < before.width;
}

void drop_contents(std::vector<Line>& lines) {
  std::vector<std::string> texts;
  for (const Line& line : lines) texts.push_back(line.text);
  std::vector<bool> contents = contents_lines(texts);
  size_t kept = 0;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (contents[i]) continue;
    if (kept != i) lines[kept] = std::move(lines[i]);
    ++kept;
  }
  lines.resize(kept);
}

std::string page_list(const std::vector<int>& pages) {
  std::string out;
  for (size_t i = 0; i < pages.size();) {
    size_t end = i;
    while (end + 1 < pages.size() && pages[end + 1] == pages[end] + 1) ++end;
    if (out.size() > 60) return out + ", …";
    if (!out.empty()) out += ", ";
    out += std::to_string(pages[i]);
    if (end > i) out += "-" + std::to_string(pages[end]);
    i = end + 1;
  }
  return out;
}

}  // namespace

std::vector<std::string_view> split_pages(std::string_view output) {
  std::vector<std::string_view> pages;
  while (!output.empty()) {
    size_t end = output.find('\f');
    pages.push_back(output.substr(0, end));
    if (end == std::string_view::npos) break;
    output.remove_prefix(end + 1);
  }
  return pages;
}

Document pdf_document(const std::vector<std::string_view>& pages) {
  Document document;
  std::vector<std::vector<std::string_view>> raw;
  raw.reserve(pages.size());
  for (std::string_view page : pages) raw.push_back(lines_of(page));
  std::vector<Edges> edges = running_lines(raw);

  std::vector<Line> lines;
  size_t characters = 0;
  for (size_t page = 0; page < raw.size(); ++page) {
    size_t begin_line = lines.size(), on_page = 0;
    for (std::string_view line : raw[page]) on_page += line.size();
    std::vector<int> widths;
    for (size_t i = edges[page].top; i < raw[page].size() - edges[page].bottom; ++i) {
      std::string_view piece = raw[page][i];
      CleanText clean = clean_utf8(piece);
      if (piece.size() > 2 && piece.substr(piece.size() - 2) == "\xC2\xAD")
        clean.text += '-';  // soft, at a break
      document.hidden_removed += clean.hidden;
      document.replaced += clean.replaced;
      std::string text = shrink_leaders(spell_backquotes(spell_ligatures(one_line(clean.text))));
      if (text.empty()) continue;
      int width = display_width(text);
      widths.push_back(width);
      characters += text.size();
      lines.push_back({std::move(text), static_cast<int>(page) + 1, width, 0});
    }
    if (on_page < kTextPageCharacters)
      document.pages_without_text.push_back(static_cast<int>(page) + 1);
    if (widths.empty()) continue;
    // A full line: the 80th percentile, so that a few overlong lines do not make all others short.
    size_t rank = widths.size() * 8 / 10;
    std::nth_element(widths.begin(), widths.begin() + static_cast<std::ptrdiff_t>(rank),
                     widths.end());
    for (size_t i = begin_line; i < lines.size(); ++i) lines[i].page_width = widths[rank];
  }

  drop_contents(lines);
  Joiner joiner(lines);
  std::string& text = document.text;
  int page = 0, last_chapter = 0;
  BlockKind kind = BlockKind::kParagraph;
  for (size_t i = 0; i < lines.size(); ++i) {
    const Line& line = lines[i];
    int level = heading_level(i > 0 ? &lines[i - 1] : nullptr, line,
                              i + 1 < lines.size() ? &lines[i + 1] : nullptr, last_chapter);
    bool go_on = i > 0 && level == 0 &&
                 (kind == BlockKind::kHeading ? heading_continues(lines[i - 1], line)
                                              : continues(lines[i - 1], line));
    if (!text.empty() && !go_on) {
      // Short lines under each other are rows of a table or code: one block, a line each.
      bool row = level == 0 && kind == BlockKind::kParagraph && !starts_item(line.text) &&
                 lines[i - 1].width * 4 < lines[i - 1].page_width * 3 &&
                 line.width * 4 < line.page_width * 3;
      if (row) {
        text += '\n';
      } else {
        document.blocks.back().end = text.size();
        text += "\n\n";
      }
      if (!row) document.blocks.push_back({text.size(), 0, BlockKind::kParagraph, 0});
    } else if (text.empty()) {
      document.blocks.push_back({0, 0, BlockKind::kParagraph, 0});
    }
    size_t before = text.size();
    if (go_on) {
      joiner.join(text, line.text);
    } else {
      text += line.text;
      if (document.blocks.back().begin == before) {
        kind = level > 0                ? BlockKind::kHeading
               : starts_item(line.text) ? BlockKind::kListItem
                                        : BlockKind::kParagraph;
        document.blocks.back().kind = kind;
        document.blocks.back().level = level;
      }
    }
    if (line.page != page) {
      document.anchors.push_back({std::min(before, text.size()), 0, line.page, {}});
      page = line.page;
    }
  }
  if (!document.blocks.empty()) document.blocks.back().end = text.size();
  if (!lines.empty() && lines[0].width <= 100 && lines[0].page <= 2) document.title = lines[0].text;
  finish_document(document);
  if (!document.pages_without_text.empty()) {
    document.status = LoadStatus::kNoText;
    document.reason =
        "no text on page" + std::string(document.pages_without_text.size() > 1 ? "s " : " ") +
        page_list(document.pages_without_text) + " of " + std::to_string(pages.size());
  } else if (document.status == LoadStatus::kOk && characters < 400) {
    document.reason = "only " + std::to_string(characters) + " bytes of text";
  }
  return document;
}

}  // namespace apud
