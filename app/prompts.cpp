#include "app/prompts.h"

#include "base/ascii.h"
#include "base/utf8.h"

namespace apud {

std::string_view system_with_documents() {
  return "You answer questions from the user's own documents. Each message may bring numbered "
         "passages. "
         "Use only what the passages say, be brief and exact, and put the number of the passage "
         "after each "
         "statement, like [1]. Answer in the language of the question. If the passages do not "
         "contain the "
         "answer, reply only: Not in the documents.";
}

std::string_view system_without_documents() {
  return "You are a helpful assistant. Answer briefly and exactly, in the language of the "
         "question. "
         "Say so when you do not know.";
}

std::string evidence_frame(std::string_view packed, std::string_view question) {
  if (packed.empty()) return {};
  std::string out = "Passages:\n\n";
  out += packed;
  while (!out.empty() && out.back() == '\n') out.pop_back();
  // In a full sentence, or a small model may answer with no more than a passage's number. Of a
  // Chinese question that brought answers in English (docs/performance.md).
  out += "\n\nAnswer from these passages";
  if (!holds_cjk(question)) out += " in a full sentence";
  out += " and cite their numbers.\nQuestion: ";
  return out;
}

std::string pinned_frame(std::string_view rendered) {
  return "Passages that are always at hand:\n\n" + std::string(rendered) + "\n";
}

bool says_not_in_documents(std::string_view answer) {
  const std::string lower = ascii_lower(answer.substr(0, 200));
  size_t start = lower.find_first_not_of(" \n\t\"'*");
  if (start == std::string::npos) return false;
  std::string_view text = std::string_view(lower).substr(start);
  for (std::string_view phrase :
       {"not in the documents", "the answer is not in the documents", "the passages do not contain",
        "the provided passages do not contain", "文档中没有", "文件中没有", "不在文档中",
        "段落中没有"}) {
    if (text.starts_with(phrase)) return true;
  }
  return false;
}

}  // namespace apud
