// Documents in one language, questions in the other: found, and foreign ones refused all the same.
#include "tests/e2e/library.h"

namespace apud::test {
namespace {

class OtherLanguage : public testing::Test {
 protected:
  void SetUp() override { APUD_REQUIRE_MODEL(kEmbedder); }

  void expect_evidence(const std::string& question, const std::string& collection, bool there) {
    RunResult r = home_.run({"search", question, "-k", collection, "-n", "1", "--json"});
    EXPECT_EQ(r.code, 0) << r;
    EXPECT_EQ(json_of(r)["below_line"], !there) << question << "\n" << r;
  }
  Home home_;
};

constexpr const char* kBoiler =
    "# Boiler manual\n\nThe boiler heats the water of the whole house.\n\n## Faults\n\nBelow a "
    "pressure of 0.8 bar the boiler stops and shows the code E04. Fill in water until the gauge "
    "shows 1.5 bar, then press reset.\n\n## Service\n\nA technician cleans the burner once a year "
    "and writes the date on the label beside the door.\n\n## Garden pump\n\nThe pump in the garden "
    "must be emptied before the first frost, or its housing will crack.\n";
constexpr const char* kKettle =
    "# 锅炉手册\n\n锅炉给整栋房子供应热水。\n\n## 故障\n\n压力低于 0.8 巴时锅炉停机并显示代码 E04。"
    "请加水至压力表指示 1.5 巴，然后按复位键。\n\n## "
    "保养\n\n技师每年清洗一次燃烧器，并把日期写在门边的标"
    "签上。\n\n## 花园水泵\n\n第一次霜冻之前必须把花园里的水泵排空，否则泵壳会冻裂。\n";

TEST_F(OtherLanguage, GoodQuestionsPassAndForeignOnesDoNot) {
  home_.write("en/boiler.md", kBoiler);
  home_.write("zh/boiler.md", kKettle);
  for (const char* language : {"en", "zh"}) {
    RunResult r = home_.run({"ingest", language, "-k", language, "-q"});
    ASSERT_EQ(r.code, 0) << r;
  }
  for (const char* collection : {"en", "zh"}) {
    expect_evidence("锅炉压力低到多少会报故障？", collection, true);
    expect_evidence("花园的水泵什么时候要排空？", collection, true);
    expect_evidence("燃烧器多久清洗一次？", collection, true);
    expect_evidence("How often is the burner cleaned?", collection, true);
    expect_evidence("谁发明了电话？", collection, false);
    expect_evidence("北京到上海的火车要多长时间？", collection, false);
    expect_evidence("When do the cherry trees bloom?", collection, false);
    expect_evidence("Who invented the telephone?", collection, false);
  }
  // Each language has its own line, and what it was measured on is said.
  Json info = json_of(home_.run({"coll", "info", "en", "--json"}))["calibration"];
  EXPECT_LT(info["abstain_line_cjk"], info["abstain_line"]) << info;
  EXPECT_EQ(info["queries"], 64) << info;
}

}  // namespace
}  // namespace apud::test
