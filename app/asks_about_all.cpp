// Which questions speak of the collection as a whole (declared in app/over_all.h).
#include <algorithm>
#include <cctype>
#include <initializer_list>

#include "app/over_all.h"

namespace apud {
namespace {

using Words = std::vector<std::string>;
using List = std::initializer_list<std::string_view>;

bool among(std::string_view word, List list) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

/// Lower case, without punctuation.
Words words_of(std::string_view text) {
  Words words(1);
  for (unsigned char c : text) {
    if (std::isalnum(c)) {
      words.back() += static_cast<char>(std::tolower(c));
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

bool is_many(std::string_view word) {
  return among(word, {"documents", "files", "papers", "notes", "reports", "articles", "folders"});
}
bool is_one(std::string_view word) {
  return among(word, {"document", "file", "paper", "note", "report", "article", "folder"});
}
bool is_whole(std::string_view word) {
  return among(word, {"collection", "corpus", "archive", "library", "everything"});
}
bool points_at_them(std::string_view word) {
  return among(word, {"these", "those", "my", "our", "your", "this"});
}
/// What is asked of what documents say, not of files as things on a disk.
bool is_of_content(std::string_view word) {
  return among(word, {"mention",  "mentions",  "mentioned", "contain",  "contains",  "contained",
                      "say",      "says",      "said",      "describe", "describes", "described",
                      "discuss",  "discusses", "discussed", "talk",     "talks",     "speak",
                      "speaks",   "use",       "uses",      "cite",     "cites",     "cited",
                      "cover",    "covers",    "covered",   "refer",    "refers",    "about",
                      "deal",     "deals",     "concern",   "concerns", "from",      "explain",
                      "explains", "written"});
}

/// "How do I …", "can I …": asks for a way to do something, however many files it is done to.
bool asks_how(const Words& words) {
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "how" &&
        among(words[i + 1], {"do", "does", "did", "can", "could", "to", "should", "would", "must"}))
      return true;
    if (among(words[i], {"do", "can", "could", "should", "must", "may", "shall"}) &&
        among(words[i + 1], {"i", "we", "you", "one"}))
      return true;
  }
  return false;
}

/// A word that asks for several, and which things it can take.
struct Quantifier {
  size_t words = 0;  // of the question; 0: none stands here
  bool many = false, one = false, whole = false;
  bool enough = false;  // by itself; else what documents say must be asked for
  bool at_end = false;  // enough where the thing ends the question
};

Quantifier quantifier_at(const Words& words, size_t i) {
  const std::string& w = words[i];
  if (w == "how" && i + 1 < words.size() && words[i + 1] == "many")
    return {.words = 2, .many = true, .at_end = true};
  if (among(w, {"which", "what"})) return {.words = 1, .many = true, .at_end = true};
  if (among(w, {"list", "count", "name", "enumerate"}) && (i == 0 || words[i - 1] == "please"))
    return {.words = 1, .many = true, .one = true, .at_end = true};
  if (w == "all") return {.words = 1, .many = true, .whole = true};
  if (among(w, {"every", "each"})) return {.words = 1, .one = true};
  if (among(w, {"whole", "entire"})) return {.words = 1, .whole = true, .enough = true};
  if (among(w, {"summarise", "summarize", "summary", "overview", "across"}))
    return {.words = 1, .many = true, .whole = true, .enough = true};
  return {};
}

bool asks_in_english(const Words& words) {
  if (asks_how(words)) return false;
  for (size_t i = 0; i < words.size(); ++i) {
    const Quantifier q = quantifier_at(words, i);
    if (q.words == 0) continue;
    size_t at = i + q.words;
    bool pointed = false;
    for (; at < words.size() &&
           (points_at_them(words[at]) || among(words[at], {"of", "the", "all", "every", "each",
                                                           "different", "other", "various"}));
         ++at)
      pointed = pointed || points_at_them(words[at]);
    if (at == words.size()) continue;
    const std::string& thing = words[at];
    // "List every report" is of many, "list the report" of one.
    const bool one = q.one && (!q.many || among(words[at - 1], {"every", "each"}));
    if (!(q.many && is_many(thing)) && !(one && is_one(thing)) && !(q.whole && is_whole(thing)))
      continue;
    const bool ends = at + 1 == words.size() || (at + 3 == words.size() && words[at + 1] == "are" &&
                                                 words[at + 2] == "there");
    if (q.enough || pointed || (q.at_end && ends) ||
        std::any_of(words.begin() + static_cast<std::ptrdiff_t>(at), words.end(), is_of_content))
      return true;
  }
  return false;
}

bool holds_any(std::string_view text, List list) {
  return std::any_of(list.begin(), list.end(),
                     [&](auto word) { return text.find(word) != std::string_view::npos; });
}

/// Where one of the list ends in the text, from `from` on; npos: nowhere.
size_t end_of_first(std::string_view text, List list, size_t from) {
  size_t best = std::string_view::npos, end = best;
  for (std::string_view word : list) {
    const size_t at = text.find(word, from);
    if (at < best) {
      best = at;
      end = at + word.size();
    }
  }
  return end;
}

bool asks_in_chinese(std::string_view text) {
  constexpr auto kNowhere = std::string_view::npos;
  if (holds_any(text, {"怎么", "怎样", "如何", "能否", "可以", "需要", "应该", "吗"})) return false;
  const List things = {"文档", "文件", "资料", "文章", "报告", "笔记", "文集"};
  const size_t summed = end_of_first(text, {"总结", "概括", "归纳", "综述"}, 0);
  if (summed != kNowhere && end_of_first(text.substr(summed), things, 0) <= 24) return true;
  for (size_t at = 0;;) {
    at = end_of_first(text,
                      {"多少", "几篇", "几个", "几份", "所有", "全部", "每篇", "每个", "每份",
                       "哪些", "哪几篇", "哪几个"},
                      at);
    if (at == kNowhere) return false;
    std::string_view rest = text.substr(at);
    for (std::string_view small : {"的", "篇", "个", "份", "这些"}) {
      if (rest.starts_with(small)) rest.remove_prefix(small.size());
    }
    const bool thing = std::any_of(things.begin(), things.end(),
                                   [&](auto word) { return rest.starts_with(word); }) ||
                       (rest.starts_with("关于") && holds_any(rest, things));
    if (thing && holds_any(rest, {"提到", "提及", "讲", "谈", "写", "说", "讨论", "涉及", "介绍",
                                  "关于", "包含", "引用", "描述"}))
      return true;
  }
}

}  // namespace

bool asks_about_all(std::string_view question) {
  return asks_in_english(words_of(question)) || asks_in_chinese(question);
}

}  // namespace apud
