#include "app/prompts.h"

#include <algorithm>
#include <array>
#include <unordered_set>
#include <vector>

#include "base/utf8.h"

namespace apud {

std::string_view system_with_documents() {
  return "You answer questions from the user's own documents. Each message may bring numbered passages. "
         "Use only what the passages say, be brief and exact, and put the number of the passage after each "
         "statement, like [1]. Answer in the language of the question. If the passages do not contain the "
         "answer, reply only: Not in the documents.";
}

std::string_view system_without_documents() {
  return "You are a helpful assistant. Answer briefly and exactly, in the language of the question. "
         "Say so when you do not know.";
}

std::string evidence_frame(std::string_view packed) {
  if (packed.empty()) return {};
  std::string out = "Passages:\n\n";
  out += packed;
  while (!out.empty() && out.back() == '\n') out.pop_back();
  out += "\n\nAnswer from these passages and cite their numbers.\nQuestion: ";
  return out;
}

bool says_not_in_documents(std::string_view answer) {
  std::string lower;
  for (char c : answer.substr(0, 200)) lower += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  size_t start = lower.find_first_not_of(" \n\t\"'*");
  if (start == std::string::npos) return false;
  std::string_view text = std::string_view(lower).substr(start);
  for (std::string_view phrase : {"not in the documents", "the answer is not in the documents", "the passages do not contain",
                                  "the provided passages do not contain", "文档中没有", "文件中没有", "不在文档中", "段落中没有"}) {
    if (text.starts_with(phrase)) return true;
  }
  return false;
}

namespace {

// Words that speak about the conversation or its form. A turn made of these alone brings no subject
// to search for.
const std::unordered_set<std::string_view>& conversation_words() {
  static const std::unordered_set<std::string_view> words = {
      "a", "again", "all", "also", "an", "and", "another", "answer", "answers", "any", "anything", "are", "as", "asked",
      "be", "because", "better", "bit", "brief", "briefer", "briefly", "bullet", "bulleted", "bullets", "but", "by",
      "bye", "can", "casual", "cheers", "chinese", "clear", "clearer", "clearly", "confirm", "continue", "cool", "could",
      "describe", "detail", "detailed", "details", "did", "different", "do", "does", "done", "earlier", "elaborate", "email",
      "english", "exactly", "example", "excellent", "expand", "explain", "extra", "few", "fewer", "fine", "first",
      "follow", "for", "form", "formal", "format", "formatted", "french", "from", "further", "german", "give", "go",
      "good", "goodbye", "got", "great", "had", "have", "haha", "hello", "help", "helpful", "helps", "hey", "hi", "how", "i",
      "if", "in", "informal", "instead", "into", "is", "it", "its", "italian", "japanese", "json", "just", "kind", "korean",
      "language", "last", "latter", "less", "let", "like", "line", "lines", "list", "long", "longer", "lot", "lots", "made", "make",
      "markdown", "many", "me", "mean", "meant", "mind", "more", "much", "my", "never", "nice", "no", "not", "now", "number",
      "numbered", "of", "off", "oh", "ok", "okay", "on", "one", "only", "or", "out", "over", "paragraph", "paragraphs",
      "perfect", "please", "point", "points", "portuguese", "previous", "put", "quite", "really", "reformat", "repeat",
      "rephrase", "reply", "response", "restate", "reword", "rewrite", "right", "russian", "said", "same", "say", "second",
      "sentence", "sentences", "short", "shorten", "shorter", "should", "show", "simple", "simpler", "simplify", "simply",
      "single", "so", "some", "sorry", "spanish", "start", "still", "stop", "sum", "summaries", "summarise", "summarize",
      "summary", "super", "sure", "table", "tell", "terms", "than", "thank", "thanks", "that", "thats", "the", "them",
      "then", "there", "these", "they", "third", "this", "those", "three", "to", "too", "translate", "translated",
      "translation", "try", "turn", "two", "understand", "understood", "up", "us", "use", "using", "very", "version",
      "was", "way", "we", "well", "were", "what", "why", "will", "with", "without", "word", "words", "would", "write", "wow",
      "yes", "yep", "you", "your", "yourself", "above", "below", "shortened", "concise", "concisely", "wonderful", "awesome",
      "alright", "correct", "wrong", "true", "appreciate", "appreciated", "day", "later", "see", "tone", "friendly",
      "polite", "child", "kid", "old", "year", "five", "ten", "four", "six", "seven", "eight", "nine", "half", "lol",
      "bold", "headings", "heading", "plain", "text", "title", "caps", "uppercase", "lowercase", "dear", "ty", "thx",
      "mandarin", "cantonese", "traditional", "simplified", "steps", "step", "columns", "column", "rows"};
  return words;
}

// The same for Chinese, longest first when matched greedily.
constexpr std::array kConversationPhrases = {
    "非常感谢", "谢谢你", "谢谢您", "太感谢了", "辛苦了", "不客气", "没关系", "没问题", "知道了", "明白了", "了解了", "翻译成", "翻译为", "翻译一下",
    "换句话说", "再说一遍", "再说一次", "重复一遍", "总结一下", "概括一下", "简单点", "简短点", "简短一点", "简短一些", "短一点", "短一些", "长一点", "详细一点",
    "详细一些", "详细点", "详细地", "具体一点", "具体一些", "通俗易懂", "通俗一点", "上一个", "上面的", "上面", "刚才的", "刚才", "刚刚", "之前的", "前面的",
    "前面", "这个", "那个", "这些", "那些", "回答", "答案", "内容", "一句话", "两句话", "三句话", "几句话", "列表", "列出来", "列成", "表格", "要点", "分点",
    "条目", "项目符号", "格式", "英文", "英语", "中文", "汉语", "日语", "日文", "法语", "法文", "德语", "德文", "韩语", "繁体", "简体", "文言文", "口语",
    "正式一点", "正式", "语气", "重写", "改写", "改成", "改为", "换成", "缩短", "精简", "简化", "扩展", "展开", "继续", "接着", "往下", "说说", "说", "讲",
    "谢谢", "多谢", "感谢", "你好", "您好", "再见", "拜拜", "好的", "好吧", "可以", "是的", "不是", "对的", "不对", "很好", "太好了", "不错", "真棒", "厉害", "明白",
    "收到", "懂了", "为什么", "什么意思", "怎么", "什么", "意思", "解释一下", "解释", "举个例子", "举例", "例子", "能不能", "能否", "可不可以", "请用", "麻烦",
    "请", "帮我", "给我", "我", "你", "您", "它", "他", "她", "们", "的", "了", "吗", "呢", "吧", "啊", "呀", "哦", "嗯", "用", "把", "再", "就", "也", "都", "和", "与", "又",
    "更", "还", "很", "太", "一点", "一些", "一下", "一遍", "一次", "一个", "一", "二", "两", "三", "四", "五", "十", "个", "点", "些", "句", "字", "段", "话", "以内", "左右", "来",
    "成", "为", "是", "有", "没", "不", "要", "想", "能", "会", "到", "在", "这", "那", "短", "长", "详细", "简单", "具体", "清楚", "总结", "概括", "翻译", "写", "做", "出",
    "对", "好", "多", "少", "几", "下", "上", "中", "里", "刚", "才", "话", "以", "让", "说明", "列", "呗", "哈哈", "哈", "行"};

std::string lower_ascii(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return out;
}

}  // namespace

bool needs_retrieval(std::string_view turn, bool first_turn) {
  std::string text = lower_ascii(turn);
  // Han runs: what is left after the conversation's own phrases is the subject.
  static const std::vector<std::string_view> phrases = [] {
    std::vector<std::string_view> sorted(kConversationPhrases.begin(), kConversationPhrases.end());
    std::stable_sort(sorted.begin(), sorted.end(), [](auto a, auto b) { return a.size() > b.size(); });
    return sorted;
  }();
  int han_left = 0;
  int latin_left = 0;
  std::string word;
  auto end_word = [&] {
    // Apostrophes are dropped so that "that's" is one word of the list.
    if (!word.empty() && !conversation_words().contains(word)) ++latin_left;
    word.clear();
  };
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    if (is_cjk(c.code)) {
      end_word();
      size_t used = 0;
      for (std::string_view phrase : phrases) {
        if (std::string_view(text).substr(pos, phrase.size()) == phrase) {
          used = phrase.size();
          break;
        }
      }
      if (used == 0) {
        ++han_left;
        used = c.size;
      }
      pos += used;
      continue;
    }
    bool letter = (c.code >= 'a' && c.code <= 'z') || (c.code >= 0xC0 && c.code < 0x2000);
    bool digit = c.code >= '0' && c.code <= '9';
    if (letter || (digit && !word.empty())) {
      word.append(text, pos, c.size);
    } else if (c.code != '\'' && c.code != 0x2019) {
      end_word();
    }
    pos += c.size;
  }
  end_word();
  if (latin_left == 0 && han_left == 0) return false;
  // One stray Han character is a particle that the list lacks, not a subject; except at the start,
  // where there is nothing yet to talk about.
  return first_turn || latin_left > 0 || han_left >= 2;
}

}  // namespace apud
