// Saved chats (docs/formats.md, "Sessions"): one section per round, its question the heading.
// Rounds without an answer, or whose answer is that the documents do not hold it, are left out, and
// so are citation marks: their numbers mean nothing outside their chat.
#include <nlohmann/json.hpp>

#include "rag/loaders/builder.h"
#include "rag/loaders/formats.h"

namespace apud {

namespace {

using nlohmann::json;

constexpr const char* kSessionLoader = loader_version("session");
constexpr int kMaxDepth = 64;
constexpr size_t kHeadingBytes = 300;  // a longer question is text, too

/// "[1]", "[2, 3]" taken out, with the space before them.
std::string without_marks(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '[') {
      size_t end = text.find_first_not_of("0123456789,; -", i + 1);
      if (end != std::string_view::npos && end > i + 1 && text[end] == ']') {
        while (!out.empty() && out.back() == ' ') out.pop_back();
        i = end;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

std::string text_of(const json& turn, const char* name) {
  auto found = turn.find(name);
  return found != turn.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool no_evidence(const json& turn) {
  auto data = turn.find("data");
  if (data == turn.end() || !data->is_object()) return false;
  auto flag = data->find("no_evidence");
  return flag != data->end() && flag->is_boolean() && flag->get<bool>();
}

}  // namespace

Document load_session(std::string_view bytes) {
  json root = json::parse(
      bytes, [](int depth, json::parse_event_t, json&) { return depth < kMaxDepth; }, false);
  json turns;
  if (root.is_object() && root.contains("conversation") && root["conversation"].is_object())
    turns = root["conversation"].value("turns", json());
  if (!turns.is_array())
    return skipped_document(kSessionLoader, LoadStatus::kMalformed, "not a session of apud");
  DocumentBuilder builder(kSessionLoader);
  for (size_t i = 0; i + 1 < turns.size(); ++i) {
    const json &asked = turns[i], &answered = turns[i + 1];
    if (!asked.is_object() || !answered.is_object() || text_of(asked, "role") != "user" ||
        text_of(answered, "role") != "assistant" || no_evidence(answered)) {
      continue;
    }
    std::string question = text_of(asked, "content");
    std::string answer = without_marks(text_of(answered, "content"));
    if (answer.find_first_not_of(" \t\n") == std::string::npos) continue;
    std::string heading = one_line(question);
    bool cut = heading.size() > kHeadingBytes;
    if (cut) {
      size_t end = kHeadingBytes;
      while (end > 0 && (static_cast<unsigned char>(heading[end]) & 0xC0) == 0x80) --end;
      heading.resize(end);
    }
    builder.heading(1, heading);
    if (cut) builder.block(BlockKind::kParagraph, question);
    for (size_t begin = 0; begin < answer.size();) {
      size_t end = answer.find("\n\n", begin);
      if (end == std::string::npos) end = answer.size();
      builder.block(BlockKind::kParagraph, std::string_view(answer).substr(begin, end - begin));
      begin = end + 2;
    }
  }
  Document document = builder.finish();
  finish_document(document);
  document.title = text_of(root, "name");
  return document;
}

}  // namespace apud
