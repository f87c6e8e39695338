#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <map>

#include "base/child.h"
#include "base/utf8.h"
#include "rag/loader.h"
#include "rag/loaders/pdf_text.h"
#include "tests/support/zip.h"

namespace apud {
namespace {

using test::deflate;

// A PDF file from its objects, with a correct cross reference table.
std::string make_pdf(const std::map<int, std::string>& objects,
                     const std::string& trailer = "/Root 1 0 R") {
  std::string out = "%PDF-1.4\n";
  std::map<int, size_t> offsets;
  for (const auto& [number, body] : objects) {
    offsets[number] = out.size();
    out += std::to_string(number) + " 0 obj\n" + body + "\nendobj\n";
  }
  size_t xref = out.size();
  int top = objects.rbegin()->first + 1;
  out += "xref\n0 " + std::to_string(top) + "\n0000000000 65535 f \n";
  for (int i = 1; i < top; ++i) {
    char line[32];
    std::snprintf(line, sizeof line, "%010zu 00000 %c \n", offsets.count(i) ? offsets[i] : 0,
                  offsets.count(i) ? 'n' : 'f');
    out += line;
  }
  return out + "trailer\n<</Size " + std::to_string(top) + " " + trailer + ">>\nstartxref\n" +
         std::to_string(xref) + "\n%%EOF\n";
}

std::string stream(const std::string& data, const std::string& extra = "") {
  return "<</Length " + std::to_string(data.size()) + extra + ">>\nstream\n" + data + "\nendstream";
}

// Pages of text lines, Helvetica 12.
std::string text_pdf(const std::vector<std::vector<std::string>>& pages) {
  std::map<int, std::string> objects;
  std::string kids;
  int next = 4;
  for (const auto& lines : pages) {
    std::string content = "BT /F 12 Tf 14 TL 72 770 Td\n";
    for (const std::string& line : lines) content += "(" + line + ") Tj T*\n";
    content += "ET";
    kids += std::to_string(next) + " 0 R ";
    objects[next] =
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F 3 0 R>>>>/Contents " +
        std::to_string(next + 1) + " 0 R>>";
    objects[next + 1] = stream(content);
    next += 2;
  }
  objects[1] = "<</Type/Catalog/Pages 2 0 R>>";
  objects[2] = "<</Type/Pages/Kids[" + kids + "]/Count " + std::to_string(pages.size()) + ">>";
  objects[3] = "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>";
  return make_pdf(objects);
}

std::string one_page(const std::string& content_stream, const std::string& resources = "") {
  return make_pdf({{1, "<</Type/Catalog/Pages 2 0 R>>"},
                   {2, "<</Type/Pages/Kids[3 0 R]/Count 1>>"},
                   {3, "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<<" + resources +
                           ">>/Contents 4 0 R>>"},
                   {4, content_stream}});
}

#define REQUIRE_PDFTOTEXT() \
  if (!find_program("pdftotext")) GTEST_SKIP() << "pdftotext is not installed (poppler-utils)"

TEST(LoadPdf, PagesHeadersHyphensAndLongLines) {
  REQUIRE_PDFTOTEXT();
  std::vector<std::vector<std::string>> pages;
  for (int i = 1; i <= 6; ++i) {
    pages.push_back({"The Manual  " + std::to_string(i) + " / 6",
                     std::to_string(i) + ".1 Section number " + std::to_string(i),
                     "This is the first line of a paragraph that is long enough to be seen as a "
                     "full line, inter-",
                     "national as it is, and it ends with the path "
                     "/a/very/long/path/that/runs/over/the/edge/of/the/page/marker" +
                         std::to_string(i) + ".txt",
                     "page " + std::to_string(i)});
  }
  Document d = load_bytes("x.pdf", text_pdf(pages));
  ASSERT_EQ(d.status, LoadStatus::kOk) << d.reason;
  EXPECT_EQ(d.text.find("The Manual"), std::string::npos) << "running header kept";
  EXPECT_EQ(d.text.find("page 3"), std::string::npos) << "running footer kept";
  EXPECT_NE(d.text.find("full line, international as it is"), std::string::npos) << d.text;
  EXPECT_NE(d.text.find("marker4.txt"), std::string::npos) << "text beyond the page edge lost";
  int headings = 0;
  for (const Block& b : d.blocks) headings += b.kind == BlockKind::kHeading && b.level == 2;
  EXPECT_EQ(headings, 6);
  EXPECT_EQ(anchor_at(d, d.text.find("marker4")).page, 4);
  EXPECT_EQ(d.title, "1.1 Section number 1");
}

TEST(LoadPdf, TextRules) {
  auto build = [](const std::string& text) { return pdf_document(split_pages(text)).text; };
  // A compound known from elsewhere keeps its hyphen, a known word loses it, paths keep it.
  std::string filler = " and some more words to make this line as long as the others are\n";
  EXPECT_NE(build("the command-line tool is here" + filler +
                  "we now use the command-\nline tool of the system and go on" + filler + "\f")
                .find("command-line tool of"),
            std::string::npos);
  EXPECT_NE(build("we use a hyphen-\nated word in this line of the text" + filler + "\f")
                .find("hyphenated word"),
            std::string::npos);
  EXPECT_NE(build("we use a soft\xC2\xAD\nened word in this line of the text" + filler + "\f")
                .find("softened word"),
            std::string::npos);
  EXPECT_NE(build("look into the folder /usr/share/doc-\nbase in this line of text" + filler + "\f")
                .find("/usr/share/doc-base"),
            std::string::npos);
  // Chinese lines join without a space, also where punctuation stands alone on its line.
  EXPECT_EQ(build("这是一个很长的段落的第一行文字需要接到下一行\n，然后在这里结束。\f"),
            "这是一个很长的段落的第一行文字需要接到下一行，然后在这里结束。");
  EXPECT_NE(build("1.2 Title . . . . . . . . . . . 17\n\f").find("Title … 17"), std::string::npos);
  EXPECT_NE(build("\xEF\xAC\x81rst o\xEF\xAC\x83"
                  "ce\n\f")
                .find("first office"),
            std::string::npos);
  // A number beyond 32 bits is no chapter 1 (4294967297 would wrap to it).
  auto first_is_heading = [](const std::string& text) {
    Document document = pdf_document(split_pages(text));
    return !document.blocks.empty() && document.blocks[0].kind == BlockKind::kHeading;
  };
  EXPECT_TRUE(first_is_heading("1 Title\n\nand text" + filler + "\f"));
  EXPECT_FALSE(first_is_heading("4294967297 Title\n\nand text" + filler + "\f"));
}

TEST(LoadPdf, NumbersInSentencesAreNoHeadings) {
  auto headings = [](const std::string& text) {
    std::vector<std::string> out;
    Document d = pdf_document(split_pages(text));
    for (const Block& block : d.blocks) {
      if (block.kind == BlockKind::kHeading)
        out.push_back(d.text.substr(block.begin, block.end - block.begin));
    }
    return out;
  };
  using Strings = std::vector<std::string>;
  EXPECT_EQ(headings("3.4. /bin: commands for all\nA sentence whose line is full, with a depth of\n"
                     "0.3 m on most days and more of it in spring\nand a third one that measures "
                     "no less than\n2.5 m where the current is strongest of all.\nAs Section tells "
                     "of it, in the chapter before:\n3.4.1 Purpose\nText of the section that "
                     "follows it at once.\n\f"),
            (Strings{"3.4. /bin: commands for all", "3.4.1 Purpose"}));
}

TEST(LoadPdf, AHeadingOfTwoLinesIsOne) {
  Document d = pdf_document(split_pages(
      "3.4 Essential commands of the system (for\nuse by all users)\nThe text of the section is as "
      "wide as the page that it stands on.\nand goes on.\n\f"));
  ASSERT_EQ(d.blocks.size(), 2u) << d.text;
  EXPECT_EQ(d.text.substr(0, d.blocks[0].end),
            "3.4 Essential commands of the system (for use by all users)");
}

TEST(LoadPdf, TheTableOfContentsIsLeftOut) {
  auto build = [](const std::string& text) { return pdf_document(split_pages(text)).text; };
  std::string body;
  for (int i = 0; i < 8; ++i)
    body += "Sentence number " + std::to_string(i) + " of the text that this book is about.\n";
  const std::string dots = " . . . . . . . . . ";
  std::string contents = "Contents\nForeword" + dots + "ix\n1 Boats" + dots +
                         "1\n1.1 A title that is much longer than\nthe line it began on" + dots +
                         "1\n1.2 Oars" + dots + "3\n2 Nets" + dots + "14\n";
  EXPECT_EQ(build(contents + "\f" + body + "\f"), build("\f" + body + "\f"));
  EXPECT_EQ(build("目录\n第一章 船…………1\n第二章 桨…………3\n第三章 网…………7\n第四章 帆…………9\n第五章 "
                  "锚…………12\n\f" +
                  body + "\f"),
            build("\f" + body + "\f"));
  // What a menu costs goes up and down.
  std::string menu = "Tea" + dots + "4\nCoffee" + dots + "3\nCake" + dots + "6\nPie" + dots +
                     "5\nSoup" + dots + "8\nBread" + dots + "2\n";
  EXPECT_NE(build(menu + body + "\f").find("Pie … 5"), std::string::npos);
  // A document of nothing else keeps it.
  EXPECT_NE(build(contents + "\f").find("Nets … 14"), std::string::npos);
}

TEST(LoadPdf, PagesWithoutTextAreNamed) {
  REQUIRE_PDFTOTEXT();
  std::vector<std::string> full = {
      "A line of text that is surely long enough to count as text of a page."};
  std::vector<std::string> other = {
      "Another text, so that no line repeats on the pages of this file."};
  Document d = load_bytes(
      "x.pdf", text_pdf({full,
                         {},
                         {},
                         other,
                         {"x"},
                         {"And a third one for the last page of it, which is as long."}}));
  EXPECT_EQ(d.status, LoadStatus::kNoText);
  EXPECT_EQ(d.pages_without_text, (std::vector<int>{2, 3, 5}));
  EXPECT_EQ(d.reason, "no text on pages 2-3, 5 of 6");
  EXPECT_FALSE(d.text.empty());
  d = load_bytes("x.pdf", text_pdf({{"One short notice."}}));
  EXPECT_NE(d.reason, "") << "a tiny yield must be said";
  EXPECT_EQ(load_bytes("x.pdf", text_pdf({{}})).status, LoadStatus::kNoText);
}

struct Outcome {
  Document document;
  double seconds;
};
Outcome timed(const std::string& pdf, double parser_seconds = 5) {
  LoadOptions options;
  options.parser_seconds = parser_seconds;
  auto begin = std::chrono::steady_clock::now();
  Outcome out{load_bytes("x.pdf", pdf, options), 0};
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return out;
}

// D1 of the corpus. The parent's memory must not grow with the bomb.
TEST(LoadPdf, FlateBombsStopAtTheLimits) {
  REQUIRE_PDFTOTEXT();
  std::string once = deflate("BT /F 12 Tf (tiny) Tj ET " + std::string(64u << 20, ' '));
  Outcome single = timed(one_page(stream(once, "/Filter/FlateDecode")));
  EXPECT_LT(single.seconds, 12);
  // Deflated twice: a kilobyte that unpacks to a quarter of a gigabyte.
  std::string big = deflate(deflate(std::string(256u << 20, ' ')));
  // Many content streams, each a bomb.
  std::string refs;
  std::map<int, std::string> objects;
  for (int i = 0; i < 200; ++i) {
    objects[10 + i] = stream(big, "/Filter[/FlateDecode/FlateDecode]");
    refs += std::to_string(10 + i) + " 0 R ";
  }
  objects[1] = "<</Type/Catalog/Pages 2 0 R>>";
  objects[2] = "<</Type/Pages/Kids[3 0 R]/Count 1>>";
  objects[3] = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents[" + refs + "]>>";
  std::string bytes = make_pdf(objects);
  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  Outcome bomb = timed(bytes, 3);
  EXPECT_EQ(bomb.document.status, LoadStatus::kLimit) << bomb.document.reason;
  EXPECT_LT(bomb.seconds, 8);
  rusage after{};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 32 << 10) << "KiB in the parent";
}

TEST(LoadPdf, LoopsNestingCutsAndEmptyFiles) {
  REQUIRE_PDFTOTEXT();
  std::map<std::string, std::string> files;
  files["page tree loop"] = make_pdf(
      {{1, "<</Type/Catalog/Pages 2 0 R>>"}, {2, "<</Type/Pages/Kids[2 0 R 2 0 R]/Count 2>>"}});
  files["form calls itself"] = make_pdf(
      {{1, "<</Type/Catalog/Pages 2 0 R>>"},
       {2, "<</Type/Pages/Kids[3 0 R]/Count 1>>"},
       {3,
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Resources<</XObject<</X 5 0 R>>>>/Contents 4 "
        "0 R>>"},
       {4, stream("/X Do")},
       {5, stream("/X Do /X Do",
                  "/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</X 5 0 R>>>>")}});
  files["nested arrays"] = one_page(std::string(200000, '['));
  files["nested dictionaries"] = one_page([] {
    std::string s;
    for (int i = 0; i < 100000; ++i) s += "<</A";
    return s;
  }());
  files["no pages"] =
      make_pdf({{1, "<</Type/Catalog/Pages 2 0 R>>"}, {2, "<</Type/Pages/Kids[]/Count 0>>"}});
  files["million pages claimed"] = make_pdf({{1, "<</Type/Catalog/Pages 2 0 R>>"},
                                             {2, "<</Type/Pages/Kids[3 0 R]/Count 1000000>>"},
                                             {3, "<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"}});
  files["header only"] = "%PDF-1.7\n";
  files["empty"] = "";
  files["encrypted"] =
      make_pdf({{1, "<</Type/Catalog/Pages 2 0 R>>"},
                {2, "<</Type/Pages/Kids[]/Count 0>>"},
                {3,
                 "<</Filter/Standard/V 1/R 2/P "
                 "-44/O(12345678901234567890123456789012)/U(12345678901234567890123456789012)>>"}},
               "/Root 1 0 R/Encrypt 3 0 R/ID[(a)(b)]");
  for (const auto& [name, pdf] : files) {
    Outcome o = timed(pdf, 3);
    EXPECT_NE(o.document.status, LoadStatus::kOk) << name;
    EXPECT_FALSE(o.document.reason.empty()) << name;
    EXPECT_LT(o.seconds, 10) << name;
  }
  EXPECT_EQ(timed(files["encrypted"]).document.status, LoadStatus::kEncrypted)
      << timed(files["encrypted"]).document.reason;
  EXPECT_EQ(timed(files["header only"]).document.status, LoadStatus::kMalformed);
  std::string good =
      text_pdf({{"A line of text that is surely long enough to count as text of a page."}});
  for (size_t cut = 0; cut < good.size(); cut += 37) {
    Document d = load_bytes("x.pdf", good.substr(0, cut));
    EXPECT_TRUE(utf8_valid(d.text)) << cut;
  }
}

TEST(LoadPdf, MissingProgramIsSaid) {
  std::string path = std::getenv("PATH") ? std::getenv("PATH") : "";
  ::setenv("PATH", "/nonexistent", 1);
  Document d = load_bytes("x.pdf", "%PDF-1.4\n");
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(d.status, LoadStatus::kUnsupported);
  EXPECT_NE(d.reason.find("poppler-utils"), std::string::npos);
}

TEST(LoadPdf, CancelStopsTheChild) {
  REQUIRE_PDFTOTEXT();
  CancelFlag cancel;
  cancel.raise();
  LoadOptions options;
  options.cancel = &cancel;
  EXPECT_EQ(load_bytes("x.pdf", text_pdf({{"x"}}), options).status, LoadStatus::kLimit);
}

}  // namespace
}  // namespace apud
