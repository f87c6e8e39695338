#include "models/jinja/lexer.h"

#include <algorithm>

#include "base/utf8.h"
#include "models/jinja/value.h"
#include "models/tokenizers/unicode.h"

namespace apud::jinja {
namespace {

class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    // Line ends become \n; one at the very end is not part of the template.
    source_.reserve(source.size());
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        source_ += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      } else {
        source_ += source[i];
      }
    }
    if (!source_.empty() && source_.back() == '\n') source_.pop_back();
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) data();
    add(Token::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) {
    move_mark(at_);
    throw TemplateError("line " + std::to_string(line_) + ", column " + std::to_string(column_) +
                        ": " + what);
  }

  /// Advances the line counter to `position` (only forward: linear over the whole source).
  void move_mark(size_t position) {
    for (; mark_ < position && mark_ < source_.size(); ++mark_) {
      if (source_[mark_] == '\n') {
        ++line_;
        column_ = 1;
      } else {
        ++column_;
      }
    }
  }

  void add(Token::Kind kind, std::string text) {
    move_mark(at_);
    tokens_.push_back({kind, std::move(text), line_, column_});
  }

  bool looking_at(std::string_view text) const {
    return std::string_view(source_).substr(at_, text.size()) == text;
  }

  /// Text up to the next tag, then that tag.
  void data() {
    size_t open = at_;
    while (true) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        open = std::string::npos;
        break;
      }
      char c = source_[open + 1];
      if (c == '{' || c == '%' || c == '#') break;
      ++open;
    }
    if (open == std::string::npos) {
      add(Token::kData, source_.substr(at_));
      at_ = source_.size();
      return;
    }
    char kind = source_[open + 1];
    char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    std::string text = source_.substr(at_, open - at_);
    if (sign == '-') {
      strip_end(text);
    } else if (sign != '+' && kind != '{') {
      size_t line = text.rfind('\n') + 1;  // npos + 1 == 0
      if ((line > 0 || line_starting_) &&
          std::all_of(text.begin() + line, text.end(), [](char c) { return is_blank(c); })) {
        text.resize(line);
      }
    }
    if (!text.empty()) add(Token::kData, std::move(text));
    at_ = open + 2 + (sign ? 1 : 0);
    if (kind == '#') {
      comment();
    } else if (kind == '{') {
      add(Token::kPrintBegin, {});
      inside("}}", Token::kPrintEnd);
    } else if (!raw()) {
      add(Token::kTagBegin, {});
      inside("%}", Token::kTagEnd);
    }
  }

  static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\v' || c == '\f' || c == '\r';
  }

  static void strip_end(std::string& text) {
    while (!text.empty()) {
      size_t back = text.size() - 1;
      while (back > 0 && (text[back] & 0xC0) == 0x80) --back;
      Utf8Char c = utf8_decode(text, back);
      if (!c.valid || back + c.size != text.size() || !is_python_space(c.code)) return;
      text.resize(back);
    }
  }

  /// After an end mark: what the sign or trim_blocks takes with it.
  void after_end(char sign, bool trims) {
    size_t begin = at_;
    if (sign == '-') {
      while (at_ < source_.size()) {
        Utf8Char c = utf8_decode(source_, at_);
        if (!c.valid || !is_python_space(c.code)) break;
        at_ += c.size;
      }
    } else if (sign != '+' && trims && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
    }
    line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  void comment() {
    size_t close = source_.find("#}", at_);
    if (close == std::string::npos) fail("comment without its end '#}'");
    char sign = close > at_ ? source_[close - 1] : '\0';
    at_ = close + 2;
    after_end(sign == '-' || sign == '+' ? sign : '\0', true);
  }

  /// {% raw %} ... {% endraw %}, when it stands here.
  bool raw() {
    size_t save = at_;
    auto word = [&](std::string_view name) {
      while (at_ < source_.size() && is_blank(source_[at_])) ++at_;
      if (!looking_at(name)) return false;
      at_ += name.size();
      while (at_ < source_.size() && is_blank(source_[at_])) ++at_;
      char sign = at_ < source_.size() ? source_[at_] : '\0';
      if (sign == '-' || sign == '+') ++at_;
      if (!looking_at("%}")) return false;
      at_ += 2;
      after_end(sign, true);
      return true;
    };
    if (!word("raw")) {
      at_ = save;
      return false;
    }
    size_t begin = at_;
    for (size_t open = source_.find("{%", at_); open != std::string::npos;
         open = source_.find("{%", open + 2)) {
      char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
      at_ = open + 2 + (sign == '-' || sign == '+' ? 1 : 0);
      if (word("endraw")) {
        std::string text = source_.substr(begin, open - begin);
        if (sign == '-') strip_end(text);
        size_t after = at_;
        at_ = begin;
        add(Token::kData, std::move(text));
        at_ = after;
        return true;
      }
    }
    at_ = begin;
    fail("raw block without its end");
  }

  /// Tokens inside a tag up to and including its end mark.
  void inside(std::string_view end_mark, Token::Kind end_kind) {
    std::string brackets;  // closers that are still expected
    while (true) {
      while (at_ < source_.size() && is_blank(source_[at_])) ++at_;
      if (at_ >= source_.size()) fail("tag without its end '" + std::string(end_mark) + "'");
      if (brackets.empty()) {
        char sign = source_[at_];
        size_t skip = sign == '-' || (sign == '+' && end_kind == Token::kTagEnd) ? 1 : 0;
        if (std::string_view(source_).substr(at_ + skip, 2) == end_mark) {
          add(end_kind, {});
          at_ += skip + 2;
          after_end(skip ? sign : '\0', end_kind == Token::kTagEnd);
          return;
        }
      }
      element(brackets);
    }
  }

  void element(std::string& brackets) {
    unsigned char c = static_cast<unsigned char>(source_[at_]);
    if (std::isalpha(c) || c == '_' || c >= 0x80) {
      size_t end = at_;
      while (end < source_.size()) {
        unsigned char d = static_cast<unsigned char>(source_[end]);
        if (!std::isalnum(d) && d != '_' && d < 0x80) break;
        ++end;
      }
      take(Token::kName, end);
    } else if (std::isdigit(c)) {
      number();
    } else if (c == '"' || c == '\'') {
      string(static_cast<char>(c));
    } else {
      operation(brackets);
    }
  }

  void take(Token::Kind kind, size_t end) {
    std::string text = source_.substr(at_, end - at_);
    if (kind == Token::kInteger || kind == Token::kFloat) std::erase(text, '_');
    add(kind, std::move(text));
    at_ = end;
  }

  void number() {
    size_t end = at_;
    auto digits = [&] {
      while (end < source_.size() &&
             (std::isdigit(static_cast<unsigned char>(source_[end])) || source_[end] == '_'))
        ++end;
    };
    digits();
    bool is_float = false;
    auto digit_at = [&](size_t i) {
      return i < source_.size() && std::isdigit(static_cast<unsigned char>(source_[i]));
    };
    if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      is_float = true;
      ++end;
      digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t sign =
          end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+') ? 1 : 0;
      if (digit_at(end + 1 + sign)) {
        is_float = true;
        end += 1 + sign;
        digits();
      }
    }
    if (end - at_ > 40) fail("number of more than 40 digits");
    take(is_float ? Token::kFloat : Token::kInteger, end);
  }

  void string(char quote) {
    size_t begin = at_++;
    std::string text;
    while (true) {
      if (at_ >= source_.size()) {
        at_ = begin;
        fail("string without its end");
      }
      char c = source_[at_++];
      if (c == quote) break;
      if (c != '\\') {
        text += c;
        continue;
      }
      if (at_ >= source_.size()) continue;
      escape(source_[at_++], text);
    }
    size_t after = at_;
    at_ = begin;
    add(Token::kString, std::move(text));
    at_ = after;
  }

  void escape(char c, std::string& text) {
    static constexpr std::string_view kFrom = "nrtbfav0\\'\"", kTo("\n\r\t\b\f\a\v\0\\'\"", 11);
    if (c >= '0' && c <= '7') {
      char32_t code = c - '0';
      for (int i = 0; i < 2 && at_ < source_.size() && source_[at_] >= '0' && source_[at_] <= '7';
           ++i) {
        code = code * 8 + (source_[at_++] - '0');
      }
      utf8_append(text, code);
    } else if (size_t i = kFrom.find(c); i != std::string_view::npos) {
      text += kTo[i];
    } else if (c == '\n') {
      // A line that goes on.
    } else if (c == 'x' || c == 'u' || c == 'U') {
      size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      char32_t code = 0;
      for (size_t i = 0; i < digits; ++i) {
        char h = at_ < source_.size() ? source_[at_] : '\0';
        if (!std::isxdigit(static_cast<unsigned char>(h))) fail("escape with too few hex digits");
        code = code * 16 + (h <= '9' ? h - '0' : (h | 0x20) - 'a' + 10);
        ++at_;
      }
      utf8_append(text, code);
    } else {
      text += '\\';
      text += c;
    }
  }

  void operation(std::string& brackets) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    for (std::string_view op : kTwo) {
      if (looking_at(op)) return take(Token::kOperator, at_ + 2);
    }
    char c = source_[at_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      fail("unexpected character '" + printable(std::string_view(&c, 1), true) + "'");
    }
    if (c == '(') brackets += ')';
    if (c == '[') brackets += ']';
    if (c == '{') brackets += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty() || brackets.back() != c) fail(std::string("unexpected '") + c + "'");
      brackets.pop_back();
    }
    take(Token::kOperator, at_ + 1);
  }

  std::string source_;
  size_t at_ = 0;
  bool line_starting_ = true;  // whether data that begins here begins a line
  size_t mark_ = 0;
  uint32_t line_ = 1, column_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view source) { return Lexer(source).run(); }

}  // namespace apud::jinja
