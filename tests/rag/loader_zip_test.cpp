#include <gtest/gtest.h>

#include <chrono>

#include "base/utf8.h"
#include "rag/loader.h"
#include "tests/support/zip.h"

namespace apud {
namespace {

using test::make_zip;
using test::ZipFiles;

std::string block_text(const Document& d, size_t i) {
  return d.text.substr(d.blocks[i].begin, d.blocks[i].end - d.blocks[i].begin);
}
std::vector<std::string> blocks(const Document& d) {
  std::vector<std::string> out;
  for (size_t i = 0; i < d.blocks.size(); ++i) {
    out.push_back((d.blocks[i].kind == BlockKind::kHeading
                       ? std::string(static_cast<size_t>(d.blocks[i].level), '#') + " "
                       : "") +
                  block_text(d, i));
  }
  return out;
}
using Strings = std::vector<std::string>;

std::string word(const std::string& body) {
  return "<?xml version='1.0'?><w:document xmlns:w='w'><w:body>" + body + "</w:body></w:document>";
}
std::string run(const std::string& text) {
  return "<w:r><w:t xml:space='preserve'>" + text + "</w:t></w:r>";
}
std::string para(const std::string& text, const std::string& style = "") {
  return "<w:p>" + (style.empty() ? "" : "<w:pPr><w:pStyle w:val='" + style + "'/></w:pPr>") +
         run(text) + "</w:p>";
}

TEST(LoadDocx, HeadingsListsTablesPages) {
  std::string styles =
      "<w:styles xmlns:w='w'><w:style w:styleId='berschrift1'><w:name w:val='heading 1'/></w:style>"
      "<w:style w:styleId='Own'><w:name w:val='Mine'/><w:pPr><w:outlineLvl "
      "w:val='1'/></w:pPr></w:style></w:styles>";
  std::string body = para("Titel", "berschrift1") + para("First &amp; para.") + para("Sub", "Own") +
                     "<w:p><w:pPr><w:numPr/></w:pPr>" + run("item") +
                     "</w:p>"
                     "<w:p>" +
                     run("shown") +
                     "<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>"
                     "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:ins>" +
                     run(" added") +
                     "</w:ins></w:p>"
                     "<w:tbl><w:tr><w:tc>" +
                     para("a") + "</w:tc><w:tc>" + para("b") +
                     "</w:tc></w:tr>"
                     "<w:tr><w:tc>" +
                     para("1") + "</w:tc><w:tc>" + para("2") +
                     "</w:tc></w:tr></w:tbl>"
                     "<w:p><w:r><w:lastRenderedPageBreak/><w:t>On page two</w:t></w:r></w:p>";
  Document d = load_bytes(
      "x.docx",
      make_zip({{"word/document.xml", word(body)},
                {"word/styles.xml", styles},
                {"word/footnotes.xml", "<w:footnotes xmlns:w='w'><w:footnote>" + para("A note.") +
                                           "</w:footnote></w:footnotes>"}}));
  EXPECT_EQ(blocks(d), (Strings{"# Titel", "First & para.", "## Sub", "- item", "shown added",
                                "a | b", "1 | 2", "On page two", "A note."}))
      << d.reason;
  EXPECT_EQ(d.hidden_removed, 1);
  EXPECT_EQ(anchor_at(d, d.blocks[7].begin).page, 2);
}

TEST(LoadDocx, ListsAndContentsByTheirStyles) {
  std::string styles =
      "<w:styles xmlns:w='w'><w:style w:styleId='L'><w:name w:val='List Number'/></w:style>"
      "<w:style w:styleId='P'><w:name w:val='Own'/><w:pPr><w:numPr/></w:pPr></w:style>"
      "<w:style w:styleId='V1'><w:name w:val='toc 1'/></w:style></w:styles>";
  Document d = load_bytes(
      "x.docx", make_zip({{"word/document.xml", word(para("Boats 1", "V1") + para("one", "L") +
                                                     para("two", "P") + para("plain"))},
                          {"word/styles.xml", styles}}));
  EXPECT_EQ(blocks(d), (Strings{"- one", "- two", "plain"})) << d.reason;
}

TEST(LoadDocx, RowsOfTablesCarryTheirColumns) {
  auto cell = [](const std::string& text, const std::string& properties = "") {
    return "<w:tc><w:tcPr>" + properties + "</w:tcPr>" + para(text) + "</w:tc>";
  };
  auto row = [](const std::string& cells) { return "<w:tr>" + cells + "</w:tr>"; };
  std::string fleet =
      "<w:tbl>" + row(cell("Fleet", "<w:gridSpan w:val='3'/>")) +
      row(cell("Vessel") + cell("Built") + cell("Cars")) +
      row(cell("MV Heron", "<w:vMerge w:val='restart'/>") + cell("1998") + cell("48")) +
      row(cell("", "<w:vMerge/>") + cell("rebuilt 2011") + cell("52")) + "</w:tbl>";
  // Two columns are as often a form.
  std::string form = "<w:tbl>" + row(cell("Name") + cell("Ingrid")) +
                     row(cell("Town") + cell("Lund")) + "</w:tbl>";
  Document d = load_bytes(
      "x.docx",
      make_zip({{"word/document.xml", word(fleet + form)},
                {"word/endnotes.xml", "<w:endnotes xmlns:w='w'><w:endnote>" + para("At the end.") +
                                          "</w:endnote></w:endnotes>"}}));
  EXPECT_EQ(blocks(d),
            (Strings{"Fleet", "Vessel | Built | Cars", "Vessel: MV Heron; Built: 1998; Cars: 48",
                     "Vessel: MV Heron; Built: rebuilt 2011; Cars: 52", "Name | Ingrid",
                     "Town | Lund", "At the end."}))
      << d.reason;
}

TEST(LoadXlsx, RowsCarryTheirColumns) {
  ZipFiles files = {
      {"xl/workbook.xml",
       "<workbook xmlns:r='r'><sheets><sheet name='Prices' r:id='rId1'/><sheet name='Ghost' "
       "state='hidden' r:id='rId2'/></sheets></workbook>"},
      {"xl/_rels/workbook.xml.rels",
       "<Relationships><Relationship Id='rId1' Target='worksheets/sheet1.xml'/><Relationship "
       "Id='rId2' Target='/xl/worksheets/sheet2.xml'/></Relationships>"},
      {"xl/sharedStrings.xml",
       "<sst><si><t>Fruit</t></si><si><r><t>Pri</t></r><r><t>ce</t></r></si><si><t>Since</t></"
       "si><si><t>苹果</t></si></sst>"},
      {"xl/styles.xml",
       "<styleSheet><cellXfs><xf numFmtId='0'/><xf numFmtId='14'/></cellXfs></styleSheet>"},
      {"xl/worksheets/sheet1.xml",
       "<worksheet><sheetData><row r='2'><c r='A2' t='s'><v>0</v></c><c r='B2' "
       "t='s'><v>1</v></c><c r='C2' t='s'><v>2</v></c></row>"
       "<row r='5'><c r='A5' t='s'><v>3</v></c><c r='C5' s='1'><v>45292</v></c></row>"
       "<row r='6'><c r='A6' t='inlineStr'><is><t>pear</t></is></c><c "
       "r='B6'><v>1.5</v></c></row></sheetData></worksheet>"},
      {"xl/worksheets/sheet2.xml",
       "<worksheet><sheetData><row><c><v>1</v></c></row></sheetData></worksheet>"}};
  Document d = load_bytes("x.xlsx", make_zip(files));
  EXPECT_EQ(blocks(d), (Strings{"# Prices", "Fruit | Price | Since",
                                "Fruit: 苹果; Since: 2024-01-01", "Fruit: pear; Price: 1.5"}))
      << d.reason;
  Anchor a = anchor_at(d, d.blocks[2].begin);
  EXPECT_EQ(a.line, 5);
  EXPECT_EQ(a.member, "Prices");
  EXPECT_EQ(d.hidden_removed, 1);
}

// A sheet with these rows of cells, in the styles General, 0.0% and hh:mm.
Strings sheet_rows(const std::string& rows) {
  ZipFiles files = {
      {"xl/workbook.xml",
       "<workbook xmlns:r='r'><sheets><sheet name='S' r:id='rId1'/></sheets></workbook>"},
      {"xl/_rels/workbook.xml.rels",
       "<R><Relationship Id='rId1' Target='worksheets/sheet1.xml'/></R>"},
      {"xl/styles.xml",
       "<styleSheet><numFmts><numFmt numFmtId='170' formatCode='0.0%'/><numFmt numFmtId='171' "
       "formatCode='hh:mm'/></numFmts><cellXfs><xf numFmtId='0'/><xf numFmtId='170'/><xf "
       "numFmtId='171'/></cellXfs></styleSheet>"},
      {"xl/worksheets/sheet1.xml", "<worksheet><sheetData>" + rows + "</sheetData></worksheet>"}};
  Strings all = blocks(load_bytes("x.xlsx", make_zip(files)));
  all.erase(all.begin());  // the sheet's name
  return all;
}
std::string sheet_text(const std::string& text) {
  return "<c t='inlineStr'><is><t>" + text + "</t></is></c>";
}

TEST(LoadXlsx, NumbersAsTheSheetShowsThem) {
  EXPECT_EQ(
      sheet_rows("<row><c><v>38.299999999999997</v></c><c><v>0.1</v></c>"
                 "<c s='1'><v>6.2E-2</v></c><c s='2'><v>0.78125</v></c><c><v>1234567890123456789"
                 "</v></c><c><v>12</v></c></row>"),
      (Strings{"38.3 | 0.1 | 6.2% | 18:45 | 1.23456789012346e+18 | 12"}));
}

TEST(LoadXlsx, NamesOfColumnsMayStandUnderATitleAndBesideYears) {
  EXPECT_EQ(sheet_rows("<row>" + sheet_text("Ferries 2025") + "</row><row>" + sheet_text("Vessel") +
                       sheet_text("") + sheet_text("Cars") + "</row><row>" + sheet_text("Heron") +
                       sheet_text("x") + "<c><v>48</v></c></row>"),
            (Strings{"Ferries 2025", "Vessel | | Cars", "Vessel: Heron; x; Cars: 48"}));
  EXPECT_EQ(sheet_rows("<row>" + sheet_text("Vessel") +
                       "<c><v>2024</v></c><c><v>2025</v></c>"
                       "</row><row>" +
                       sheet_text("Heron") + "<c><v>48</v></c><c><v>52</v></c></row>"),
            (Strings{"Vessel | 2024 | 2025", "Vessel: Heron; 2024: 48; 2025: 52"}));
  // Data, not names.
  EXPECT_EQ(sheet_rows("<row>" + sheet_text("Heron") +
                       "<c><v>48</v></c><c><v>2025</v></c></row>"
                       "<row>" +
                       sheet_text("Tern") + "<c><v>22</v></c><c><v>2007</v></c></row>"),
            (Strings{"Heron | 48 | 2025", "Tern | 22 | 2007"}));
}

TEST(LoadPptx, NotesAndTablesBelongToTheirSlide) {
  auto text = [](const std::string& s) { return "<a:p><a:r><a:t>" + s + "</a:t></a:r></a:p>"; };
  auto cell = [&](const std::string& s) {
    return "<a:tc><a:txBody>" + text(s) + "</a:txBody></a:tc>";
  };
  auto page = [](const std::string& tree) {
    return "<p:sld xmlns:p='p' xmlns:a='a'><p:cSld><p:spTree>" + tree +
           "</p:spTree></p:cSld></p:sld>";
  };
  auto shape = [&](const std::string& type, const std::string& s) {
    return "<p:sp><p:nvSpPr><p:nvPr><p:ph type='" + type + "'/></p:nvPr></p:nvSpPr><p:txBody>" +
           text(s) + "</p:txBody></p:sp>";
  };
  Document d = load_bytes(
      "x.pptx",
      make_zip(
          {{"ppt/presentation.xml",
            "<p:presentation xmlns:p='p' xmlns:r='r'><p:sldIdLst><p:sldId r:id='r1'/>"
            "</p:sldIdLst></p:presentation>"},
           {"ppt/_rels/presentation.xml.rels", "<R><x Id='r1' Target='slides/slide7.xml'/></R>"},
           {"ppt/slides/slide7.xml",
            page(shape("title", "Budget") + "<p:graphicFrame><a:tbl><a:tr>" + cell("Item") +
                 cell("Euros") + cell("Share") + "</a:tr><a:tr>" + cell("Hull") + cell("5,200") +
                 cell("47 %") + "</a:tr></a:tbl></p:graphicFrame>")},
           {"ppt/slides/_rels/slide7.xml.rels",
            "<R><x Id='n' Target='../notesSlides/notesSlide2.xml'/></R>"},
           {"ppt/notesSlides/notesSlide2.xml",
            page(shape("sldNum", "7") + shape("body", "The yard wants 10 % first."))}}));
  EXPECT_EQ(blocks(d),
            (Strings{"# Budget", "Item | Euros | Share", "Item: Hull; Euros: 5,200; Share: 47 %",
                     "The yard wants 10 % first."}))
      << d.reason;
  EXPECT_EQ(anchor_at(d, d.blocks[2].begin).page, 1);
  EXPECT_EQ(anchor_at(d, d.blocks[3].begin).page, 1);
}

TEST(LoadPptx, SlidesInOrder) {
  auto slide = [](const std::string& title, const std::string& text) {
    return "<p:sld xmlns:p='p' xmlns:a='a'><p:cSld><p:spTree><p:sp><p:txBody><a:p><a:r><a:t>" +
           text +
           "</a:t></a:r></a:p></p:txBody></p:sp><p:sp><p:nvSpPr><p:nvPr><p:ph "
           "type='title'/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>" +
           title + "</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>";
  };
  Document d = load_bytes(
      "x.pptx",
      make_zip({{"ppt/presentation.xml",
                 "<p:presentation xmlns:p='p' xmlns:r='r'><p:sldIdLst><p:sldId id='256' "
                 "r:id='r2'/><p:sldId id='257' r:id='r1'/></p:sldIdLst></p:presentation>"},
                {"ppt/_rels/presentation.xml.rels",
                 "<R><x Id='r1' Target='slides/slide1.xml'/><x Id='r2' "
                 "Target='slides/slide2.xml'/></R>"},
                {"ppt/slides/slide1.xml", slide("Last", "two")},
                {"ppt/slides/slide2.xml", slide("First", "one")}}));
  EXPECT_EQ(blocks(d), (Strings{"# First", "one", "# Last", "two"})) << d.reason;
  EXPECT_EQ(anchor_at(d, d.blocks[2].begin).page, 2);
}

TEST(LoadOdf, TextAndSheets) {
  Document d = load_bytes(
      "x.odt",
      make_zip(
          {{"mimetype", "application/vnd.oasis.opendocument.text"},
           {"content.xml",
            "<office:document-content xmlns:office='o' xmlns:text='t' "
            "xmlns:table='b'><office:body><office:text><text:h text:outline-level='2'>Head</text:h>"
            "<text:p>Some<text:s "
            "text:c='2'/>text<text:note>n</text:note></"
            "text:p><text:list><text:list-item><text:p>item</text:p></text:list-item></text:list>"
            "<table:table><table:table-row><table:table-cell><text:p>a</text:p></"
            "table:table-cell><table:table-cell "
            "table:number-columns-repeated='2'><text:p>b</text:p></table:table-cell></"
            "table:table-row></table:table>"
            "</office:text></office:body></office:document-content>"}},
          false));
  EXPECT_EQ(blocks(d), (Strings{"## Head", "Some  text", "- item", "a | b | b"})) << d.reason;
}

ZipFiles book() {
  return {
      {"mimetype", "application/epub+zip"},
      {"META-INF/container.xml",
       "<container><rootfiles><rootfile full-path='OEBPS/p.opf'/></rootfiles></container>"},
      {"OEBPS/p.opf",
       "<package xmlns:dc='d'><metadata><dc:title>The Book</dc:title></metadata><manifest>"
       "<item id='b' href='two%20x.xhtml' media-type='application/xhtml+xml'/><item id='a' "
       "href='../one.xhtml' media-type='application/xhtml+xml'/>"
       "<item id='n' properties='nav' href='nav.xhtml' "
       "media-type='application/xhtml+xml'/></manifest>"
       "<spine><itemref idref='n'/><itemref idref='a'/><itemref idref='b'/></spine></package>"},
      {"OEBPS/two x.xhtml",
       "<?xml version='1.0'?><!DOCTYPE html><html><body><h1><a id='x'/>Two</h1><p>Second "
       "<i>chapter</i>.</p></body></html>"},
      {"one.xhtml",
       "<?xml version='1.0'?><html><body><h1>One</h1><script/><p>First chapter.</p></body></html>"},
      {"OEBPS/nav.xhtml", "<html><body><p>NAVIGATION</p></body></html>"}};
}

TEST(LoadEpub, SpineOrder) {
  Document d = load_bytes("x.epub", make_zip(book()));
  EXPECT_EQ(d.title, "The Book") << d.reason;
  EXPECT_EQ(blocks(d), (Strings{"# One", "First chapter.", "# Two", "Second chapter."}));
  EXPECT_EQ(anchor_at(d, d.blocks[2].begin).member, "OEBPS/two x.xhtml");
  ZipFiles locked = book();
  locked.push_back({"META-INF/encryption.xml",
                    "<e><EncryptedData><CipherData><CipherReference "
                    "URI='one.xhtml'/></CipherData></EncryptedData></e>"});
  EXPECT_EQ(load_bytes("x.epub", make_zip(locked)).status, LoadStatus::kEncrypted);
}

// D2 and D3 of the corpus: hostile archives and XML.
TEST(LoadZip, HostileNamesAndEntries) {
  std::string good = word(para("kept"));
  // Names that point elsewhere are other parts: never read, never written.
  Document d = load_bytes("x.docx", make_zip({{"../word/document.xml", "x"},
                                              {"/word/document.xml", "x"},
                                              {"C:\\word\\document.xml", "x"},
                                              {"word/document.xml", good}}));
  EXPECT_EQ(d.text, "kept") << d.reason;
  // libarchive reads a backslash as a separator: the same part twice.
  EXPECT_EQ(
      load_bytes("x.docx", make_zip({{"word\\document.xml", "x"}, {"word/document.xml", good}}))
          .status,
      LoadStatus::kMalformed);
  EXPECT_EQ(load_bytes("x.docx", make_zip({{"../word/document.xml", good}})).status,
            LoadStatus::kMalformed);
  EXPECT_EQ(load_bytes("x.docx", make_zip({{"word/document.xml@", "/etc/passwd"}})).status,
            LoadStatus::kMalformed);
  EXPECT_EQ(load_bytes("x.docx", make_zip({{"word/document.xml", good},
                                           {"word/document.xml", word(para("other"))}}))
                .status,
            LoadStatus::kMalformed);
  EXPECT_EQ(
      load_bytes("x.docx", make_zip({{"inner.docx", make_zip({{"word/document.xml", good}})}}))
          .status,
      LoadStatus::kMalformed);
  EXPECT_EQ(load_bytes("x.zip", make_zip({{"a.txt", "x"}})).status, LoadStatus::kUnsupported);
  EXPECT_EQ(load_bytes("x.docx", "").status, LoadStatus::kMalformed);
  ZipFiles many;
  for (int i = 0; i < 70000; ++i) many.push_back({"e" + std::to_string(i), ""});
  many.push_back({"word/document.xml", good});
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(load_bytes("x.docx", make_zip(many, false)).status, LoadStatus::kLimit);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(LoadZip, BombsAndLies) {
  std::string bomb = make_zip({{"word/document.xml", std::string(300u << 20, ' ')}});
  auto begin = std::chrono::steady_clock::now();
  Document d = load_bytes("x.docx", bomb);
  EXPECT_EQ(d.status, LoadStatus::kLimit) << d.reason;
  EXPECT_NE(d.reason.find("unpacks to more than"), std::string::npos);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  // Every byte of a small archive damaged, and every truncation: never a crash, and text only when
  // it is the right one.
  std::string good =
      make_zip({{"word/document.xml", word(para("the right text of this document"))}});
  int accepted = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    for (unsigned char flip : {0x01, 0x80, 0xFF}) {
      std::string bad = good;
      bad[i] = static_cast<char>(static_cast<unsigned char>(bad[i]) ^ flip);
      Document b = load_bytes("x.docx", bad);
      if (b.status != LoadStatus::kOk) continue;
      ++accepted;
      EXPECT_EQ(b.text, "the right text of this document") << "byte " << i;
    }
    EXPECT_TRUE(load_bytes("x.docx", good.substr(0, i)).skipped()) << "cut at " << i;
  }
  EXPECT_LT(accepted, static_cast<int>(good.size()));
  // The encryption bit in both headers.
  std::string locked = good;
  locked[6] = static_cast<char>(locked[6] | 1);
  size_t central = locked.find("PK\x01\x02");
  locked[central + 8] = static_cast<char>(locked[central + 8] | 1);
  EXPECT_EQ(load_bytes("x.docx", locked).status, LoadStatus::kEncrypted);
}

TEST(LoadZip, HostileXml) {
  auto docx = [](const std::string& xml) {
    return load_bytes("x.docx", make_zip({{"word/document.xml", xml}}));
  };
  EXPECT_EQ(
      docx("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>" + word(para("&x;"))).status,
      LoadStatus::kMalformed);
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "<w:p>";
  EXPECT_EQ(docx(word(deep)).status, LoadStatus::kMalformed);
  EXPECT_NE(docx(word(deep)).reason.find("deeper"), std::string::npos);
  EXPECT_EQ(docx(word(para("&undefined; &#0; &#x110000; ok"))).skipped(), false);
  EXPECT_EQ(docx("<w:document>").status, LoadStatus::kMalformed);
  EXPECT_EQ(docx("").status, LoadStatus::kMalformed);
  EXPECT_EQ(docx(word("")).status, LoadStatus::kEmpty);
  EXPECT_TRUE(utf8_valid(docx(word(para("\xFF\xFE bad \xED\xA0\x80"))).text));
}

}  // namespace
}  // namespace apud
