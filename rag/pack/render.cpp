#include <algorithm>

#include "rag/packer.h"

namespace apud {
namespace {

// Of the path, whose last part always stays: a short one says little alone, of a long one every
// passage would pay for the rest, a tenth of the evidence.
constexpr size_t kShownHeadingBytes = 30;

std::string on_one_line(std::string_view text) {
  std::string out(text);
  std::replace(out.begin(), out.end(), '\n', ' ');
  return out;
}

std::string_view short_heading(std::string_view path) {
  while (path.size() > kShownHeadingBytes) {
    size_t next = path.find(" > ");
    if (next == std::string_view::npos) break;
    path.remove_prefix(next + 3);
  }
  return path;
}

}  // namespace

std::string_view file_name(const Passage& passage) {
  return std::string_view(passage.path).substr(passage.path.rfind('/') + 1);
}

std::string escape_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    out += text[i];
    if (text[i] != '[') continue;
    size_t end = i + 1;
    bool digit = false;
    // What a mark may hold: ids and what people put between them.
    while (end < text.size() &&
           (std::string_view("0123456789,;- ").find(text[end]) != std::string_view::npos)) {
      digit = digit || (text[end] >= '0' && text[end] <= '9');
      ++end;
    }
    if (end == text.size() || text[end] != ']' || !digit) continue;
    out.back() = '(';
    out.append(text, i + 1, end - i - 1);
    out += ')';
    i = end;
  }
  return out;
}

std::string render_evidence(std::span<const Passage> passages) {
  std::string out;
  for (const Passage& p : passages) {
    if (!out.empty()) out += "\n";
    out += "[" + std::to_string(p.id) + "] " + escape_marks(on_one_line(file_name(p)));
    std::string_view heading = short_heading(p.heading_path);
    if (!heading.empty()) out += " · " + escape_marks(on_one_line(heading));
    out += "\n" + escape_marks(p.text) + "\n";
  }
  return out;
}

}  // namespace apud
