#include "rag/loaders/html.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "base/ascii.h"
#include "base/child.h"
#include "base/utf8.h"
#include "rag/loaders/encoding.h"
#include "rag/loaders/entities.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/html_wire.h"

namespace apud {

namespace {

constexpr size_t kMaxOpen = 512;
constexpr size_t kMaxAttributes = 256;
using Clock = std::chrono::steady_clock;

constexpr int kParseSeconds = 10;  // for what the pre-scan does not foresee

bool name_is(std::string_view name, std::string_view wanted) {
  return name.size() == wanted.size() &&
         std::equal(name.begin(), name.end(), wanted.begin(),
                    [](char a, char b) { return ascii_lower(a) == b; });
}

bool one_of(std::string_view name, std::initializer_list<std::string_view> list) {
  return std::any_of(list.begin(), list.end(),
                     [&](std::string_view x) { return name_is(name, x); });
}

// The value of charset= in the first kilobyte.
std::string declared_charset(std::string_view bytes) {
  const std::string head = ascii_lower(bytes.substr(0, 1024));
  size_t at = 0;
  while ((at = head.find("charset", at)) != std::string::npos) {
    at += 7;
    while (at < head.size() &&
           (head[at] == ' ' || head[at] == '=' || head[at] == '"' || head[at] == '\''))
      ++at;
    size_t end = at;
    while (end < head.size() && (std::isalnum(static_cast<unsigned char>(head[end])) ||
                                 head[end] == '-' || head[end] == '_' || head[end] == ':')) {
      ++end;
    }
    if (end > at) return head.substr(at, end - at);
  }
  // XML declaration.
  size_t xml = head.find("encoding=");
  if (head.compare(0, 5, "<?xml") == 0 && xml != std::string::npos && xml + 10 < head.size()) {
    size_t end = head.find(head[xml + 9], xml + 10);
    if (end != std::string::npos) return head.substr(xml + 10, end - xml - 10);
  }
  return {};
}

// XHTML may close any element in its start tag, which HTML ignores: "<a id='x'/>" becomes
// "<a id='x'></a>".
std::string expand_self_closed(const std::string& xhtml) {
  std::string out;
  out.reserve(xhtml.size());
  for (size_t i = 0; i < xhtml.size();) {
    size_t close = xhtml.find("/>", i);
    if (close == std::string::npos) {
      out.append(xhtml, i);
      break;
    }
    size_t open = std::string_view(xhtml).substr(i, close - i).rfind('<');
    if (open != std::string::npos) open += i;
    size_t end = open == std::string::npos ? close : open + 1;
    while (end < close &&
           (std::isalnum(static_cast<unsigned char>(xhtml[end])) || xhtml[end] == ':'))
      ++end;
    std::string_view name;
    if (open != std::string::npos) name = std::string_view(xhtml).substr(open + 1, end - open - 1);
    bool expand =
        !name.empty() &&
        !one_of(name, {"br", "img", "hr", "input", "meta", "link", "col", "area", "base"}) &&
        name.find(':') == std::string_view::npos;
    out.append(xhtml, i, close - i);
    out += expand ? "></" + std::string(name) + ">" : "/>";
    i = close + 2;
  }
  return out;
}

HtmlPage stripped(const std::string& html, std::string why) {
  HtmlPage page;
  page.structure_lost = true;
  page.failure = std::move(why);
  std::string text = strip_tags(html);
  // Lines of the stripped text, in blocks of what stands between empty lines.
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find("\n\n", begin);
    if (end == std::string::npos) end = text.size();
    std::string_view piece(text.data() + begin, end - begin);
    if (piece.find_first_not_of(" \t\n") != std::string_view::npos) {
      page.blocks.push_back({BlockKind::kParagraph, 0, 0, std::string(piece)});
    }
    begin = end + 2;
  }
  return page;
}

bool read_page(WireReader& in, HtmlPage& page) {
  uint32_t tag = 0, kind = 0, level = 0, line = 0, hidden = 0;
  std::string_view text;
  while (in.number(tag)) {
    if (tag == 2) {
      if (!in.number(hidden) || !in.bytes(text)) return false;
      page.hidden = static_cast<int>(std::min<uint32_t>(hidden, 1u << 30));
      page.title = one_line(clean_utf8(text).text);
      return true;
    }
    if (tag != 1 || !in.number(kind) || !in.number(level) || !in.number(line) || !in.bytes(text))
      return false;
    if (kind > static_cast<uint32_t>(BlockKind::kListItem) || level > 6 || line > (1u << 30))
      return false;
    page.blocks.push_back({static_cast<BlockKind>(kind), static_cast<int>(level),
                           static_cast<int>(line), std::string(text)});
  }
  return false;
}

}  // namespace

std::string decode_html(std::string_view bytes, bool* binary) {
  *binary = false;
  std::string found = detect_encoding(bytes);
  if (found.empty()) {
    *binary = true;
    return {};
  }
  auto finish = [](const std::string& text) {
    std::string clean = clean_utf8(text).text;
    bool xhtml = clean.compare(0, 5, "<?xml") == 0 ||
                 std::string_view(clean).substr(0, 2048).find("//www.w3.org/1999/xhtml") !=
                     std::string_view::npos;
    return xhtml ? expand_self_closed(clean) : clean;
  };
  std::string charset = declared_charset(bytes);
  // What the bytes prove beats what the page says; a wide encoding cannot be declared in ASCII.
  bool proven = found.rfind("UTF", 0) == 0;
  if (!proven && !charset.empty() && charset.rfind("utf", 0) != 0) {
    bool known = false;
    std::string text = to_utf8(bytes, charset, &known);
    if (known) return finish(std::move(text));
  }
  return finish(to_utf8(bytes, found));
}

bool html_within_limits(std::string_view html) {
  std::vector<std::string_view> open;
  open.reserve(kMaxOpen);
  for (size_t i = 0; i < html.size();) {
    i = html.find('<', i);
    if (i == std::string_view::npos) return true;
    if (html.substr(i, 4) == "<!--") {
      size_t end = html.find("-->", i + 4);
      if (end == std::string_view::npos) return true;
      i = end + 3;
      continue;
    }
    bool closing = i + 1 < html.size() && html[i + 1] == '/';
    size_t begin = i + 1 + (closing ? 1 : 0), end = begin;
    if (begin >= html.size() || ascii_lower(html[begin]) < 'a' || ascii_lower(html[begin]) > 'z') {
      ++i;
      continue;
    }
    while (end < html.size() && html[end] != '>' && html[end] != '/' && html[end] != ' ' &&
           html[end] != '\t' && html[end] != '\n') {
      ++end;
    }
    std::string_view name = html.substr(begin, end - begin);
    // The rest of the tag: attributes, with quotes that may hold '>'.
    size_t attributes = 0;
    bool self_closing = false;
    for (; end < html.size() && html[end] != '>'; ++end) {
      char c = html[end];
      if (c == '"' || c == '\'') {
        end = html.find(c, end + 1);
        if (end == std::string_view::npos) return attributes <= kMaxAttributes;
      }
      self_closing = c == '/';
      bool gap = c == ' ' || c == '\n' || c == '\t';
      attributes += gap && end + 1 < html.size() && html[end + 1] != ' ' && html[end + 1] != '\n';
      if (attributes > kMaxAttributes) return false;
    }
    i = std::min(end + 1, html.size());
    if (closing) {
      for (size_t k = open.size(); k-- > 0;) {
        if (open[k].size() == name.size() &&
            std::equal(name.begin(), name.end(), open[k].begin(),
                       [](char a, char b) { return ascii_lower(a) == ascii_lower(b); })) {
          open.resize(k);
          break;
        }
      }
      continue;
    }
    if (one_of(name, {"script", "style", "textarea", "title"})) {
      // Raw text up to its end tag.
      for (;;) {
        i = html.find("</", i);
        if (i == std::string_view::npos) return true;
        if (name_is(html.substr(i + 2, name.size()), ascii_lower(name))) {
          break;
        }
        i += 2;
      }
      continue;
    }
    // Void elements, and those whose end tag is optional: they never nest by themselves.
    bool counts = !self_closing || !one_of(name, {"path", "rect", "circle", "use", "line", "g"});
    if (one_of(name, {"br",     "img",   "hr",    "input",  "meta",  "link", "col",
                      "area",   "base",  "embed", "source", "track", "wbr",  "param",
                      "p",      "li",    "td",    "th",     "tr",    "dt",   "dd",
                      "option", "tbody", "thead", "tfoot",  "html",  "head", "body"})) {
      counts = false;
    }
    if (counts) {
      open.push_back(name);
      if (open.size() > kMaxOpen) return false;
    }
  }
  return true;
}

std::vector<HtmlPage> parse_html(const std::vector<std::string>& pages,
                                 const LoadOptions& options) {
  std::vector<HtmlPage> out(pages.size());
  std::vector<size_t> sent;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (html_within_limits(pages[i])) {
      sent.push_back(i);
    } else {
      out[i] = stripped(pages[i], "more than 512 open elements or 256 attributes in a tag");
    }
  }
  if (sent.empty()) return out;
  ChildLimits limits;
  limits.memory_bytes = options.parser_memory;
  limits.cpu_seconds =
      std::min(kParseSeconds, std::max(1, static_cast<int>(options.parser_seconds)));
  // All pages of a document share its time: a book of slow chapters ends as one slow page does.
  const double wall_seconds = 2.0 * limits.cpu_seconds;
  const auto start = Clock::now();
  ChildReuse reuse;
  ChildResult result;
  for (size_t i : sent) {
    limits.wall_seconds =
        wall_seconds - std::chrono::duration<double>(Clock::now() - start).count();
    if (result.end != ChildEnd::kCancelled && limits.wall_seconds > 0) {
      WireWriter input;
      input.bytes(pages[i]);
      result = run_in_child(html_child_name(), input.buffer, limits, options.cancel);
    } else if (result.end != ChildEnd::kCancelled) {
      result.end = ChildEnd::kTime;
    }
    limits.wall_seconds = wall_seconds;  // as it is told
    WireReader reader(result.output);
    if (result.end != ChildEnd::kOk || !read_page(reader, out[i]))
      out[i] = stripped(pages[i], "HTML parser " + describe(result, limits));
  }
  return out;
}

void append_page(const HtmlPage& page, std::string_view member, int page_number,
                 DocumentBuilder& builder) {
  builder.hidden(page.hidden);
  builder.document().structure_lost |= page.structure_lost;
  for (const HtmlBlock& block : page.blocks) {
    builder.place(block.line, page_number, member);
    builder.block(block.kind, block.text, block.level);
  }
}

Document load_html(std::string_view bytes, const LoadOptions& options) {
  constexpr const char* kHtmlLoader = loader_version("html");
  bool binary = false;
  std::vector<std::string> pages = {decode_html(bytes, &binary)};
  if (binary) return skipped_document(kHtmlLoader, LoadStatus::kBinary, "binary content");
  CleanText clean = clean_utf8(bytes);  // for the counts: hidden marks are gone before parsing
  HtmlPage page = std::move(parse_html(pages, options)[0]);
  if (options.cancel && options.cancel->raised())
    return skipped_document(kHtmlLoader, LoadStatus::kLimit, "cancelled");
  DocumentBuilder builder(kHtmlLoader);
  if (detect_encoding(bytes) == "UTF-8") {
    builder.hidden(clean.hidden);
    builder.document().replaced = clean.replaced;
  }
  append_page(page, {}, 0, builder);
  builder.document().title = page.title;
  Document document = builder.finish();
  if (page.structure_lost) {
    document.reason += (document.reason.empty() ? "" : "; ") + ("structure lost: " + page.failure);
  }
  return document;
}

}  // namespace apud
