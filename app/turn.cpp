#include "app/turn.h"

#include <algorithm>
#include <array>
#include <string>
#include <unordered_set>
#include <vector>

#include "app/turn_grammar.h"
#include "base/ascii.h"
#include "base/utf8.h"

namespace apud {
namespace {

// Words that speak about the conversation or its form. A turn made of these alone brings no subject
// to search for.
const std::unordered_set<std::string_view>& conversation_words() {
  static const std::unordered_set<std::string_view> words = {
      "a",          "again",        "all",        "also",
      "an",         "and",          "another",    "answer",
      "answers",    "any",          "anything",   "are",
      "as",         "asked",        "be",         "because",
      "better",     "bit",          "brief",      "briefer",
      "briefly",    "bullet",       "bulleted",   "bullets",
      "but",        "by",           "bye",        "can",
      "casual",     "cheers",       "chinese",    "clear",
      "clearer",    "clearly",      "confirm",    "continue",
      "cool",       "could",        "describe",   "detail",
      "detailed",   "details",      "did",        "different",
      "do",         "does",         "done",       "earlier",
      "elaborate",  "email",        "english",    "exactly",
      "example",    "excellent",    "expand",     "explain",
      "extra",      "few",          "fewer",      "fine",
      "first",      "follow",       "for",        "form",
      "formal",     "format",       "formatted",  "french",
      "from",       "further",      "german",     "give",
      "go",         "good",         "goodbye",    "got",
      "great",      "had",          "have",       "haha",
      "hello",      "help",         "helpful",    "helps",
      "hey",        "hi",           "how",        "i",
      "if",         "in",           "informal",   "instead",
      "into",       "is",           "it",         "its",
      "italian",    "japanese",     "json",       "just",
      "kind",       "korean",       "language",   "last",
      "latter",     "less",         "let",        "like",
      "line",       "lines",        "list",       "long",
      "longer",     "lot",          "lots",       "made",
      "make",       "markdown",     "many",       "me",
      "mean",       "meant",        "mind",       "more",
      "much",       "my",           "never",      "nice",
      "no",         "not",          "now",        "number",
      "numbered",   "of",           "off",        "oh",
      "ok",         "okay",         "on",         "one",
      "only",       "or",           "out",        "over",
      "paragraph",  "paragraphs",   "perfect",    "please",
      "point",      "points",       "portuguese", "previous",
      "put",        "quite",        "really",     "reformat",
      "repeat",     "rephrase",     "reply",      "response",
      "restate",    "reword",       "rewrite",    "right",
      "russian",    "said",         "same",       "say",
      "second",     "sentence",     "sentences",  "short",
      "shorten",    "shorter",      "should",     "show",
      "simple",     "simpler",      "simplify",   "simply",
      "single",     "so",           "some",       "sorry",
      "spanish",    "start",        "still",      "stop",
      "sum",        "summaries",    "summarise",  "summarize",
      "summary",    "super",        "sure",       "table",
      "tell",       "terms",        "than",       "thank",
      "thanks",     "that",         "thats",      "the",
      "them",       "then",         "there",      "these",
      "they",       "third",        "this",       "those",
      "three",      "to",           "too",        "translate",
      "translated", "translation",  "try",        "turn",
      "two",        "understand",   "understood", "up",
      "us",         "use",          "using",      "very",
      "version",    "was",          "way",        "we",
      "well",       "were",         "what",       "why",
      "will",       "with",         "without",    "word",
      "words",      "would",        "write",      "wow",
      "yes",        "yep",          "you",        "your",
      "yourself",   "above",        "below",      "shortened",
      "concise",    "concisely",    "wonderful",  "awesome",
      "alright",    "correct",      "wrong",      "true",
      "appreciate", "appreciated",  "day",        "later",
      "see",        "tone",         "friendly",   "polite",
      "child",      "kid",          "old",        "year",
      "five",       "ten",          "four",       "six",
      "seven",      "eight",        "nine",       "half",
      "lol",        "bold",         "headings",   "heading",
      "plain",      "text",         "title",      "caps",
      "uppercase",  "lowercase",    "dear",       "ty",
      "thx",        "im",           "ive",        "id",
      "ill",        "youre",        "isnt",       "arent",
      "wasnt",      "werent",       "dont",       "doesnt",
      "didnt",      "cant",         "couldnt",    "wont",
      "wouldnt",    "shouldnt",     "whats",      "hows",
      "lets",       "theres",       "thatll",     "own",
      "mate",       "buddy",        "bro",        "sir",
      "pls",        "plz",          "k",          "kk",
      "yeah",       "yup",          "nope",       "nah",
      "hm",         "hmm",          "huh",        "aha",
      "brilliant",  "fantastic",    "amazing",    "lovely",
      "neat",       "interesting",  "impressive", "funny",
      "agreed",     "agree",        "disagree",   "exact",
      "ah",         "got",          "gotcha",     "ready",
      "poem",       "haiku",        "limerick",   "tweet",
      "essay",      "letter",       "message",    "headline",
      "outline",    "bulletpoints", "verse",      "rhyme",
      "prose",      "style",        "phrase",     "phrasing",
      "wording",    "tldr",         "eli5",       "eli",
      "recap",      "clarify",      "paraphrase", "condense",
      "trim",       "lengthen",     "shorten",    "polish",
      "proofread",  "grammar",      "spelling",   "typo",
      "yaml",       "csv",          "html",       "latex",
      "emoji",      "emojis",       "unclear",    "confusing",
      "confused",   "vague",        "lost",       "ignore",
      "forget",     "nothing",      "nevermind",  "else",
      "most",       "least",        "important",  "main",
      "key",        "overall",      "basically",  "actually",
      "maybe",      "perhaps",      "think",      "believe",
      "sense",      "makes",        "make",       "making",
      "keep",       "add",          "remove",     "drop",
      "replace",    "change",       "swap",       "merge",
      "split",      "sort",         "order",      "get",
      "best",       "convinced",    "under",      "sound",
      "sounds",     "gist",         "numbers",    "slower",
      "slowly",     "faster",       "specific",   "precise",
      "precisely",  "letters",      "characters", "tokens",
      "limit",      "max",          "maximum",    "mandarin",
      "cantonese",  "traditional",  "simplified", "steps",
      "step",       "columns",      "column",     "rows"};
  return words;
}

// Said to the other side, although their words alone could be a subject.
constexpr std::array kCourtesies = {
    "good morning",    "good afternoon", "good evening",  "good night",   "have a nice day",
    "have a good day", "double check",   "one more time", "step by step", "double-check",
    "tl;dr",           "five years old", "five-year-old", "see you"};

// Questions for a fact, although every word of them is a plain one: "how long is it?", "什么时候".
constexpr std::array kFactQuestions = {"how long ", "how many ", "how much ",  "how old ",
                                       "how far ",  "how big ",  "how often ", "how high "};
constexpr std::array kFactQuestionsHan = {"多少", "多长时间", "多久", "多大",     "多高",    "多远",
                                          "多长", "多重",     "多宽", "几个",     "几点",    "几天",
                                          "几次", "几年",     "几月", "几号",     "几人",    "谁",
                                          "哪",   "何时",     "何地", "什么时候", "什么地方"};

// The same for Chinese, longest first when matched greedily.
constexpr std::array kConversationPhrases = {
    "非常感谢",   "谢谢你",   "谢谢您",   "太感谢了",   "辛苦了",     "不客气",     "没关系",
    "没问题",     "知道了",   "明白了",   "了解了",     "翻译成",     "翻译为",     "翻译一下",
    "换句话说",   "再说一遍", "再说一次", "重复一遍",   "总结一下",   "概括一下",   "简单点",
    "简短点",     "简短一点", "简短一些", "短一点",     "短一些",     "长一点",     "详细一点",
    "详细一些",   "详细点",   "详细地",   "具体一点",   "具体一些",   "通俗易懂",   "通俗一点",
    "上一个",     "上面的",   "上面",     "刚才的",     "刚才",       "刚刚",       "之前的",
    "前面的",     "前面",     "这个",     "那个",       "这些",       "那些",       "回答",
    "答案",       "内容",     "一句话",   "两句话",     "三句话",     "几句话",     "列表",
    "列出来",     "列成",     "表格",     "要点",       "分点",       "条目",       "项目符号",
    "格式",       "英文",     "英语",     "中文",       "汉语",       "日语",       "日文",
    "法语",       "法文",     "德语",     "德文",       "韩语",       "繁体",       "简体",
    "文言文",     "口语",     "正式一点", "正式",       "语气",       "重写",       "改写",
    "改成",       "改为",     "换成",     "缩短",       "精简",       "简化",       "扩展",
    "展开",       "继续",     "接着",     "往下",       "说说",       "说",         "讲",
    "谢谢",       "多谢",     "感谢",     "你好",       "您好",       "再见",       "拜拜",
    "好的",       "好吧",     "可以",     "是的",       "不是",       "对的",       "不对",
    "很好",       "太好了",   "不错",     "真棒",       "厉害",       "明白",       "收到",
    "懂了",       "为什么",   "什么意思", "怎么",       "什么",       "意思",       "解释一下",
    "解释",       "举个例子", "举例",     "例子",       "能不能",     "能否",       "可不可以",
    "请用",       "麻烦",     "请",       "帮我",       "给我",       "我",         "你",
    "您",         "它",       "他",       "她",         "们",         "的",         "了",
    "吗",         "呢",       "吧",       "啊",         "呀",         "哦",         "嗯",
    "用",         "把",       "再",       "就",         "也",         "都",         "和",
    "与",         "又",       "更",       "还",         "很",         "太",         "一点",
    "一些",       "一下",     "一遍",     "一次",       "一个",       "一",         "二",
    "两",         "三",       "四",       "五",         "十",         "个",         "点",
    "些",         "句",       "字",       "段",         "话",         "以内",       "左右",
    "来",         "成",       "为",       "是",         "有",         "没",         "不",
    "要",         "想",       "能",       "会",         "到",         "在",         "这",
    "那",         "短",       "长",       "详细",       "简单",       "具体",       "清楚",
    "总结",       "概括",     "翻译",     "写",         "做",         "出",         "对",
    "好",         "多",       "少",       "几",         "有帮助",     "帮助很大",   "形式",
    "方式",       "说法",     "确定",     "确认",       "真的",       "换个",       "换一种",
    "换一个",     "换",       "变成",     "整理",       "归纳",       "罗列",       "润色",
    "列举",       "错了",     "重新",     "第一点",     "第二点",     "第三点",     "最后一点",
    "第一句",     "第二句",   "最后一句", "段落",       "句子",       "标题",       "加粗",
    "编号",       "序号",     "的邮件",   "成邮件",     "封邮件",     "一封",       "成一段",
    "成一篇",     "友好",     "礼貌",     "客气",       "直白",       "易懂",       "清晰",
    "啰嗦",       "啦",       "嘛",       "哎",         "唉",         "噢",         "嗨",
    "嘿",         "喂",       "咯",       "喽",         "谢",         "挺",         "非常",
    "十分",       "比较",     "稍微",     "尽量",       "全部",       "所有",       "刚说",
    "同意",       "抱歉",     "对不起",   "辛苦",       "晚安",       "早上好",     "下午好",
    "晚上好",     "没事",     "算了",     "不用",       "不必",       "当然",       "原来如此",
    "原来是这样", "原来",     "这样",     "那样",       "是吗",       "对吗",       "好吗",
    "行吗",       "看懂",     "看不懂",   "没懂",       "听懂",       "听不懂",     "不懂",
    "不太懂",     "不理解",   "不清楚",   "简洁",       "简明",       "扼要",       "精炼",
    "只要",       "只",       "前两句",   "前三句",     "前几句",     "第一段",     "第二段",
    "最后一段",   "前两点",   "前三点",   "像对小孩子", "像对孩子",   "小孩子一样", "孩子一样",
    "五岁",       "一样",     "再检查",   "核对一下",   "检查一下你", "自己的话",   "一首诗",
    "首诗",       "一个故事", "控制在",   "一百",       "两百",       "百",         "翻成",
    "译成",       "一步一步", "一步步",   "给小朋友讲", "给孩子讲",   "给外行",     "说重点",
    "重点",       "嘞",       "呃",       "额",         "嗯嗯",       "哇",         "哈喽",
    "在吗",       "辛苦",     "棒",       "赞",         "牛",         "完美",       "有趣",
    "有意思",     "有道理",   "同意",     "反对",       "怎么说",     "怎么讲",     "怎么理解",
    "补充",       "删掉",     "去掉",     "加上",       "保留",       "合并",       "拆分",
    "排序",       "替换",     "修改",     "调整",       "优化",       "润饰",       "大白话",
    "白话",       "官方",     "专业",     "幽默",       "有没有别的", "别的",       "其他的",
    "另外",       "换言之",   "也就是说", "那么",       "所以",       "但是",       "因为",
    "然后",       "接下来",   "下一个",   "上一条",     "上一句",     "上一段",     "刚刚的",
    "下",         "上",       "中",       "里",         "刚",         "才",         "话",
    "以",         "让",       "说明",     "列",         "呗",         "哈哈",       "哈",
    "行",         "听起来",   "看起来",   "觉得",       "认为",       "版本",       "部分"};

}  // namespace

bool needs_retrieval(std::string_view turn, bool first_turn) {
  std::string text = without_talk_about_the_answer(ascii_lower(turn));
  // Han runs: what is left after the conversation's own phrases is the subject.
  static const std::vector<std::string_view> phrases = [] {
    std::vector<std::string_view> sorted(kConversationPhrases.begin(), kConversationPhrases.end());
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](auto a, auto b) { return a.size() > b.size(); });
    return sorted;
  }();
  for (std::string_view phrase : kCourtesies) {
    for (size_t at = 0; (at = text.find(phrase, at)) != std::string::npos;)
      text.replace(at, phrase.size(), phrase.size(), ' ');
  }
  for (std::string_view phrase : kFactQuestions) {
    if (text.find(phrase) != std::string::npos) return true;
  }
  for (std::string_view phrase : kFactQuestionsHan) {
    if (text.find(phrase) != std::string::npos) return true;
  }
  int han = 0;
  int han_left = 0;
  int latin_left = 0;
  std::string word;
  std::string number;
  auto end_word = [&] {
    // Apostrophes are dropped so that "that's" is one word of the list.
    if (!word.empty() && !conversation_words().contains(word)) ++latin_left;
    word.clear();
  };
  // A year is a subject ("and in 2025?"); "in 50 words" and "2000字" are about the form.
  auto end_number = [&](std::string_view rest) {
    bool year = number.size() == 4 && (number[0] == '1' || number[0] == '2');
    while (rest.starts_with(' ')) rest.remove_prefix(1);
    for (std::string_view unit : {"word", "char", "字", "词", "个字"})
      year &= !rest.starts_with(unit);
    latin_left += year;
    number.clear();
  };
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    bool digit = c.code >= '0' && c.code <= '9';
    if (!number.empty() && !digit) end_number(std::string_view(text).substr(pos));
    if (is_cjk(c.code)) {
      end_word();
      size_t used = 0;
      for (std::string_view phrase : phrases) {
        if (std::string_view(text).substr(pos, phrase.size()) == phrase) {
          used = phrase.size();
          break;
        }
      }
      han += std::max(1, static_cast<int>(used) / 3);
      if (used == 0) {
        ++han_left;
        used = c.size;
      }
      pos += used;
      continue;
    }
    bool letter = (c.code >= 'a' && c.code <= 'z') || (c.code >= 0xC0 && c.code < 0x2000);
    if (letter || (digit && !word.empty())) {
      word.append(text, pos, c.size);
    } else if (digit) {
      number += static_cast<char>(c.code);
    } else if (c.code != '\'' && c.code != 0x2019) {
      end_word();
    }
    pos += c.size;
  }
  end_word();
  if (!number.empty()) end_number({});
  if (latin_left == 0 && han_left == 0) return false;
  // "电话呢？" asks for a subject, however short.
  size_t asks = text.rfind("呢");
  if (han_left > 0 && asks != std::string::npos && text.size() - asks <= 6) return true;
  // One stray Han character in a longer turn is a particle that the list lacks, not a subject
  // ("茶呢" has one); except at the start, where there is nothing yet to talk about.
  return first_turn || latin_left > 0 || han_left >= 2 || 2 * han_left >= han;
}

}  // namespace apud
