// Chat templates: the model file's own Jinja template, run by a bounded interpreter (steps, depth,
// output limited), whose strings carry their origin per byte through every filter.
//
// Threads: immutable after construction.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace apud {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
  std::string reasoning;        // assistant only; passed as reasoning_content where not empty
  std::string tool_calls_json;  // assistant only: JSON array of calls, or empty
  std::string name;             // tool: the function's name, or empty
  std::string tool_call_id;     // tool: the call that it answers, or empty
};

struct TemplateOptions {
  bool add_generation_prompt = true;
  /// Templates of thinking models read enable_thinking; absent: the variable stays undefined.
  std::optional<bool> enable_thinking;
  /// "now" for strftime_now, frozen per session; seconds since the epoch.
  int64_t now = 0;
  std::string tools_json;  // JSON array of tool schemas, or empty
};

class ChatTemplate {
 public:
  /// Parses; throws apud::Error (kBadData) with line and column for syntax outside the supported
  /// subset. bos/eos are the tokens' texts as the template sees them.
  ChatTemplate(std::string source, std::string bos, std::string eos);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// Renders; everything that messages and tools hold is content (a role only where it is not a
  /// plain lower-case word), the template's own text and the token texts are scaffold. Throws
  /// apud::Error (kBadData) when the template raises an exception or passes a limit.
  OriginText render(const std::vector<ChatMessage>& messages, const TemplateOptions& options) const;
  const std::string& source() const;
  /// Whether the template mentions a system role / enable_thinking.
  bool mentions(std::string_view word) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace apud
