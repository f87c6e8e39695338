// Which turns of a chat search documents: two lists here and 300 turns in tests/data/conversations.
#include "app/turn.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "tests/support/paths.h"

namespace apud {
namespace {

struct Turn {
  const char* text;
  bool searches;  // needs documents
};

// Turns as people type them: half ask something new, half speak about the answer that is there.
constexpr Turn kEnglish[] = {
    {"How long may a borrowed telescope be kept?", true},
    {"And what does a late return cost?", true},
    {"Who cleans the mirrors?", true},
    {"What about eyepieces?", true},
    {"does the insurance cover scratches", true},
    {"When does the spring course begin?", true},
    {"Is there a discount for students?", true},
    {"What is the notice period?", true},
    {"why was the contract cancelled", true},
    {"list all speakers", true},
    {"Give me the table of opening hours", true},
    {"Summarize the chapter on backups", true},
    {"Explain the refund rule", true},
    {"How many guests came in January?", true},
    {"what else is in the lease?", true},
    {"Now tell me about the battery", true},
    {"Where is the seminar room", true},
    {"Can members borrow the solar telescope?", true},
    {"M74?", true},
    {"and for pupils?", true},
    {"compare it with the 2019 version", true},
    {"What happened on 7 February?", true},
    {"translate the section about damage into German", true},
    {"Which filesystem does it recommend?", true},
    {"do I need root for that", true},
    {"Thanks!", false},
    {"thank you so much, that helps", false},
    {"ok", false},
    {"Great, got it", false},
    {"shorter please", false},
    {"Make it shorter.", false},
    {"Can you say that in one sentence?", false},
    {"Translate that into French", false},
    {"in German please", false},
    {"Rewrite your answer as a bulleted list", false},
    {"Put that in a table", false},
    {"Explain that in simpler terms", false},
    {"What do you mean by that?", false},
    {"Repeat the last sentence", false},
    {"Can you elaborate on the second point?", false},
    {"Why?", false},
    {"Are you sure?", false},
    {"That's wrong", false},
    {"no, I meant the first one", false},
    {"please continue", false},
    {"Could you rephrase it for a five year old?", false},
    {"use fewer words", false},
    {"Write that as a formal email", false},
    {"Say it again, but friendlier", false},
    {"hello", false},
};

constexpr Turn kChinese[] = {
    {"借来的望远镜可以留多久？", true},
    {"逾期要交多少钱？", true},
    {"图书馆几点开门", true},
    {"那儿童呢？", true},
    {"自习室可以吃东西吗", true},
    {"石门桥是什么时候建的？", true},
    {"为什么没有用水泥？", true},
    {"费用是谁出的？", true},
    {"工期多长", true},
    {"一共做了多少斤干茶？", true},
    {"虫害怎么处理的", true},
    {"请列出所有的开放时间", true},
    {"总结一下第三章", true},
    {"解释一下退款规定", true},
    {"工具书能外借吗？", true},
    {"周师傅是谁", true},
    {"遗失图书怎么赔？", true},
    {"还有别的病害吗", true},
    {"把合同里关于违约的部分翻译成英文", true},
    {"保修期呢？", true},
    {"夏天采茶吗", true},
    {"修剪到多高？", true},
    {"请问怎么续借？", true},
    {"这份合同什么时候到期", true},
    {"栏杆缺了几根望柱", true},
    {"谢谢", false},
    {"非常感谢，很有帮助", false},
    {"好的", false},
    {"明白了，谢谢你", false},
    {"短一点", false},
    {"请再简短一些", false},
    {"能不能用一句话说？", false},
    {"翻译成英文", false},
    {"把它翻译成法语", false},
    {"用表格列出来", false},
    {"改成分点的形式", false},
    {"说得通俗一点", false},
    {"这是什么意思？", false},
    {"再说一遍", false},
    {"请详细解释一下第二点", false},
    {"为什么？", false},
    {"你确定吗？", false},
    {"不对吧", false},
    {"我说的是上一个", false},
    {"继续", false},
    {"换个说法", false},
    {"字数少一点", false},
    {"写成一封正式的邮件", false},
    {"语气再友好一点", false},
    {"你好", false},
};

template <size_t N>
std::vector<std::string> wrong(const Turn (&turns)[N]) {
  std::vector<std::string> out;
  for (const Turn& turn : turns) {
    if (needs_retrieval(turn.text, false) != turn.searches) out.push_back(turn.text);
  }
  return out;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += "\n  " + line;
  return out;
}

TEST(NeedsRetrieval, EnglishTurns) {
  static_assert(std::size(kEnglish) == 50);
  auto bad = wrong(kEnglish);
  EXPECT_LE(bad.size(), 2u) << joined(bad);
}

TEST(NeedsRetrieval, ChineseTurns) {
  static_assert(std::size(kChinese) == 50);
  auto bad = wrong(kChinese);
  EXPECT_LE(bad.size(), 2u) << joined(bad);
}

TEST(NeedsRetrieval, AFirstTurnWithASubjectAlwaysSearches) {
  EXPECT_TRUE(needs_retrieval("茶", true));
  EXPECT_TRUE(needs_retrieval("Explain the mirrors", true));
  EXPECT_FALSE(needs_retrieval("hello", true));
  EXPECT_FALSE(needs_retrieval("你好", true));
}

TEST(NeedsRetrieval, MixedScriptsAndOddInput) {
  EXPECT_TRUE(needs_retrieval("TLS 怎么配置？", false));
  EXPECT_TRUE(needs_retrieval("Как вернуть книгу?", false));
  EXPECT_FALSE(needs_retrieval("", false));
  EXPECT_FALSE(needs_retrieval("?!", false));
  EXPECT_FALSE(needs_retrieval("👍", false));
  EXPECT_TRUE(needs_retrieval("\xff\xfe telescope", false));
}

// Written in three rounds of 100 before each round's rules (half ask something new, half speak
// about the answer that is there; half English, half Chinese): so the bound is on rules that have
// seen them.
TEST(NeedsRetrieval, ThreeHundredTurns) {
  std::istringstream lines(read_file(test::test_data() + "/conversations/turns.jsonl"));
  std::string line;
  std::vector<std::string> needless, missed;
  int turns = 0;
  for (; std::getline(lines, line); ++turns) {
    auto turn = nlohmann::json::parse(line);
    bool searches = turn["searches"];
    if (needs_retrieval(turn["turn"].get<std::string>(), false) == searches) continue;
    (searches ? missed : needless).push_back(turn["turn"]);
  }
  EXPECT_EQ(turns, 300);
  EXPECT_LE(missed.size(), 4u) << joined(missed);
  EXPECT_LE(needless.size() + missed.size(), 15u) << joined(needless) << joined(missed);
}

// What names a subject is searched, however much it looks like a wish for a form.
TEST(NeedsRetrieval, SubjectsInTheClothesOfForms) {
  for (const char* turn :
       {"explain this error message", "translate the section on damage into French",
        "Give the response times of the fire brigade", "Thanks. And how much is the late fee?",
        "Do you know if that applies to students?", "把第七条翻译成西班牙语", "你们接受信用卡吗",
        "谢谢。那滞纳金是多少？", "再讲讲学徒的工资", "洗衣机的操作步骤再说一遍"}) {
    EXPECT_TRUE(needs_retrieval(turn, false)) << turn;
  }
}

}  // namespace
}  // namespace apud
