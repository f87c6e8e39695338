// Renderings equal to transformers' for the templates of some 70 models. The templates are fetched
// (scripts/fetch-vocabularies, scripts/fetch-models); golden.json holds hashes of the renderings.
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "models/chat_template.h"
#include "models/gguf.h"
#include "tests/support/models.h"
#include "tests/support/paths.h"

namespace apud {
namespace {

const Path kData = Path(test::test_data()) / "templates";
const Path kTemplates = test::vocabularies_dir() / "templates";

nlohmann::ordered_json load(const char* name) {
  std::ifstream file(kData / name);
  return nlohmann::ordered_json::parse(file);
}

/// Source of a template by its golden name, or nothing when it was not fetched.
std::optional<std::string> source_of(const std::string& name) {
  if (!name.ends_with(".gguf")) return read_file_if_exists(kTemplates / name);
  Path path = test::models_dir() / name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  GgufFile file = GgufFile::open(path);
  return std::string(file.require_string("tokenizer.chat_template"));
}

/// Keys keep their order: tojson shows it.
std::vector<ChatMessage> messages_of(const nlohmann::ordered_json& conversation) {
  std::vector<ChatMessage> messages;
  for (const auto& m : conversation["messages"]) {
    ChatMessage message;
    message.role = m["role"];
    message.content = m["content"];
    message.reasoning = m.value("reasoning_content", "");
    message.name = m.value("name", "");
    message.tool_call_id = m.value("tool_call_id", "");
    if (m.contains("tool_calls")) message.tool_calls_json = m["tool_calls"].dump();
    messages.push_back(message);
  }
  return messages;
}

TemplateOptions options_of(const nlohmann::ordered_json& conversation, int64_t now) {
  TemplateOptions options;
  options.now = now;
  options.add_generation_prompt = conversation["add_generation_prompt"];
  if (conversation.contains("enable_thinking"))
    options.enable_thinking = conversation["enable_thinking"];
  if (conversation.contains("tools")) options.tools_json = conversation["tools"].dump();
  return options;
}

TEST(ChatTemplateGolden, EqualsTransformers) {
  setenv("TZ", "UTC", 1);
  tzset();
  auto golden = load("golden.json"), conversations = load("conversations.json");
  const char* show = std::getenv("APUD_SHOW_RENDERING");  // "TEMPLATE|CONVERSATION": printed
  int templates = 0, renderings = 0, refusals = 0, absent = 0;
  for (const auto& [name, expected] : golden["templates"].items()) {
    auto source = source_of(name);
    if (!source) {
      ++absent;
      continue;
    }
    ASSERT_EQ(sha256_hex(*source).substr(0, 16), expected["source"])
        << name << " is another version";
    ++templates;
    std::optional<ChatTemplate> chat;
    try {
      chat.emplace(*source, golden["bos"], golden["eos"]);
    } catch (const Error& error) {
      ADD_FAILURE() << name << ": " << error.what();
      continue;
    }
    for (const auto& conversation : conversations) {
      std::string title = conversation["name"], want = expected["results"][title];
      try {
        OriginText text =
            chat->render(messages_of(conversation), options_of(conversation, golden["now"]));
        // Here jinja2's `safe` turns the rest of an expression into HTML (&#34;), which no model
        // was trained on; ours leaves text alone.
        bool markup =
            name == "meetkai-functionary-medium-v3.1.jinja" && conversation.contains("tools");
        if (markup) continue;
        if (show && name + "|" + title == show) std::printf("%s", text.text().c_str());
        EXPECT_EQ(sha256_hex(text.text()).substr(0, 16), want) << name << ": " << title;
        ++renderings;
      } catch (const Error& error) {
        EXPECT_EQ("error", want) << name << ": " << title << ": " << error.what();
        ++refusals;
      }
    }
  }
  std::printf("%d templates, %d renderings, %d refusals, %d templates not fetched\n", templates,
              renderings, refusals, absent);
  if (templates == 0) GTEST_SKIP() << "no template fetched (scripts/fetch-vocabularies)";
}

}  // namespace
}  // namespace apud
