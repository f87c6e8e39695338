// JSON and JSON Lines: records as blocks of "path: value" lines, with the source line of each
// record. An own scanner, because lines are wanted and depth must be bounded; text that is not JSON
// is read as plain text.
#include <algorithm>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/encoding.h"
#include "rag/loaders/formats.h"

namespace apud {

namespace {

constexpr const char* kJsonLoader = loader_version("json");
constexpr size_t kMaxJsonNesting = 256;
constexpr size_t kBlockBytes = 2048;  // a record longer than this continues in another block

class Scanner {
 public:
  Scanner(std::string_view text, DocumentBuilder& builder) : text_(text), builder_(builder) {}

  // True when the whole text is JSON values, one or (with `lines`) many.
  bool run(bool lines) {
    size_t values = 0;
    for (space(); at_ < text_.size(); space()) {
      if (!value(0)) return false;
      flush();
      if (++values > 1 && !lines) return false;
    }
    return values > 0;
  }

 private:
  void space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      line_ += text_[at_++] == '\n';
    }
  }

  bool take(char c) {
    space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool hex4(char32_t& out) {
    if (at_ + 4 > text_.size()) return false;
    out = 0;
    for (int i = 0; i < 4; ++i) {
      char c = text_[at_++];
      int v = c >= '0' && c <= '9'                 ? c - '0'
              : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                   : -1;
      if (v < 0) return false;
      out = out * 16 + static_cast<char32_t>(v);
    }
    return true;
  }

  bool string(std::string& out) {
    if (!take('"')) return false;
    while (at_ < text_.size()) {
      size_t end = text_.find_first_of("\"\\\n", at_);
      if (end == std::string_view::npos || text_[end] == '\n') return false;
      out.append(text_.substr(at_, end - at_));
      at_ = end + 1;
      if (text_[end] == '"') return true;
      if (at_ >= text_.size()) return false;
      char c = text_[at_++];
      char32_t code = 0, low = 0;
      switch (c) {
        case 'n':
          out += '\n';
          break;
        case 't':
          out += '\t';
          break;
        case 'r':
        case 'b':
        case 'f':
          out += ' ';
          break;
        case '"':
        case '\\':
        case '/':
          out += c;
          break;
        case 'u':
          if (!hex4(code)) return false;
          if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
            at_ += 2;
            if (!hex4(low)) return false;
            code = low >= 0xDC00 && low < 0xE000
                       ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                       : kReplacement;
          }
          utf8_append(out, code);
          break;
        default:
          return false;
      }
    }
    return false;
  }

  void leaf(std::string_view value) {
    if (value.find_first_not_of(" \t\n") == std::string_view::npos) return;
    if (block_.empty()) block_line_ = line_;
    if (!block_.empty()) block_ += '\n';
    if (!path_.empty()) block_.append(path_).append(": ");
    block_.append(value);
    lines_.resize(static_cast<size_t>(std::count(block_.begin(), block_.end(), '\n')) + 1, line_);
    if (block_.size() > kBlockBytes) flush();
  }

  void flush() {
    builder_.place(block_line_, 0);
    size_t before = builder_.size();
    builder_.block(BlockKind::kParagraph, block_);
    if (builder_.size() > before) place_lines();
    block_.clear();
    lines_.clear();
  }

  /// Values do not stand line by line: brackets have lines of their own, many values may share one,
  /// and a string with line breaks is one line of the source.
  void place_lines() {
    Document& document = builder_.document();
    size_t at = document.blocks.back().begin;
    auto breaks = std::count(document.text.begin() + static_cast<std::ptrdiff_t>(at),
                             document.text.end(), '\n');
    if (static_cast<size_t>(breaks) + 1 != lines_.size()) return;  // cleaning took some out
    for (size_t i = 1; i < lines_.size(); ++i) {
      at = document.text.find('\n', at) + 1;
      if (lines_[i] != lines_[i - 1] + 1)
        document.anchors.push_back({at, lines_[i], 0, document.anchors.back().member});
    }
  }

  // `depth` counts open containers; records are the members of the outermost container.
  bool value(size_t depth) {
    space();
    if (at_ >= text_.size() || depth > kMaxJsonNesting) return false;
    char c = text_[at_];
    if (c == '"') {
      std::string s;
      if (!string(s)) return false;
      leaf(s);
      return true;
    }
    if (c == '{' || c == '[') {
      ++at_;
      char close = c == '{' ? '}' : ']';
      if (take(close)) return true;
      do {
        size_t length = path_.size();
        if (c == '{') {
          std::string key;
          if (!string(key) || !take(':')) return false;
          if (path_.size() + key.size() < 512) path_ += (path_.empty() ? "" : ".") + one_line(key);
        }
        if (!value(depth + 1)) return false;
        path_.resize(length);
        // A record of an array, or a large member of an object, is a block of its own.
        if (depth == 0 && (c == '[' || block_.size() > kBlockBytes / 4)) flush();
      } while (take(','));
      return take(close);
    }
    size_t end = at_;
    while (end < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[end])) ||
                                  text_[end] == '-' || text_[end] == '+' || text_[end] == '.')) {
      ++end;
    }
    std::string_view word = text_.substr(at_, end - at_);
    bool number = !word.empty() && (word[0] == '-' || (word[0] >= '0' && word[0] <= '9'));
    if (!number && word != "true" && word != "false" && word != "null") return false;
    at_ = end;
    if (word != "null") leaf(word);
    return true;
  }

  std::string_view text_;
  DocumentBuilder& builder_;
  size_t at_ = 0;
  int line_ = 1, block_line_ = 1;
  std::string path_, block_;
  std::vector<int> lines_;  // of the source, for each line of the block
};

}  // namespace

Document load_json(std::string_view bytes, std::string_view extension) {
  DecodedText decoded = decode_text(bytes);
  if (decoded.binary) return skipped_document(kJsonLoader, LoadStatus::kBinary, "binary content");
  bool lines = extension == "jsonl" || extension == "ndjson" || extension == "jsonlines";
  DocumentBuilder builder(kJsonLoader);
  if (!Scanner(decoded.clean.text, builder).run(lines)) return load_text(bytes, extension);
  builder.hidden(decoded.clean.hidden);
  Document document = builder.finish();
  if (document.replaced == 0) document.replaced = decoded.clean.replaced;
  finish_document(document);
  return document;
}

}  // namespace apud
