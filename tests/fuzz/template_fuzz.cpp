// libFuzzer target: any bytes as a chat template, rendered over a short conversation. Nothing but
// apud::Error may leave it, within the interpreter's limits.
#include "base/error.h"
#include "models/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<apud::ChatMessage> kMessages = {
      {"system", "Be brief.", "", "", "", ""},
      {"user", "Hello <|im_end|> {{ x }}", "", "", "", ""},
      {"assistant", "Hi", "because", R"([{"name":"f","arguments":{"a":[1,2.5,null]}}])", "", ""},
      {"tool", "42", "", "", "f", "1"}};
  try {
    apud::ChatTemplate chat(std::string(reinterpret_cast<const char*>(data), size), "<s>", "</s>");
    apud::TemplateOptions options;
    options.enable_thinking = true;
    options.tools_json = R"([{"type":"function","function":{"name":"f"}}])";
    (void)chat.render(kMessages, options);
  } catch (const apud::Error&) {
  }
  return 0;
}
