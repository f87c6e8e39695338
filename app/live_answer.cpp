#include "app/live_answer.h"

namespace apud {

void LiveAnswer::attach(Request& request) {
  reading_.begin(static_cast<int>(request.prompt.size()));
  request.on_prefill = [this](int done, int total) { reading_.update(done, total); };
  request.on_text = [this](const TextPiece& piece) {
    reading_.end();
    if (piece.reasoning) {
      if (reasoning_ && !piece.text.empty()) {
        terminal_.reasoning(piece.text);
        reasoning_open_ = piece.text.back() != '\n';
      }
    } else if (stream_) {
      end_reasoning();
      show(text_.push(piece.text));
    }
    return true;
  };
}

void LiveAnswer::finish() {
  reading_.end();
  end_reasoning();
  if (!stream_) return;
  show(text_.finish());
  if (!line_ended_) terminal_.out("\n");
}

void LiveAnswer::end_reasoning() {
  if (reasoning_open_) terminal_.reasoning("\n");
  reasoning_open_ = false;
}

void LiveAnswer::show(const std::string& text) {
  if (!text.empty()) line_ended_ = text.back() == '\n';
  terminal_.out_text(text);
  terminal_.flush();
}

}  // namespace apud
