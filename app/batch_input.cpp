#include "app/batch_input.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "app/signals.h"
#include "base/ascii.h"
#include "base/error.h"
#include "base/utf8.h"
#include "engine/engine.h"

namespace apud {

namespace {

constexpr size_t kMaxLine = 16u << 20;
constexpr int64_t kMostTokens = 1 << 20;

/// The fields of one input object; what is not as expected is refused by line and field.
class Fields {
 public:
  Fields(const ordered_json& json, int64_t line) : json_(json), line_(line) {}

  void text(const char* key, std::string& out) const {
    const ordered_json* value = find(key);
    if (!value) return;
    if (!value->is_string()) refuse(key, "a string");
    out = value->get<std::string>();
  }
  void whole(const char* key, int64_t most, std::optional<int>& out) const {
    const ordered_json* value = find(key);
    if (!value) return;
    if (!value->is_number_integer() || value->get<int64_t>() < 1 || value->get<int64_t>() > most)
      refuse(key, fmt::format("a whole number from 1 to {}", most));
    out = value->get<int>();
  }
  void names(const char* key, std::vector<std::string>& out) const {
    const ordered_json* value = find(key);
    if (!value) return;
    bool list = value->is_array() && std::all_of(value->begin(), value->end(),
                                                 [](const auto& one) { return one.is_string(); });
    if (!list && !value->is_string()) refuse(key, "a collection name or a list of names");
    out = list ? value->get<std::vector<std::string>>()
               : std::vector<std::string>{value->get<std::string>()};
  }
  const ordered_json* find(const char* key) const {
    auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }
  [[noreturn]] void refuse(const char* key, const std::string& expected) const {
    throw Error(ErrorKind::kBadData,
                fmt::format("line {}: field {}: expected {}", line_, key, expected));
  }

 private:
  const ordered_json& json_;
  int64_t line_;
};

void parse_object(const std::string& text, int64_t line, BatchItem& item) {
  ordered_json json;
  try {
    json = ordered_json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    std::string why = e.what();  // "[json.exception.…] parse error at line 1, column 2: …"
    throw Error(ErrorKind::kBadData,
                fmt::format("line {}: not JSON: {}", line,
                            why.substr(std::min(why.find("column"), why.size()))));
  }
  Fields fields(json, line);
  if (const ordered_json* id = fields.find("id")) item.id = *id;
  fields.text("question", item.question);
  fields.text("system", item.system);
  fields.names("k", item.collections);
  fields.whole("max_tokens", kMostTokens, item.max_tokens);
  fields.whole("beams", kMaxBeams, item.beams);
  if (const ordered_json* t = fields.find("temperature")) {
    if (!t->is_number() || t->get<double>() < 0 || t->get<double>() > 10)
      fields.refuse("temperature", "a number from 0 to 10");
    item.temperature = t->get<double>();
  }
  if (const ordered_json* seed = fields.find("seed")) {
    if (!seed->is_number_unsigned()) fields.refuse("seed", "a whole number");
    item.seed = seed->get<uint64_t>();
  }
  static const std::set<std::string> known = {"id",         "question",    "system", "k",
                                              "max_tokens", "temperature", "beams",  "seed"};
  for (const auto& [key, value] : json.items()) {
    if (!known.contains(key)) {
      throw Error(ErrorKind::kBadData, fmt::format("line {}: unknown field '{}' (known: {})", line,
                                                   printable(key, true), fmt::join(known, " ")));
    }
  }
}

}  // namespace

std::optional<std::string> LineReader::next() {
  return ahead_ ? std::exchange(ahead_, std::nullopt) : take();
}

const std::optional<std::string>& LineReader::peek() {
  if (!ahead_) ahead_ = take();
  return ahead_;
}

std::optional<std::string> LineReader::take() {
  for (;;) {
    size_t newline = buffer_.find('\n', scanned_);
    if (newline != std::string::npos) {
      std::string line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      scanned_ = 0;
      torn_ = false;
      return line;
    }
    scanned_ = buffer_.size();
    if (end_) {
      if (buffer_.empty()) return std::nullopt;
      torn_ = true;
      std::string line;
      line.swap(buffer_);
      scanned_ = 0;
      return line;
    }
    if (buffer_.size() > kMaxLine)
      throw Error(ErrorKind::kBadData, name_ + ": a line of more than 16 MiB");
    if (!wait_readable(fd_)) return std::nullopt;
    read_some();
  }
}

bool LineReader::ready() {
  while (!ahead_ && !end_ && buffer_.find('\n', scanned_) == std::string::npos &&
         buffer_.size() <= kMaxLine) {
    struct pollfd input = {fd_, POLLIN, 0};
    if (::poll(&input, 1, 0) <= 0) return false;
    scanned_ = buffer_.size();
    read_some();
  }
  return true;
}

void LineReader::read_some() {
  char bytes[1 << 16];
  ssize_t n = ::read(fd_, bytes, sizeof bytes);
  if (n < 0 && errno == EINTR) return;
  if (n < 0) throw io_error("cannot read", name_, errno);
  end_ = n == 0;
  if (n > 0) buffer_.append(bytes, static_cast<size_t>(n));
}

FileDescriptor open_questions(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NOCTTY | O_CLOEXEC));
  if (!file.valid() && errno == EINTR) throw Interrupted();  // a FIFO that nobody writes to
  struct stat st {};
  if (!file.valid() || ::fstat(file.get(), &st) != 0) throw io_error("cannot open", path, errno);
  if (S_ISDIR(st.st_mode)) {
    throw Error(ErrorKind::kBadData, path + " is a folder, expected a file of questions",
                "apud batch -i questions.jsonl");
  }
  if (::isatty(file.get())) {
    throw Error(ErrorKind::kUsage, "batch reads questions from a pipe or a file",
                "apud batch -i questions.jsonl");
  }
  return file;
}

void check_encoding(const std::string& first_line) {
  if (first_line.starts_with("\xFF\xFE") || first_line.starts_with("\xFE\xFF")) {
    throw Error(ErrorKind::kBadData, "the questions are in UTF-16, expected UTF-8",
                "iconv -f UTF-16 -t UTF-8 makes it of them");
  }
}

void parse_batch_line(const std::string& raw, int64_t index, BatchItem& item) {
  item.index = index;
  std::string line = raw;
  if (!line.empty() && line.back() == '\r') line.pop_back();
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (index == 0 && line.starts_with(kByteOrderMark)) line.erase(0, kByteOrderMark.size());
  size_t start = line.find_first_not_of(" \t");
  if (start != std::string::npos && line[start] == '{') {
    parse_object(line, index + 1, item);
  } else {
    item.question = line;
  }
  item.question = utf8_repair(item.question);
  if (is_blank(item.question)) {
    throw Error(ErrorKind::kBadData,
                fmt::format("line {}: field question: empty or missing", index + 1));
  }
}

}  // namespace apud
