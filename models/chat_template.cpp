#include "models/chat_template.h"

#include "base/error.h"
#include "models/jinja/ast.h"
#include "models/jinja/interpreter.h"

namespace apud {
namespace {

using jinja::Dict;
using jinja::Text;

/// The largest template met in practice has 17 KB.
constexpr size_t kMaxSource = 1u << 20;

/// Roles are the program's own words ("user"); anything else that a caller passes is content.
bool is_role_word(std::string_view role) {
  if (role.empty() || role.size() > 32) return false;
  for (char c : role) {
    if ((c < 'a' || c > 'z') && c != '_') return false;
  }
  return true;
}

jinja::Value message_value(const ChatMessage& message) {
  auto dict = std::make_shared<Dict>();
  dict->put("role", Text(message.role, is_role_word(message.role)));
  dict->put("content", Text(message.content, false));
  if (!message.reasoning.empty()) {
    // Two names, as transformers does: gpt-oss reads the second.
    for (const char* name : {"reasoning_content", "thinking"}) {
      dict->put(name, Text(message.reasoning, false));
    }
  }
  if (!message.tool_calls_json.empty()) {
    dict->put("tool_calls", jinja::from_json(message.tool_calls_json, "tool calls of a message"));
  }
  if (!message.name.empty()) dict->put("name", Text(message.name, false));
  if (!message.tool_call_id.empty()) dict->put("tool_call_id", Text(message.tool_call_id, false));
  return dict;
}

}  // namespace

struct ChatTemplate::Impl {
  std::string source, bos, eos;
  jinja::NodePtr root;
};

ChatTemplate::ChatTemplate(std::string source, std::string bos, std::string eos)
    : impl_(std::make_unique<Impl>()) {
  impl_->source = std::move(source);
  impl_->bos = std::move(bos);
  impl_->eos = std::move(eos);
  if (impl_->source.size() > kMaxSource) {
    throw Error(ErrorKind::kBadData, "chat template: " + std::to_string(impl_->source.size()) +
                                         " bytes, expected at most " + std::to_string(kMaxSource));
  }
  try {
    impl_->root = jinja::parse(impl_->source);
  } catch (const jinja::TemplateError& error) {
    throw Error(ErrorKind::kBadData, std::string("chat template: ") + error.what());
  }
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

OriginText ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                const TemplateOptions& options) const {
  Text text;
  try {
    auto list = std::make_shared<jinja::List>();
    for (const ChatMessage& message : messages) list->items.push_back(message_value(message));
    std::unordered_map<std::string, jinja::Value> variables;
    variables["messages"] = list;
    variables["tools"] = options.tools_json.empty() ? jinja::Value(jinja::None{})
                                                    : jinja::from_json(options.tools_json, "tools");
    variables["documents"] = jinja::None{};
    variables["add_generation_prompt"] = options.add_generation_prompt;
    if (options.enable_thinking) variables["enable_thinking"] = *options.enable_thinking;
    if (!impl_->bos.empty()) variables["bos_token"] = jinja::Value::scaffold(impl_->bos);
    if (!impl_->eos.empty()) variables["eos_token"] = jinja::Value::scaffold(impl_->eos);
    text = jinja::Interpreter(options.now).render(*impl_->root, std::move(variables));
  } catch (const jinja::TemplateError& error) {
    throw Error(ErrorKind::kBadData, std::string("chat template: ") + error.what());
  }
  OriginText out;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin;
    while (end < text.size() && text.scaffold[end] == text.scaffold[begin]) ++end;
    out.append(std::string_view(text.bytes).substr(begin, end - begin), text.scaffold[begin] != 0);
    begin = end;
  }
  return out;
}

const std::string& ChatTemplate::source() const { return impl_->source; }

bool ChatTemplate::mentions(std::string_view word) const {
  return impl_->source.find(word) != std::string::npos;
}

}  // namespace apud
