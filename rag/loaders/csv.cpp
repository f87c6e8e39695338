// CSV and TSV (RFC 4180 with any of four delimiters), each record a row with its column names.
#include <algorithm>
#include <array>

#include "rag/loaders/encoding.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/rows.h"

namespace apud {

namespace {

constexpr const char* kCsvLoader = loader_version("csv");
constexpr size_t kMaxCells = 4096;

// The delimiter that divides the first lines into the same number of cells most often.
char guess_delimiter(std::string_view text) {
  char best = ',';
  double best_score = 0;
  for (char candidate : {',', '\t', ';', '|'}) {
    std::vector<int> counts(1, 0);
    bool quoted = false;
    for (size_t i = 0; i < text.size() && i < 65536 && counts.size() <= 20; ++i) {
      if (text[i] == '"') quoted = !quoted;
      if (quoted) continue;
      if (text[i] == candidate) ++counts.back();
      if (text[i] == '\n') counts.push_back(0);
    }
    if (counts.size() > 1) counts.pop_back();
    int first = counts[0];
    if (first == 0) continue;
    double same = static_cast<double>(std::count(counts.begin(), counts.end(), first)) /
                  static_cast<double>(counts.size());
    double score = same * 100 + std::min(first, 50);
    if (score > best_score) {
      best_score = score;
      best = candidate;
    }
  }
  return best;
}

}  // namespace

Document load_csv(std::string_view bytes, std::string_view extension) {
  DecodedText decoded = decode_text(bytes);
  if (decoded.binary) return skipped_document(kCsvLoader, LoadStatus::kBinary, "binary content");
  std::string_view text = decoded.clean.text;
  const char delimiter = extension == "tsv" || extension == "tab" ? '\t' : guess_delimiter(text);
  DocumentBuilder builder(kCsvLoader);
  builder.hidden(decoded.clean.hidden);
  RowWriter rows(builder);
  std::vector<std::string> cells;
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    int row_line = line;
    cells.clear();
    for (bool more = true; more && i <= text.size();) {
      std::string cell;
      if (i < text.size() && text[i] == '"') {
        for (++i; i < text.size(); ++i) {
          if (text[i] == '"') {
            if (i + 1 < text.size() && text[i + 1] == '"') {
              ++i;
            } else {
              ++i;
              break;
            }
          }
          line += text[i] == '\n';
          cell += text[i];
        }
      }
      size_t end = i;
      while (end < text.size() && text[end] != delimiter && text[end] != '\n') ++end;
      cell.append(text.substr(i, end - i));
      if (cells.size() < kMaxCells) cells.push_back(std::move(cell));
      more = end < text.size() && text[end] == delimiter;
      if (end < text.size() && text[end] == '\n') ++line;
      i = end + 1;
    }
    rows.row(cells, {0, row_line, 0, {}});
  }
  Document document = builder.finish();
  document.replaced = decoded.clean.replaced;
  finish_document(document);
  return document;
}

}  // namespace apud
