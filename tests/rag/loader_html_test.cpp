#include <gtest/gtest.h>

#include <chrono>
#include <ctime>

#include "base/utf8.h"
#include "rag/loader.h"
#include "rag/loaders/html.h"

namespace apud {
namespace {

std::string block_text(const Document& d, size_t i) {
  return d.text.substr(d.blocks[i].begin, d.blocks[i].end - d.blocks[i].begin);
}

std::string repeat(std::string_view unit, size_t bytes) {
  std::string out;
  while (out.size() < bytes) out += unit;
  return out;
}

TEST(LoadHtml, StructureAndLines) {
  Document d = load_bytes(
      "x.html",
      "<!DOCTYPE html><html><head><title> The\n title </title><style>p{}</style></head>\n<body>"
      "<nav>menu menu</nav><div class='sidebar'>side</div>\n<main><h1>Top<a class=headerlink "
      "href=#x>#</a></h1>\n"
      "<p>First <b>bold</b>\n  text &amp; more.</p>\n<ul><li>one</li><li><p>two</p></li></ul>\n"
      "<pre>code\n  here</pre>\n<table><tr><th>a<th>b</tr><tr><td>1<td><p>2</p></tr></table>\n"
      "<script>evil()</script><p hidden>ghost</p><p style='display: none'>ghost</p>"
      "<p style='opacity:0.9'>seen</p><!-- comment "
      "--><h2>Sub</h2>tail</main><footer>foot</footer></body>");
  EXPECT_EQ(d.title, "The title");
  struct Expected {
    BlockKind kind;
    const char* text;
    int line;
  };
  const Expected expected[] = {
      {BlockKind::kHeading, "Top", 4},       {BlockKind::kParagraph, "First bold text & more.", 5},
      {BlockKind::kListItem, "- one", 7},    {BlockKind::kListItem, "- two", 7},
      {BlockKind::kCode, "code\n  here", 8}, {BlockKind::kTableRow, "a | b", 10},
      {BlockKind::kTableRow, "1 | 2", 10},   {BlockKind::kParagraph, "seen", 11},
      {BlockKind::kHeading, "Sub", 11},      {BlockKind::kParagraph, "tail", 11},
  };
  ASSERT_EQ(d.blocks.size(), std::size(expected)) << d.text;
  for (size_t i = 0; i < std::size(expected); ++i) {
    EXPECT_EQ(block_text(d, i), expected[i].text);
    EXPECT_EQ(d.blocks[i].kind, expected[i].kind) << i;
    EXPECT_EQ(anchor_at(d, d.blocks[i].begin).line, expected[i].line) << expected[i].text;
  }
  EXPECT_EQ(d.hidden_removed, 2);
  EXPECT_FALSE(d.structure_lost);
}

// Menus leave, boxes of the text stay: books set notes, tips and whole explanations into asides.
TEST(LoadHtml, AsidesOfTextStayAndMenusLeave) {
  std::string box =
      "A hard link is a second name of a file. It takes no room of its own, and the "
      "file stays until its last name is gone, which surprises many.";
  std::string menu;
  for (int i = 0; i < 40; ++i) menu += "<li><a href='#'>Chapter " + std::to_string(i) + "</a></li>";
  for (std::string open : {"<aside>", "<div class='sidebar note'>", "<div class=related>"}) {
    std::string close = open[1] == 'a' ? "</aside>" : "</div>";
    Document d = load_bytes("x.html", "<body><p>Before.</p>" + open + "<p><b>NOTE</b></p><p>" +
                                          box + "</p>" + close + "<p>After.</p>" + open + "<ul>" +
                                          menu + "</ul>" + close + "</body>");
    EXPECT_NE(d.text.find(box), std::string::npos) << open << d.text;
    EXPECT_EQ(d.text.find("Chapter 7"), std::string::npos) << open << d.text;
    EXPECT_NE(d.text.find("After."), std::string::npos);
  }
}

// The titles of the pages before and after this one would find this one.
TEST(LoadHtml, LinksCalledNavigationLeaveAndTextAroundThemStays) {
  const std::string links =
      "<li><a href='a'>Before: setting up a mirror</a></li><li><a href='b'>Up</a></li>"
      "<li><a href='c'>Next: repairing a boot loader</a></li>";
  for (const char* name : {"docnav", "docnav top", "navbar", "page nav-links"}) {
    Document d = load_bytes(
        "x.html", "<body class=has-nav><p>Text.</p><ul class='" + std::string(name) + "'>" + links +
                      "</ul><div class='nav-wrap'><p>Words that nobody clicks, " +
                      "<a href='d'>a link</a>.</p></div></body>");
    EXPECT_EQ(d.text.find("mirror"), std::string::npos) << name << ": " << d.text;
    EXPECT_NE(d.text.find("Text."), std::string::npos) << name;
    EXPECT_NE(d.text.find("nobody clicks, a link."), std::string::npos) << name << ": " << d.text;
  }
  // A page of links says that it has navigation; it stays.
  Document index = load_bytes("x.html", "<body class='has-nav'><ul>" + links + "</ul></body>");
  EXPECT_NE(index.text.find("boot loader"), std::string::npos) << index.text;
}

TEST(LoadHtml, Charsets) {
  const char* body = "</head><body><p>\xD6\xD0\xCE\xC4\xC4\xDA\xC8\xDD</p>";
  EXPECT_EQ(load_bytes("x.html", std::string("<html><head><meta charset=gb2312>") + body).text,
            "中文内容");
  EXPECT_EQ(
      load_bytes(
          "x.html",
          std::string(
              "<html><head><meta http-equiv='Content-Type' content='text/html; charset=GBK'>") +
              body)
          .text,
      "中文内容");
  // A wrong label does not break UTF-8, an unknown one is ignored.
  EXPECT_EQ(load_bytes("x.html", "<meta charset=iso-8859-1><p>中文内容</p>").text, "中文内容");
  EXPECT_EQ(load_bytes("x.html", "<meta charset=no-such-thing><p>caf\xE9 cr\xE8me</p>").text,
            "café crème");
  EXPECT_EQ(load_bytes("x.html", "<meta charset=utf-16><p>plain</p>").text, "plain");
  EXPECT_EQ(load_bytes("x.html", "<meta charset=shift_jis><p>\x93\xFA\x96\x7B</p>").text, "日本");
  EXPECT_EQ(load_bytes("noext", "  <!doctype HTML><p>sniffed</p>").loader, "html/3");
}

// D4 of the corpus. The pre-scan keeps deep nesting away from gumbo, which is quadratic on it.
TEST(LoadHtml, DeepNestingLosesStructureInLinearTime) {
  for (const char* unit : {"<div>", "<b>", "<span><i>", "<table><tr><td>", "<blockquote>",
                           "<a href=x>", "<ul><li>", "<font size=1>"}) {
    const std::clock_t begin = std::clock();  // of this process: what runs beside it does not count
    Document d = load_bytes("x.html", repeat(unit, 1u << 20) + "words that stay");
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 0.5) << unit;
    EXPECT_TRUE(d.structure_lost) << unit;
    EXPECT_EQ(d.text, "words that stay") << unit;
    EXPECT_NE(d.reason.find("structure lost"), std::string::npos);
  }
  EXPECT_TRUE(html_within_limits(repeat("<div><p>x</div>", 1u << 20)));
  EXPECT_TRUE(html_within_limits(repeat("<p>para<li>item<br>", 1u << 20)));
  // An end tag that closes nothing must not hide the depth.
  EXPECT_FALSE(html_within_limits(repeat("<div></b>", 1u << 16)));
  EXPECT_FALSE(html_within_limits("<p " + repeat("a=1 ", 1u << 12) + ">"));
}

// Whatever gets through the pre-scan ends at the child's limits, with the text.
/// Pages in turn in one child: the one that is too large for its memory loses its structure, those
/// before and behind it keep theirs.
TEST(LoadHtml, APageBeyondTheMemoryLimitCostsOnlyItself) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "address sanitizer needs the address space";
#endif
  LoadOptions options;
  options.parser_memory = 400u << 20;
  std::vector<std::string> pages = {"<h1>One</h1>", repeat("<i>x</i>", 12u << 20),
                                    "<h1>Three</h1>"};
  std::vector<HtmlPage> parsed = parse_html(pages, options);
  ASSERT_EQ(parsed.size(), 3u);
  EXPECT_TRUE(parsed[1].structure_lost);
  EXPECT_NE(parsed[1].failure.find("memory limit"), std::string::npos) << parsed[1].failure;
  for (size_t i : {0u, 2u}) {
    EXPECT_FALSE(parsed[i].structure_lost) << parsed[i].failure;
    ASSERT_EQ(parsed[i].blocks.size(), 1u);
    EXPECT_EQ(parsed[i].blocks[0].kind, BlockKind::kHeading);
  }
}

TEST(LoadHtml, HostileMarkupEnds) {
  LoadOptions options;
  options.parser_seconds = 2;
  for (const std::string& html :
       {"<p a='" + std::string(4u << 20, 'x'), std::string(1u << 20, '<'), repeat("</", 1u << 20),
        repeat("<!--", 1u << 20), repeat("<script>", 1u << 20), repeat("<x></y>", 1u << 20),
        repeat("&#x", 1u << 20), repeat("<div><b></div>", 1u << 19),
        repeat("<table><b></table>", 1u << 19), repeat("<form><div></form>", 1u << 18),
        repeat("<svg><desc>", 1u << 18),
        "<img src='data:image/png;base64," + std::string(8u << 20, 'A') + "'>kept",
        repeat("<option><select>", 1u << 18)}) {
    auto begin = std::chrono::steady_clock::now();
    Document d = load_bytes("x.html", html, options);
    EXPECT_TRUE(utf8_valid(d.text));
    double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    EXPECT_LT(seconds, 8) << html.substr(0, 20);
  }
  Document d = load_bytes(
      "x.html", "<img src='data:image/png;base64," + std::string(1u << 20, 'A') + "'>kept");
  EXPECT_EQ(d.text, "kept");
}

}  // namespace
}  // namespace apud
