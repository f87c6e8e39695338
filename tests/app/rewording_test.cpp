// What is said about a question apart from its search: rewordings, and whether it asks about all.
#include <gtest/gtest.h>

#include "app/over_all.h"
#include "app/reword.h"

namespace apud {
namespace {

TEST(Rewordings, LinesWithoutLabelsQuotesAndRepetitions) {
  EXPECT_EQ(parse_rewordings("1. How is the fee computed?\n2) \"费用怎么计算？\"\nThird line\n",
                             "What does it cost?"),
            (std::vector<std::string>{"How is the fee computed?", "费用怎么计算？"}));
  EXPECT_EQ(parse_rewordings("Line 1: late fee\n\nChinese: 滞纳金", "q"),
            (std::vector<std::string>{"late fee", "滞纳金"}));
  // The question itself in other clothes is no new wording; neither is chatter.
  EXPECT_TRUE(parse_rewordings("what DOES it cost\n", "What does it cost?").empty());
  EXPECT_TRUE(parse_rewordings(std::string(500, 'x') + "\n---\n\n", "q").empty());
  EXPECT_TRUE(parse_rewordings("", "q").empty());
  // An answer is no rewording of a question.
  EXPECT_TRUE(parse_rewordings("It is 10 minutes.\n鸡蛋要煮十分钟。", "How long do I boil an egg?")
                  .empty());
  EXPECT_EQ(parse_rewordings("Ten minutes.\n鸡蛋煮多久？", "How long do I boil an egg? \n"),
            std::vector<std::string>{"鸡蛋煮多久？"});
  // A year at the beginning is no list number.
  EXPECT_EQ(parse_rewordings("2019 budget of the club", "q"),
            std::vector<std::string>{"2019 budget of the club"});
}

TEST(AsksAboutAll, OnlyWhereTheWordsSaySo) {
  for (const char* question :
       {"How many of the documents mention a refund?", "How many files are about tea?",
        "Summarise the collection", "summarize all documents", "Which papers use a control group?",
        "List every report from 2019", "Give me an overview of these files", "Count the articles",
        "How many documents are there?", "Which of these files mention tea?",
        "What do all these documents say about refunds?", "Summarise everything",
        "有多少篇文章提到了退款？", "总结一下这些文档", "所有文件里都写了谁的名字？",
        "哪些报告提到茶园？", "这里一共有几篇关于茶的文章？", "概括所有资料"})
    EXPECT_TRUE(asks_about_all(question)) << question;
  for (const char* question : {"How many days may a telescope be kept?",
                               "How do I delete a file?",
                               "What is a folder?",
                               "Who wrote the report of 2019?",
                               "Is all of the lens covered?",
                               "Which lens is best?",
                               "small documents",
                               "At which pressure does the boiler report a fault?",
                               "Which file lists the APT sources?",
                               "In which file is the key kept?",
                               "How do I list all files in a folder?",
                               "How do I copy all files to another disk?",
                               "Which command shows the whole file?",
                               "What is the command to delete all files?",
                               "How can I ensure that all programs use the same paper size?",
                               "Do I have to keep all those .deb archive files on my disk?",
                               "Which file transfer server did they settle on?",
                               "Does every file have an owner?",
                               "How do I find all files that contain a word?",
                               "怎样让所有文件都包含版权说明？",
                               "怎样删除所有文件？",
                               "哪些配置文件要修改？",
                               "删除所有文件的命令是什么？",
                               "如何标识全部有效文件？",
                               "我需要在磁盘上保留所有的档案文件吗？",
                               "望远镜可以借几天？",
                               "怎样删除文件？",
                               "总结这一章",
                               "多少钱？"})
    EXPECT_FALSE(asks_about_all(question)) << question;
}

TEST(CitedIds, MarksOnly) {
  EXPECT_EQ(cited_ids("a [3], b [12, 3] and [x] [4 5] [ 7 ]"), (std::vector<int>{3, 4, 5, 7, 12}));
  EXPECT_TRUE(cited_ids("no marks (3) [] [a1]").empty());
}

}  // namespace
}  // namespace apud
