// Markdown through md4c: headings, lists, tables and code as blocks, markup removed from the text,
// the lines of the source kept.
#include <md4c.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "base/utf8.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/encoding.h"
#include "rag/loaders/entities.h"
#include "rag/loaders/formats.h"

namespace apud {

namespace {

constexpr const char* kMarkdownLoader = loader_version("markdown");
// md4c 0.4.8 is quadratic in the size of some blocks; so it sees bounded pieces, cut at empty lines
// outside of code fences. A link whose definition lies in another piece stays as written.
constexpr size_t kPiece = 64u << 10;
constexpr size_t kPieceMax = 96u << 10;

struct Parse {
  DocumentBuilder* builder;
  std::string_view source;  // the piece
  int first_line;           // of the piece, in the file
  const char* counted;      // lines are counted up to here …
  int line;                 // … and this is the line there

  std::string buffer;
  int buffer_line = 0;
  BlockKind kind = BlockKind::kParagraph;
  int level = 0;
  int lists = 0;
  std::vector<int> numbers;  // next number of the open lists; -1: bullets
  int cells = 0;
  int images = 0;
  std::string href;
  size_t link_begin = 0;
};

int line_of(Parse& p, const char* at) {
  if (at < p.source.data() || at > p.source.data() + p.source.size()) return p.line;
  if (at >= p.counted) {
    p.line += static_cast<int>(std::count(p.counted, at, '\n'));
  } else {
    p.line -= static_cast<int>(std::count(at, p.counted, '\n'));
  }
  p.counted = at;
  return p.line;
}

void flush(Parse& p) {
  if (!p.buffer.empty()) {
    p.builder->place(std::max(p.buffer_line, 1), 0);
    p.builder->block(p.kind, p.buffer, p.level);
  }
  p.buffer.clear();
  p.buffer_line = 0;
  p.kind = p.lists > 0 ? BlockKind::kListItem : BlockKind::kParagraph;
  p.level = 0;
}

int enter_block(MD_BLOCKTYPE type, void* detail, void* data) {
  Parse& p = *static_cast<Parse*>(data);
  switch (type) {
    case MD_BLOCK_H:
      flush(p);
      p.kind = BlockKind::kHeading;
      p.level = static_cast<int>(static_cast<MD_BLOCK_H_DETAIL*>(detail)->level);
      break;
    case MD_BLOCK_UL:
    case MD_BLOCK_OL:
      flush(p);
      ++p.lists;
      p.numbers.push_back(type == MD_BLOCK_UL
                              ? -1
                              : static_cast<int>(static_cast<MD_BLOCK_OL_DETAIL*>(detail)->start));
      break;
    case MD_BLOCK_LI: {
      flush(p);
      p.kind = BlockKind::kListItem;
      int& number = p.numbers.back();
      p.buffer = number < 0 ? "- " : std::to_string(number) + ". ";
      if (number >= 0 && number < 1'000'000'000) ++number;
      break;
    }
    case MD_BLOCK_P:
      // The first paragraph of an item follows its marker.
      if (p.kind != BlockKind::kListItem || p.buffer_line != 0) flush(p);
      break;
    case MD_BLOCK_CODE:
      flush(p);
      p.kind = BlockKind::kCode;
      break;
    case MD_BLOCK_HTML:
    case MD_BLOCK_QUOTE:
    case MD_BLOCK_TABLE:
    case MD_BLOCK_HR:
      flush(p);
      break;
    case MD_BLOCK_TR:
      flush(p);
      p.kind = BlockKind::kTableRow;
      p.cells = 0;
      break;
    case MD_BLOCK_TH:
    case MD_BLOCK_TD:
      if (p.cells++ > 0) p.buffer += " | ";
      break;
    default:
      break;
  }
  return 0;
}

int leave_block(MD_BLOCKTYPE type, void*, void* data) {
  Parse& p = *static_cast<Parse*>(data);
  if (type == MD_BLOCK_UL || type == MD_BLOCK_OL) {
    flush(p);
    --p.lists;
    p.numbers.pop_back();
    p.kind = p.lists > 0 ? BlockKind::kListItem : BlockKind::kParagraph;
  } else if (type == MD_BLOCK_HTML) {
    p.buffer = strip_tags(p.buffer);
    p.buffer.erase(0, p.buffer.find_first_not_of(" \t\n"));  // breaks of tags are no lines
    flush(p);
  } else if (type != MD_BLOCK_TH && type != MD_BLOCK_TD && type != MD_BLOCK_DOC) {
    flush(p);
  }
  return 0;
}

int enter_span(MD_SPANTYPE type, void* detail, void* data) {
  Parse& p = *static_cast<Parse*>(data);
  if (type == MD_SPAN_A) {
    auto* link = static_cast<MD_SPAN_A_DETAIL*>(detail);
    p.href.assign(link->href.text ? link->href.text : "", link->href.size);
    p.link_begin = p.buffer.size();
  }
  return 0;
}

int leave_span(MD_SPANTYPE type, void*, void* data) {
  Parse& p = *static_cast<Parse*>(data);
  if (type == MD_SPAN_A) {
    // Addresses of the web are content ("where do I download it?"); relative links are markup.
    bool web = p.href.rfind("http://", 0) == 0 || p.href.rfind("https://", 0) == 0;
    if (web && p.link_begin <= p.buffer.size() &&
        p.buffer.find(p.href, p.link_begin) == std::string::npos && p.kind != BlockKind::kHeading) {
      p.buffer += " (" + p.href + ")";
    }
    p.href.clear();
  }
  return 0;
}

int text(MD_TEXTTYPE type, const MD_CHAR* chars, MD_SIZE size, void* data) {
  Parse& p = *static_cast<Parse*>(data);
  std::string_view piece(chars, size);
  if (p.buffer_line == 0) p.buffer_line = line_of(p, chars);
  switch (type) {
    case MD_TEXT_BR:
    case MD_TEXT_SOFTBR:
      p.buffer += '\n';
      break;
    case MD_TEXT_NULLCHAR:
      break;
    case MD_TEXT_ENTITY:
      p.buffer += decode_entity(piece);
      break;
    case MD_TEXT_HTML:
      p.buffer.append(p.kind == BlockKind::kParagraph && p.lists == 0 ? piece : std::string_view{});
      break;
    default:
      p.buffer.append(piece);
      break;
  }
  return 0;
}

// Leading "---" … "---": kept as a code block, its title taken.
size_t front_matter(std::string_view source, DocumentBuilder& builder) {
  if (source.substr(0, 4) != "---\n") return 0;
  size_t end = source.find("\n---\n", 3);
  if (end == std::string_view::npos || end > 16384) return 0;
  std::string_view body = source.substr(4, end + 1 - 4);
  size_t title = body.substr(0, 6) == "title:" ? 0 : body.find("\ntitle:");
  if (title != std::string_view::npos) {
    title = body.find(':', title) + 1;
    std::string value = one_line(body.substr(title, body.find('\n', title) - title));
    if (value.size() >= 2 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0]) {
      value = value.substr(1, value.size() - 2);
    }
    builder.document().title = clean_utf8(value).text;
  }
  builder.place(2, 0);
  builder.block(BlockKind::kCode, body);
  return end + 5;
}

// Where the piece that begins at `begin` ends: before a heading or after an empty line where that
// is possible, never inside a fence that is shorter than a piece.
size_t piece_end(std::string_view source, size_t begin) {
  if (source.size() - begin <= kPieceMax) return source.size();
  size_t best = 0;
  bool fence = false, blank = false;
  for (size_t line = begin; line < source.size() && line - begin < kPieceMax;) {
    size_t end = std::min(source.find('\n', line), source.size());
    std::string_view here = source.substr(line, end - line);
    size_t indent = std::min(here.find_first_not_of(' '), here.size());
    std::string_view body = here.substr(indent);
    if (!fence && blank && line > begin && !body.empty() && indent == 0) best = line;
    if (best != 0 && best - begin >= kPiece) return best;
    if (indent < 4 && (body.substr(0, 3) == "```" || body.substr(0, 3) == "~~~")) fence = !fence;
    blank = body.empty();
    line = end + 1;
  }
  if (best != 0) return best;
  size_t cut = source.rfind('\n', begin + kPiece);
  if (cut != std::string_view::npos && cut > begin) return cut + 1;
  cut = begin + kPiece;  // one endless line
  while ((static_cast<unsigned char>(source[cut]) & 0xC0) == 0x80) --cut;
  return cut;
}

}  // namespace

Document load_markdown(std::string_view bytes) {
  DecodedText decoded = decode_text(bytes);
  if (decoded.binary)
    return skipped_document(kMarkdownLoader, LoadStatus::kBinary, "binary content");
  DocumentBuilder builder(kMarkdownLoader);
  builder.hidden(decoded.clean.hidden);
  // Before parsing: long paragraphs become blocks piece by piece.
  builder.document().data_runs = shorten_data(decoded.clean.text);
  std::string_view source = decoded.clean.text;

  MD_PARSER parser{};
  parser.flags =
      MD_FLAG_TABLES | MD_FLAG_STRIKETHROUGH | MD_FLAG_PERMISSIVEURLAUTOLINKS | MD_FLAG_TASKLISTS;
  parser.enter_block = enter_block;
  parser.leave_block = leave_block;
  parser.enter_span = enter_span;
  parser.leave_span = leave_span;
  parser.text = text;
  size_t begin = front_matter(source, builder);
  int line = 1 + static_cast<int>(std::count(
                     source.begin(), source.begin() + static_cast<std::ptrdiff_t>(begin), '\n'));
  while (begin < source.size()) {
    size_t end = piece_end(source, begin);
    Parse parse{};
    parse.builder = &builder;
    parse.source = source.substr(begin, end - begin);
    parse.first_line = line;
    parse.counted = parse.source.data();
    parse.line = line;
    if (md_parse(parse.source.data(), static_cast<MD_SIZE>(parse.source.size()), &parser, &parse) !=
        0) {
      return skipped_document(kMarkdownLoader, LoadStatus::kLimit, "Markdown parser out of memory");
    }
    flush(parse);
    line += static_cast<int>(std::count(parse.source.begin(), parse.source.end(), '\n'));
    begin = end;
  }
  Document document = builder.finish();
  // Replacements were counted by the decoding; the blocks hold U+FFFD as ordinary characters.
  if (decoded.clean.replaced > 0 && document.status == LoadStatus::kOk) {
    document.replaced = decoded.clean.replaced;
    finish_document(document);
  }
  return document;
}

}  // namespace apud
