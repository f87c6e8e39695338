#include "engine/text_stream.h"

#include <algorithm>

#include "base/check.h"

namespace apud {
namespace {

/// Length of the longest end of `text` that is a proper beginning of `pattern`.
size_t begun(std::string_view text, std::string_view pattern) {
  size_t most = pattern.empty() ? 0 : std::min(text.size(), pattern.size() - 1);
  for (size_t length = most; length > 0; --length) {
    if (text.substr(text.size() - length) == pattern.substr(0, length)) return length;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stop_strings,
                       std::optional<ReasoningMarkers> reasoning)
    : stop_(std::move(stop_strings)), markers_(std::move(reasoning)) {
  std::erase(stop_, std::string());
  if (markers_) {
    APUD_CHECK(!markers_->open.empty() && !markers_->close.empty(),
               "reasoning markers are not empty");
    thinking_ = markers_->starts_open;
    opened_ = thinking_;
  }
}

TextStream::Piece TextStream::push(std::string_view bytes) {
  APUD_CHECK(!stopped(), "text after a stop string");
  Piece out;
  split(utf8_.push(bytes), false, out);
  return out;
}

TextStream::Piece TextStream::finish() {
  Piece out;
  if (stopped()) return out;
  split(utf8_.finish(), true, out);
  return out;
}

/// Divides text between reasoning and answer. The opening marker counts only as the first thing of
/// the answer (white space apart): a later one is text about markers.
void TextStream::split(std::string_view text, bool last, Piece& out) {
  if (!markers_) {
    emit_answer(text, last, out);
    return;
  }
  undecided_.append(text);
  for (;;) {
    if (thinking_) {
      size_t at = undecided_.find(markers_->close);
      if (at == std::string::npos) {
        size_t keep = last ? 0 : begun(undecided_, markers_->close);
        out.reasoning.append(undecided_, 0, undecided_.size() - keep);
        undecided_.erase(0, undecided_.size() - keep);
        if (last) emit_answer({}, true, out);
        return;
      }
      out.reasoning.append(undecided_, 0, at);
      undecided_.erase(0, at + markers_->close.size());
      thinking_ = false;
      skip_newlines_ = true;
      continue;
    }
    if (!opened_) {
      size_t start = undecided_.find_first_not_of(" \t\r\n");
      std::string_view rest = start == std::string::npos
                                  ? std::string_view()
                                  : std::string_view(undecided_).substr(start);
      if (rest.starts_with(markers_->open)) {
        undecided_.erase(0, start + markers_->open.size());
        thinking_ = opened_ = true;
        continue;
      }
      if (!last && std::string_view(markers_->open).starts_with(rest)) return;
      opened_ = true;
    }
    if (skip_newlines_) {
      undecided_.erase(0, std::min(undecided_.find_first_not_of(" \t\r\n"), undecided_.size()));
      if (undecided_.empty() && !last) return;
      skip_newlines_ = undecided_.empty();
    }
    std::string answer = std::move(undecided_);
    undecided_.clear();
    emit_answer(answer, last, out);
    return;
  }
}

void TextStream::emit_answer(std::string_view text, bool last, Piece& out) {
  held_.append(text);
  size_t first = std::string::npos;
  for (size_t i = 0; i < stop_.size(); ++i) {
    size_t at = held_.find(stop_[i]);
    if (at < first) {
      first = at;
      stopped_by_ = static_cast<int>(i);
    }
  }
  if (stopped()) {
    out.answer.append(held_, 0, first);
    held_.clear();
    return;
  }
  size_t keep = 0;
  if (!last) {
    for (const std::string& stop : stop_) keep = std::max(keep, begun(held_, stop));
  }
  // A stop string may begin inside a character only when it is no UTF-8 itself; never cut one.
  while (keep > 0 && keep < held_.size() &&
         (static_cast<unsigned char>(held_[held_.size() - keep]) & 0xC0) == 0x80) {
    ++keep;
  }
  out.answer.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
}

}  // namespace apud
