// XLSX: sheets in order, each row with its column names; dates as dates. Source: ECMA-376 part 1,
// SpreadsheetML.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "rag/loaders/archive.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/rows.h"

namespace apud {

namespace {

constexpr const char* kXlsxLoader = loader_version("xlsx");
constexpr size_t kMaxColumns = 4096;

void all_text(const pugi::xml_node& node, std::string& out) {
  for (const pugi::xml_node& child : node.children()) {
    std::string_view name = local_name(child.name());
    if (name == "t") {
      out += child.text().get();
    } else if (name != "rPh") {  // phonetic guide
      all_text(child, out);
    }
  }
}

int number_of(std::string_view text) {
  int value = -1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

enum class Shown : uint8_t { kNumber, kDate, kPercent };

// What the cells' styles make of a number: built-in formats 14-22 and 45-47 show dates and times,
// as own formats with a year, month or day outside of quotes and brackets do; 9, 10 and own ones
// with a percent sign show hundredths.
std::vector<Shown> cell_styles(const std::string* xml) {
  std::vector<Shown> out;
  pugi::xml_document document;
  std::string ignored;
  if (!parse_xml(xml, document, ignored)) return out;
  std::map<int, Shown> formats = {{9, Shown::kPercent}, {10, Shown::kPercent}};
  for (int i = 14; i <= 22; ++i) formats[i] = Shown::kDate;
  for (const pugi::xml_node& format :
       local_child(document.document_element(), "numFmts").children()) {
    bool quoted = false, date = false, percent = false;
    for (char c : local_attribute(format, "formatCode")) {
      if (c == '"' || c == '[' || c == ']') quoted = c == '"' ? !quoted : c == '[';
      if (quoted) continue;
      date |= std::string_view("ydhYDH").find(c) != std::string_view::npos;
      percent |= c == '%';
    }
    formats[number_of(local_attribute(format, "numFmtId"))] = date      ? Shown::kDate
                                                              : percent ? Shown::kPercent
                                                                        : Shown::kNumber;
  }
  for (const pugi::xml_node& xf : local_child(document.document_element(), "cellXfs").children()) {
    auto known = formats.find(number_of(local_attribute(xf, "numFmtId")));
    out.push_back(known == formats.end() ? Shown::kNumber : known->second);
  }
  return out;
}

// A sheet holds 38.3 as 38.299999999999997: fifteen digits, all that it ever shows, say what was
// meant. Percentages are held as hundredths.
std::string shown_number(const std::string& stored, bool percent) {
  double value = 0;
  auto result = std::from_chars(stored.data(), stored.data() + stored.size(), value);
  if (result.ec != std::errc{} || result.ptr != stored.data() + stored.size()) return stored;
  size_t digits = 0;
  for (char c : stored) digits += c >= '0' && c <= '9';
  if (!percent && digits <= 15) return stored;
  char text[64];
  std::snprintf(text, sizeof text, "%.15g", percent ? value * 100 : value);
  return std::string(text) + (percent ? "%" : "");
}

// Serial day number (1900 system) as ISO date. Source: days-to-civil, H. Hinnant,
// "chrono-compatible low-level date algorithms".
std::string iso_date(const std::string& serial) {
  double value = 0;
  auto result = std::from_chars(serial.data(), serial.data() + serial.size(), value);
  if (result.ec != std::errc{} || !(value >= 0) || value > 2958465) return serial;
  if (value < 1) {  // a time of day
    int minutes = static_cast<int>(std::lround(value * 1440)) % 1440;
    char text[32];
    std::snprintf(text, sizeof text, "%02d:%02d", minutes / 60, minutes % 60);
    return text;
  }
  long days = static_cast<long>(std::floor(value)) - 25569 + 719468;
  long era = days / 146097, doe = days - era * 146097;
  long yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
  long doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
  long day = doy - (153 * mp + 2) / 5 + 1, month = mp < 10 ? mp + 3 : mp - 9;
  long year = yoe + era * 400 + (month <= 2 ? 1 : 0);
  char text[96];
  int seconds = static_cast<int>(std::lround((value - std::floor(value)) * 86400));
  if (seconds == 0) {
    std::snprintf(text, sizeof text, "%04ld-%02ld-%02ld", year, month, day);
  } else {
    std::snprintf(text, sizeof text, "%04ld-%02ld-%02ld %02d:%02d", year, month, day,
                  seconds / 3600 % 24, seconds / 60 % 60);
  }
  return text;
}

// "BC12" → 54 (0-based), or `fallback`.
size_t column_of(std::string_view reference, size_t fallback) {
  size_t column = 0, i = 0;
  for (; i < reference.size() && i < 4 && reference[i] >= 'A' && reference[i] <= 'Z'; ++i) {
    column = column * 26 + static_cast<size_t>(reference[i] - 'A' + 1);
  }
  return i == 0 ? fallback : column - 1;
}

}  // namespace

Document load_xlsx(std::string_view bytes, const LoadOptions& options) {
  Parts parts = read_parts(
      bytes,
      [](std::string_view name) {
        bool sheet =
            name.rfind("xl/worksheets/", 0) == 0 && name.find("/_rels/") == std::string_view::npos;
        return sheet || name == "xl/workbook.xml" || name == "xl/_rels/workbook.xml.rels" ||
               name == "xl/sharedStrings.xml" || name == "xl/styles.xml";
      },
      options);
  if (parts.status != LoadStatus::kOk)
    return skipped_document(kXlsxLoader, parts.status, parts.reason);
  pugi::xml_document workbook;
  std::string reason;
  if (!parse_xml(parts.find("xl/workbook.xml"), workbook, reason)) {
    return skipped_document(kXlsxLoader, LoadStatus::kMalformed, "xl/workbook.xml: " + reason);
  }
  std::vector<std::string> strings;
  {
    pugi::xml_document shared;
    if (parse_xml(parts.find("xl/sharedStrings.xml"), shared, reason)) {
      for (const pugi::xml_node& item : shared.document_element().children()) {
        strings.emplace_back();
        all_text(item, strings.back());
      }
    }
  }
  std::vector<Shown> styles = cell_styles(parts.find("xl/styles.xml"));
  auto targets = relationships(parts.find("xl/_rels/workbook.xml.rels"), "xl/");
  DocumentBuilder builder(kXlsxLoader);
  int broken = 0;
  for (const pugi::xml_node& entry :
       local_child(workbook.document_element(), "sheets").children()) {
    std::string_view state = local_attribute(entry, "state");
    if (state == "hidden" || state == "veryHidden") {
      builder.hidden(1);
      continue;
    }
    auto target = targets.find(std::string_view(entry.attribute("r:id").value()));
    pugi::xml_document sheet;
    if (target == targets.end() || !parse_xml(parts.find(target->second), sheet, reason)) {
      ++broken;
      continue;
    }
    std::string name(local_attribute(entry, "name"));
    builder.place(0, 0, name);
    builder.heading(1, name);
    RowWriter rows(builder);
    int line = 0;
    for (const pugi::xml_node& row :
         local_child(sheet.document_element(), "sheetData").children()) {
      int stated = number_of(local_attribute(row, "r"));
      line = stated > 0 ? stated : line + 1;
      std::vector<std::string> cells;
      for (const pugi::xml_node& cell : row.children()) {
        size_t column = column_of(local_attribute(cell, "r"), cells.size());
        if (column >= kMaxColumns) continue;
        if (cells.size() <= column) cells.resize(column + 1);
        std::string_view type = local_attribute(cell, "t");
        std::string value = local_child(cell, "v").text().get();
        int style = number_of(local_attribute(cell, "s"));
        if (type == "s") {
          int index = number_of(value);
          value = index >= 0 && static_cast<size_t>(index) < strings.size()
                      ? strings[static_cast<size_t>(index)]
                      : "";
        } else if (type == "inlineStr") {
          value.clear();
          all_text(cell, value);
        } else if (type == "b") {
          value = value == "1" ? "true" : "false";
        } else if (type.empty() || type == "n") {
          size_t known = static_cast<size_t>(std::max(0, style));
          Shown shown = known < styles.size() ? styles[known] : Shown::kNumber;
          value = shown == Shown::kDate ? iso_date(value)
                                        : shown_number(value, shown == Shown::kPercent);
        }
        cells[column] = std::move(value);
      }
      rows.row(cells, {0, line, 0, name});
    }
  }
  Document document = builder.finish();
  if (broken > 0)
    document.reason +=
        (document.reason.empty() ? "" : "; ") + std::to_string(broken) + " sheets not readable";
  return document;
}

}  // namespace apud
