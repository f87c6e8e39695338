#include "app/turn_grammar.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/utf8.h"

namespace apud {
namespace {

using Words = std::vector<std::string>;
using Set = std::unordered_set<std::string_view>;

struct Clause {
  std::string text;  // with its closing mark
  Words words;       // Latin ones, apostrophes dropped
};

std::vector<Clause> clauses_of(const std::string& turn) {
  std::vector<Clause> clauses(1);
  std::string word;
  auto end_word = [&] {
    if (!word.empty()) clauses.back().words.push_back(std::move(word));
    word.clear();
  };
  for (size_t pos = 0; pos < turn.size();) {
    Utf8Char c = utf8_decode(turn, pos);
    size_t next = pos + c.size;
    clauses.back().text.append(turn, pos, c.size);
    bool letter = (c.code >= 'a' && c.code <= 'z') || (c.code >= '0' && c.code <= '9') ||
                  (c.code >= 0xC0 && c.code < 0x2000);
    if (letter) {
      word.append(turn, pos, c.size);
    } else if (c.code != '\'' && c.code != 0x2019) {
      end_word();
    }
    // A full stop or comma inside a number ends nothing.
    bool ascii_end = (c.code == '.' || c.code == ',' || c.code == '!' || c.code == '?' ||
                      c.code == ';' || c.code == ':' || c.code == '\n') &&
                     (c.code == '\n' || next >= turn.size() || turn[next] == ' ');
    bool wide_end = c.code == 0x3002 || c.code == 0xFF0C || c.code == 0xFF01 || c.code == 0xFF1F ||
                    c.code == 0xFF1B || c.code == 0xFF1A;
    if (ascii_end || wide_end) {
      end_word();
      clauses.emplace_back();
    }
    pos = next;
  }
  end_word();
  return clauses;
}

bool in(const Set& set, const Words& words, size_t i) {
  return i < words.size() && set.contains(words[i]);
}

// --- English

const Set kLeads = {"please", "can",  "could", "would", "will",   "you",    "now",  "and", "so",
                    "ok",     "okay", "then",  "just",  "also",   "kindly", "but",  "no",  "yes",
                    "well",   "pls",  "lets",  "maybe", "thanks", "great",  "again"};
// What can be done to an answer.
const Set kFormVerbs = {"translate", "rewrite",   "rephrase",  "reword",   "paraphrase", "shorten",
                        "summarise", "summarize", "simplify",  "condense", "expand",     "lengthen",
                        "repeat",    "say",       "write",     "put",      "turn",       "make",
                        "format",    "reformat",  "convert",   "restate",  "explain",    "give",
                        "list",      "polish",    "proofread", "clarify",  "change",     "trim",
                        "leave",     "omit",      "leave",     "omit",     "phrase",     "spell",
                        "break"};
const Set kTypeVerbs = {"bold",       "italicise",  "italicize",  "underline",
                        "capitalise", "capitalize", "bulletpoint"};
const Set kPronouns = {"it", "that", "this", "them", "these", "those"};
// Behind a pronoun that stands alone; behind "this rule" a noun stands.
const Set kAfterPronoun = {
    "in",     "into",    "as",    "to",    "for",    "so",    "with",    "without",    "like",
    "again",  "more",    "less",  "once",  "using",  "and",   "but",     "please",     "from",
    "down",   "up",      "out",   "over",  "back",   "a",     "an",      "one",        "two",
    "three",  "by",      "at",    "under", "within", "sound", "even",    "bit",        "much",
    "slowly", "briefly", "short", "brief", "simple", "line",  "instead", "differently"};
// Parts and properties of an answer that documents are hardly asked about.
const Set kAnswerNouns = {"answer",    "answers",  "reply",       "replies",  "response",
                          "responses", "tone",     "wording",     "style",    "sentence",
                          "sentences", "phrasing", "explanation", "citation", "citations"};
const Set kUtterances = {"answer",      "answers", "reply",    "replies",  "response",
                         "explanation", "summary", "words",    "wording",  "source",
                         "sources",     "tone",    "sentence", "sentences"};
const Set kOrdinals = {"last",  "previous", "first", "second", "third",  "own",
                       "whole", "entire",   "own",   "latest", "earlier"};
const Set kSaid = {"said",  "misunderstood", "misread", "wrote",  "told",
                   "meant", "answered",      "claimed", "listed", "gave"};
const Set kThinking = {"get",    "find",    "take",    "mean",      "say",      "think",
                       "sure",   "certain", "serious", "confident", "positive", "saying",
                       "joking", "kidding", "getting", "conclude"};
const Set kPraise = {"nice",      "good",    "great",     "excellent", "amazing", "wonderful",
                     "brilliant", "awesome", "fantastic", "lovely",    "perfect", "well"};
const Set kPraised = {"work", "job", "one", "idea", "stuff", "effort", "done", "point"};

bool comparative(const std::string& word) { return word.size() > 4 && word.ends_with("er"); }

/// Nothing that it would only describe comes behind: "this" alone, not "this rule".
bool stands_alone(const Words& w, size_t i) {
  return i + 1 == w.size() || in(kAfterPronoun, w, i + 1) || comparative(w[i + 1]);
}

/// Asks for another form of the answer.
bool asks_for_form(const Words& w) {
  size_t i = 0;
  while (in(kLeads, w, i)) ++i;
  if (in(kTypeVerbs, w, i)) return true;
  if (!in(kFormVerbs, w, i)) return false;
  size_t object = i + 1;
  while (object < w.size() &&
         (w[object] == "me" || w[object] == "us" || w[object] == "all" || w[object] == "just" ||
          w[object] == "only" || w[object] == "of" || w[object] == "out"))
    ++object;
  if (in(kPronouns, w, object)) {
    return stands_alone(w, object);
  }
  if (object < w.size() && (w[object] == "the" || w[object] == "a")) {
    size_t noun = object + 1;
    while (in(kOrdinals, w, noun)) ++noun;
    return in(kAnswerNouns, w, noun) && stands_alone(w, noun);
  }
  return false;
}

/// Speaks about what was said, or to the one who said it.
bool about_what_was_said(const Words& w) {
  // "you forgot …", "you're wrong": a statement, about the other side.
  static const Set kMay = {"can", "may", "must", "need", "have", "should", "could", "will", "know"};
  size_t first = 0;
  while (in(kLeads, w, first) && w[first] != "you") ++first;
  if (first < w.size() && (w[first] == "youre" || w[first] == "youve")) return true;
  static const Set kAsks = {"can", "could", "would", "will"};
  bool statement = first == 0 || !kAsks.contains(w[first - 1]);
  if (statement && first + 1 < w.size() && w[first] == "you" && !in(kMay, w, first + 1))
    return true;
  for (size_t i = 0; i < w.size(); ++i) {
    bool you = w[i] == "you";
    size_t verb = i + 1;
    while (verb < w.size() && (w[verb] == "just" || w[verb] == "already" || w[verb] == "really" ||
                               w[verb] == "so" || w[verb] == "quite" || w[verb] == "absolutely"))
      ++verb;
    if (you && in(kSaid, w, verb)) return true;
    bool asked = you && i > 0 &&
                 (w[i - 1] == "did" || w[i - 1] == "do" || w[i - 1] == "are" || w[i - 1] == "have");
    if (asked && verb + 1 == w.size() && w[verb] == "know") return true;
    if (asked && in(kThinking, w, verb)) {
      bool points = verb + 1 == w.size();
      for (size_t j = verb + 1; j < w.size(); ++j)
        points |= in(kPronouns, w, j) || w[j] == "so" || w[j] == "your";
      if (points) return true;
    }
    if (w[i] == "your") {
      size_t noun = i + 1;
      while (in(kOrdinals, w, noun)) ++noun;
      if (in(kUtterances, w, noun)) return true;
    }
    bool so = i + 1 < w.size() && w[i + 1] == "so" && (w[i] == "say" || w[i] == "says");
    if (so) return true;
    if (w[i] == "my") {
      size_t noun = i + 1;
      while (in(kOrdinals, w, noun)) ++noun;
      if (noun < w.size() && w[noun] == "question") return true;
    }
    if (w[i] == "our" && i + 1 < w.size() && (w[i + 1] == "conversation" || w[i + 1] == "chat"))
      return true;
    bool mine = i + 1 < w.size() && w[i] == "i" && (w[i + 1] == "asked" || w[i + 1] == "wanted");
    if (mine && i > 0 && (w[i - 1] == "what" || w[i - 1] == "how")) return true;
  }
  return false;
}

/// Thanks, praise, farewell.
bool courtesy(const Words& w) {
  size_t i = 0;
  while (in(kLeads, w, i) && !in(kPraise, w, i)) ++i;
  if (in(kPraise, w, i) && in(kPraised, w, i + 1)) return true;
  auto begins = [&](std::initializer_list<std::string_view> words) {
    return w.size() - std::min(w.size(), i) >= words.size() &&
           std::equal(words.begin(), words.end(), w.begin() + static_cast<std::ptrdiff_t>(i));
  };
  return begins({"see", "you"}) || begins({"talk", "to", "you"}) || begins({"until", "next"}) ||
         begins({"thats", "all"}) || begins({"thats", "what"}) || begins({"thats", "exactly"}) ||
         begins({"that", "is", "all"}) || begins({"that", "was", "all"}) ||
         begins({"that", "is", "what"}) || begins({"that", "is", "exactly"}) ||
         begins({"that", "is", "not", "what"}) || begins({"thats", "not", "what"});
}

/// Goes on with a wish for a form: "…, but without jargon".
bool goes_on(const Words& w) {
  static const Set kJoints = {"no",    "not", "without", "with", "but", "and",  "only", "just",
                              "using", "max", "at",      "like", "so",  "keep", "use",  "in"};
  return in(kJoints, w, 0);
}

// --- Chinese

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

template <size_t N>
bool has_any(std::string_view text, const std::array<std::string_view, N>& parts) {
  return std::any_of(parts.begin(), parts.end(), [&](auto part) { return has(text, part); });
}

constexpr std::array<std::string_view, 26> kHanLeads = {
    "请",       "麻烦",     "能不能", "能否",   "可不可以", "可以", "能",     "帮我",   "给我",
    "现在",     "再",       "就",     "然后",   "你",       "把它", "把这个", "把这些", "把这段",
    "把上面的", "把刚才的", "把答案", "把回答", "它",       "这个", "那就",   "重新"};
// Verbs of saying that a form follows: 写成…, 说得….
constexpr std::array<std::string_view, 17> kHanVerbs = {
    "翻译", "解释", "总结", "概括", "整理", "归纳", "改写", "重写", "写",
    "说",   "讲",   "改",   "换",   "翻",   "译",   "列",   "变"};
constexpr std::array<std::string_view, 28> kHanSaid = {
    "你的回答",       "你的答案",   "你刚才",     "你刚刚",     "你说的",     "你上面",
    "你这么说",       "你确定",     "你是从",     "你从哪",     "你怎么知道", "你是怎么知道",
    "刚才的回答",     "上面的回答", "上一个回答", "我问的不是", "答非所问",   "你根据",
    "你在哪里看",     "你在哪儿看", "你已经",     "你说过",     "这么说",     "我的第一个问题",
    "我的上一个问题", "我的意思",   "我们的对话", "我们的聊天"};
constexpr std::array<std::string_view, 6> kHanType = {"加粗", "斜体", "下划线",
                                                      "分行", "分点", "换行"};
constexpr std::array<std::string_view, 7> kHanThanks = {"谢谢",   "多谢",     "感谢", "非常感谢",
                                                        "太感谢", "十分感谢", "辛苦"};
constexpr std::array<std::string_view, 5> kHanParting = {"再见", "拜拜", "晚安", "回头", "下次"};

/// `text` less what it begins with, of `parts`, the longest; same text where it begins with none.
template <size_t N>
std::string_view after_any(std::string_view text, const std::array<std::string_view, N>& parts) {
  size_t most = 0;
  for (std::string_view part : parts) {
    if (text.starts_with(part)) most = std::max(most, part.size());
  }
  return text.substr(most);
}

bool speaks_of_the_answer_han(std::string_view clause) {
  if (has_any(clause, kHanSaid)) return true;
  // "你漏了…": a statement about the other side; "你知道…吗", "你们…" are none.
  constexpr std::array<std::string_view, 8> kNoStatement = {"你们",   "你知道", "你能", "你有",
                                                            "你可以", "你会",   "你好", "你觉得"};
  if (clause.starts_with("你") && after_any(clause, kNoStatement) == clause && !has(clause, "吗") &&
      !has(clause, "？") && !has(clause, "?"))
    return true;
  constexpr std::array<std::string_view, 6> kAsking = {"什么", "怎么", "哪", "多少", "谁", "几"};
  if (has_any(clause, kAsking)) return false;
  if (has(clause, "我们") && (has(clause, "对话") || has(clause, "聊天"))) return true;
  if (has_any(clause, kHanType)) return true;
  std::string_view rest = clause;
  for (std::string_view before; before != rest;) {
    before = rest;
    rest = after_any(rest, kHanLeads);
    while (rest.starts_with(' ')) rest.remove_prefix(1);
  }
  // "用西班牙语再说一遍", "像给孩子讲那样解释": by what means or like what it is said.
  if (rest.starts_with("像")) return true;
  bool means = rest.starts_with("用") || rest.starts_with("同样");
  if (means &&
      std::any_of(kHanVerbs.begin(), kHanVerbs.end(), [&](auto verb) { return has(rest, verb); }))
    return true;
  std::string_view form = after_any(rest, kHanVerbs);
  return form != rest &&
         (form.starts_with("成") || form.starts_with("得") || form.starts_with("为"));
}

bool courtesy_han(std::string_view clause) { return after_any(clause, kHanThanks) != clause; }

bool parting_han(std::string_view clause) {
  return std::any_of(kHanParting.begin(), kHanParting.end(),
                     [&](auto part) { return clause.starts_with(part); });
}

}  // namespace

std::string without_talk_about_the_answer(const std::string& turn) {
  std::string left;
  bool form = false, parting = false;  // of the clauses before
  for (const Clause& clause : clauses_of(turn)) {
    bool question = clause.text.ends_with('?') || clause.text.ends_with("？");
    bool now_form = asks_for_form(clause.words) || speaks_of_the_answer_han(clause.text) ||
                    (form && !question && goes_on(clause.words));
    bool now_parting =
        courtesy(clause.words) || courtesy_han(clause.text) || parting_han(clause.text);
    bool short_rest = clause.text.size() <= 15;  // 5 Han characters
    if (now_form || now_parting || about_what_was_said(clause.words) ||
        (!question && short_rest && (parting || (form && clause.words.empty())))) {
      form |= now_form;
      parting |= parting_han(clause.text);
      continue;
    }
    left += clause.text;
  }
  return left;
}

}  // namespace apud
