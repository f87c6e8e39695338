// Values of the template interpreter. Strings carry the origin of every byte (scaffold or content)
// through all operations; comparisons ignore it. Numbers read from content remember that too, so
// that their digits stay content when they become text.
//
// Threads: values are shared by reference and belong to one render.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "models/tokenizer.h"

namespace apud::jinja {

/// A fault of the template or of what it was given; the interpreter adds the line.
class TemplateError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Longest string, and most items of a list, that a template may make.
inline constexpr size_t kMaxText = 10u << 20;
inline constexpr size_t kMaxItems = 1u << 20;

/// Bytes and, for each, whether it is scaffold (1) or content (0).
struct Text {
  std::string bytes;
  std::string scaffold;  // [bytes.size()]

  Text() = default;
  Text(std::string_view text, bool is_scaffold)
      : bytes(text), scaffold(text.size(), is_scaffold ? 1 : 0) {}
  size_t size() const { return bytes.size(); }
  void append(const Text& other) {
    bytes += other.bytes;
    scaffold += other.scaffold;
  }
  void append(const Text& other, size_t begin, size_t end) {
    bytes.append(other.bytes, begin, end - begin);
    scaffold.append(other.scaffold, begin, end - begin);
  }
  void append(std::string_view text, bool is_scaffold) {
    bytes += text;
    scaffold.append(text.size(), is_scaffold ? 1 : 0);
  }
  Text substr(size_t begin, size_t end) const {
    Text part;
    part.append(*this, begin, end);
    return part;
  }
};

struct List;
struct Dict;
struct Function;
struct Loop;
struct Undefined {
  std::string name;
};
struct None {};

class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(Undefined v) : data_(std::move(v)) {}
  Value(None) : data_(None{}) {}
  Value(bool v) : data_(v) {}
  Value(int64_t v) : data_(v) {}
  Value(double v) : data_(v) {}
  Value(Text v) : data_(std::make_shared<const Text>(std::move(v))) {}
  Value(std::shared_ptr<List> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<Dict> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<Function> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<Loop> v) : data_(std::move(v)) {}
  Value(const char*) = delete;
  static Value scaffold(std::string_view text) { return Text(text, true); }

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_string() const { return std::holds_alternative<std::shared_ptr<const Text>>(data_); }
  bool is_list() const { return std::holds_alternative<std::shared_ptr<List>>(data_); }
  bool is_dict() const { return std::holds_alternative<std::shared_ptr<Dict>>(data_); }
  bool is_function() const { return std::holds_alternative<std::shared_ptr<Function>>(data_); }
  bool is_loop() const { return std::holds_alternative<std::shared_ptr<Loop>>(data_); }

  // REQUIRES: the matching is_*().
  const std::string& undefined_name() const { return std::get<Undefined>(data_).name; }
  bool as_bool() const { return std::get<bool>(data_); }
  const Text& text() const { return *std::get<std::shared_ptr<const Text>>(data_); }
  List& list() const { return *std::get<std::shared_ptr<List>>(data_); }
  Dict& dict() const { return *std::get<std::shared_ptr<Dict>>(data_); }
  Function& function() const { return *std::get<std::shared_ptr<Function>>(data_); }
  Loop& loop() const { return *std::get<std::shared_ptr<Loop>>(data_); }
  /// Integer value of a bool or int. REQUIRES: is_bool() or is_int().
  int64_t as_int() const { return is_bool() ? as_bool() : std::get<int64_t>(data_); }
  /// REQUIRES: is_number().
  double as_double() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(as_int());
  }

  /// Whether a number or bool was read from content.
  bool content = false;

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<List>, std::shared_ptr<Dict>, std::shared_ptr<Function>,
               std::shared_ptr<Loop>>
      data_;
};

/// Containers know how deep they nest, so that nothing that walks them (or destroys them) recurses
/// further than kMaxNesting.
inline constexpr int kMaxNesting = 80;

struct List {
  std::vector<Value> items;
  bool tuple = false;
  bool generator = false;  // as Python's: always true, no length, empty after one iteration
  int depth = 1;
};

/// Keeps insertion order, as Python's dict does.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  std::unordered_map<std::string, size_t> index;  // by key_of
  bool is_namespace = false;                      // made by namespace(): attributes may be set
  int depth = 1;

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(const Value& key, Value value);
  void put(std::string_view key, Value value) { set(Value::scaffold(key), std::move(value)); }
};

struct Loop {
  std::shared_ptr<List> items;
  size_t index = 0;
  int64_t depth = 1;
  std::vector<Value> last_changed;
  bool changed_called = false;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  /// The argument at `position` or called `name`, or null.
  const Value* get(size_t position, std::string_view name) const;
  /// Throws when there are more positional arguments, or a name that is not listed.
  void check(std::string_view callee, size_t most,
             std::initializer_list<std::string_view> names) const;
};

struct Function {
  std::string name;
  std::function<Value(Arguments&)> call;
  int depth = 0;  // of the object that a method is bound to
};

/// Text for a dict key's look-up; throws for keys that Python could not hash.
std::string key_of(const Value& key);

bool truthy(const Value& value);
/// Comparisons take their cost off `steps` and throw when it is used up: shared containers can
/// unfold to exponential size.
bool equal(const Value& a, const Value& b, size_t& steps);
/// a < b as Python orders them; throws when the kinds do not compare.
bool less(const Value& a, const Value& b, size_t& steps);
/// How deep a value nests: 0 for scalars and strings.
int depth_of(const Value& value);
/// One more than the deepest item; throws beyond kMaxNesting.
int depth_above(const std::vector<Value>& items);
/// Python's name of the type, for messages.
const char* type_name(const Value& value);

/// str(value), origin kept.
Text to_text(const Value& value);
/// repr(value): strings quoted.
Text to_repr(const Value& value);
/// Shortest decimal that reads back as the same double, in Python's spelling.
std::string float_repr(double value);

struct JsonStyle {
  int indent = -1;  // -1: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};
/// json.dumps(value); throws for values that JSON lacks. Quotes and escapes of content are content.
Text to_json(const Value& value, const JsonStyle& style);
/// Value of a JSON text, all of it content. Throws kBadData naming `what`.
Value from_json(std::string_view json, const std::string& what);

/// Items of anything iterable (a dict gives its keys, a string its characters).
std::shared_ptr<List> iterate(const Value& value);
/// Number of code points (ill-formed bytes count one each).
size_t length_of(std::string_view text);
/// Byte offset of each code point, and the size as last entry.
std::vector<size_t> code_offsets(std::string_view text);
/// Python's str.isspace for one code point.
bool is_python_space(char32_t code);

}  // namespace apud::jinja
