#include "rag/chunker.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace apud {

namespace {

constexpr size_t kMaxPiece = 2048;     // bytes: longer sentences are cut before they are counted
constexpr int kMaxHeadingTokens = 40;  // of the chunk's budget
constexpr size_t kMaxHeadingBytes = 200;
constexpr size_t kMaxPathBytes = 1000;
constexpr int kFewestTokens = 32;
// What an embedder takes and a chunk leaves: a chunk's tokens are the sum over its sentences, which
// differs from the whole's count by a token here and there.
constexpr int kCountSlack = 8;

// A block's sentences, rows or code pieces, as a range of the sentence table.
struct Unit {
  size_t first = 0, count = 0;
  int tokens = 0;
  BlockKind kind = BlockKind::kParagraph;
};

bool continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

std::string clip(std::string text, size_t bytes) {
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  if (text.size() <= bytes) return text;
  size_t cut = bytes;
  while (cut > 0 && continuation(text[cut])) --cut;
  text.resize(cut);
  return text;
}

// Where to cut text[begin, end) so that the piece has at most `bytes`: behind clause punctuation,
// else a space, else between two characters.
size_t cut_point(std::string_view text, size_t begin, size_t end, size_t bytes) {
  size_t limit = begin + bytes;
  if (limit >= end) return end;
  size_t half = begin + bytes / 2, at_space = 0;
  for (size_t i = limit; i > half; --i) {
    char c = text[i - 1];
    if (c == ';' || c == ',' || c == '\n') return i;
    if ((c == ' ' || c == '\t') && at_space == 0) at_space = i;
    // Full-width comma, semicolon, colon and enumeration comma end in these three bytes.
    std::string_view three = i >= 3 ? text.substr(i - 3, 3) : std::string_view{};
    if (three == "，" || three == "；" || three == "、" || three == "：") return i;
  }
  if (at_space != 0) return at_space;
  while (limit > begin + 1 && continuation(text[limit])) --limit;
  return limit;
}

class Chunker {
 public:
  Chunker(const Document& document, const ChunkOptions& options,
          const std::function<int(std::string_view)>& count)
      : document_(document), text_(document.text), options_(options), count_(count) {
    APUD_CHECK(options.max_tokens >= 16 && options.target_tokens <= options.max_tokens,
               "chunk sizes");
  }

  Chunks run() {
    std::vector<int> open;  // enclosing sections by level
    size_t i = 0;
    const auto& blocks = document_.blocks;
    while (i < blocks.size()) {
      Section section;
      section.begin = blocks[i].begin;
      size_t body = i;
      std::string own;
      if (blocks[i].kind == BlockKind::kHeading) {
        own =
            clip(text_.substr(blocks[i].begin, blocks[i].end - blocks[i].begin), kMaxHeadingBytes);
        // A heading may take a quarter of a small budget.
        while (count_(own) >= std::min(kMaxHeadingTokens, options_.max_tokens / 4))
          own = clip(own, own.size() * 3 / 4);
        section.level = std::max(1, blocks[i].level);
        body = i + 1;
      }
      while (!open.empty() &&
             out_.sections[static_cast<size_t>(open.back())].level >= section.level)
        open.pop_back();
      section.parent = open.empty() ? -1 : open.back();
      section.heading = own;
      section.path = own;
      if (section.parent >= 0) {
        const Section& parent = out_.sections[static_cast<size_t>(section.parent)];
        section.path = clip(parent.path.empty() ? own : parent.path + " > " + own, kMaxPathBytes);
      }
      size_t end = body;
      while (end < blocks.size() && blocks[end].kind != BlockKind::kHeading) ++end;
      section.end = end < blocks.size() ? blocks[end].begin : text_.size();
      int index = static_cast<int>(out_.sections.size());
      out_.sections.push_back(section);
      if (section.level > 0) open.push_back(index);
      // A heading with nothing below it is still something to find, unless its subsections carry
      // it.
      bool leaf = end >= blocks.size() || std::max(1, blocks[end].level) <= section.level;
      if (body == end && leaf) {
        chunk_section(index, i, i + 1, "");
      } else if (body < end) {
        chunk_section(index, body, end, section.heading);
      }
      i = end;
    }
    return std::move(out_);
  }

 private:
  int count(size_t begin, size_t end) {
    return count_(std::string_view(text_).substr(begin, end - begin));
  }

  // Adds a sentence; one that is too long for a chunk or for counting is cut further.
  void add_sentence(size_t begin, size_t end, int limit) {
    while (begin < end) {
      size_t cut = cut_point(text_, begin, end, kMaxPiece);
      int tokens = count(begin, cut);
      while (tokens > limit && cut - begin > 1) {
        size_t bytes =
            (cut - begin) * static_cast<size_t>(limit) / static_cast<size_t>(tokens) * 9 / 10;
        size_t shorter = cut_point(text_, begin, end, std::max<size_t>(bytes, 4));
        if (shorter >= cut) break;
        cut = shorter;
        tokens = count(begin, cut);
      }
      out_.sentences.push_back({begin, cut, std::min(tokens, limit)});
      begin = cut;
      while (begin < end && (text_[begin] == ' ' || text_[begin] == '\n')) ++begin;
    }
  }

  Unit add_block(const Block& block, int limit) {
    Unit unit;
    unit.kind = block.kind;
    unit.first = out_.sentences.size();
    std::string_view body = std::string_view(text_).substr(block.begin, block.end - block.begin);
    if (block.kind == BlockKind::kCode) {
      // Groups of lines up to an empty one, or of about 40 lines' length.
      size_t begin = 0;
      for (size_t line = 0; line < body.size();) {
        size_t end = std::min(body.find('\n', line), body.size());
        bool empty =
            body.substr(line, end - line).find_first_not_of(" \t") == std::string_view::npos;
        if ((empty || end - begin > kMaxPiece / 2) && end > begin) {
          add_sentence(block.begin + begin, block.begin + end, limit);
          begin = end + 1;
        }
        line = end + 1;
      }
      if (begin < body.size()) add_sentence(block.begin + begin, block.end, limit);
    } else if (block.kind == BlockKind::kTableRow) {
      add_sentence(block.begin, block.end, limit);
    } else {
      for (const Sentence& s : split_sentences(body))
        add_sentence(block.begin + s.begin, block.begin + s.end, limit);
    }
    unit.count = out_.sentences.size() - unit.first;
    for (size_t k = unit.first; k < out_.sentences.size(); ++k)
      unit.tokens += out_.sentences[k].tokens;
    return unit;
  }

  void emit(int section, size_t first, size_t last, int heading_tokens) {
    if (first >= last) return;
    Chunk chunk;
    chunk.begin = out_.sentences[first].begin;
    chunk.end = out_.sentences[last - 1].end;
    chunk.section = section;
    chunk.first_sentence = first;
    chunk.sentence_count = last - first;
    chunk.tokens = heading_tokens;
    for (size_t k = first; k < last; ++k) chunk.tokens += out_.sentences[k].tokens;
    out_.chunks.push_back(chunk);
  }

  // One section: whole where it fits, else in parts of equal size, cut between blocks where
  // possible.
  void chunk_section(int section, size_t first_block, size_t end_block,
                     const std::string& heading) {
    int heading_tokens = heading.empty() ? 0 : count_(heading) + 1;
    const int limit = options_.max_tokens - heading_tokens;
    std::vector<Unit> units;
    int total = 0;
    size_t first = out_.sentences.size();
    for (size_t b = first_block; b < end_block; ++b) {
      Block block = document_.blocks[b];
      if (block.kind == BlockKind::kHeading) block.kind = BlockKind::kParagraph;
      units.push_back(add_block(block, limit));
      total += units.back().tokens;
    }
    if (total <= limit) {
      emit(section, first, out_.sentences.size(), heading_tokens);
      return;
    }
    const int target = std::max(8, std::min(options_.target_tokens - heading_tokens, limit));
    const int parts = (total + target - 1) / target;
    const int goal = std::min(limit, (total + parts - 1) / parts);
    size_t begin = first;  // of the running chunk
    int running = 0;
    auto flush = [&](size_t end) {
      emit(section, begin, end, heading_tokens);
      begin = end;
      running = 0;
    };
    for (const Unit& unit : units) {
      if (running + unit.tokens <= std::min(limit, goal + goal / 8)) {
        running += unit.tokens;
        continue;
      }
      if (running * 2 >= goal) flush(unit.first);
      if (running + unit.tokens <= limit && unit.tokens <= goal + goal / 8) {
        running += unit.tokens;
        continue;
      }
      // The block itself has to be cut.
      for (size_t k = unit.first; k < unit.first + unit.count; ++k) {
        int tokens = out_.sentences[k].tokens;
        if (running > 0 && (running + tokens > limit || running >= goal)) {
          size_t from = begin;
          flush(k);
          bool prose = unit.kind == BlockKind::kParagraph || unit.kind == BlockKind::kListItem;
          if (prose && k > unit.first) {
            // Repeat whole sentences of this block, as many as the overlap holds.
            while (begin > std::max(from + 1, unit.first) &&
                   running + out_.sentences[begin - 1].tokens <=
                       std::min(options_.overlap_tokens, limit - tokens)) {
              running += out_.sentences[--begin].tokens;
            }
          }
        }
        running += tokens;
      }
    }
    flush(out_.sentences.size());
  }

  const Document& document_;
  const std::string& text_;
  const ChunkOptions& options_;
  const std::function<int(std::string_view)>& count_;
  Chunks out_;
};

}  // namespace

ChunkOptions chunk_options_for(int max_tokens) {
  ChunkOptions options;
  const int most = max_tokens - kCountSlack;
  options.max_tokens = most >= 400 ? 400 : std::max(kFewestTokens, std::min(240, most));
  options.target_tokens = std::min(220, options.max_tokens);
  return options;
}

ChunkOptions chunk_options_for(int max_tokens, int chunk_tokens) {
  const ChunkOptions standard;
  if (chunk_tokens == 0) return chunk_options_for(max_tokens);
  int most = std::max(kFewestTokens, max_tokens - kCountSlack);
  if (chunk_tokens < kFewestTokens || chunk_tokens > most) {
    throw Error(
        ErrorKind::kUsage, "chunks of " + std::to_string(chunk_tokens) + " tokens",
        "this embedder takes chunks of 32 to " + std::to_string(most) + " tokens (setting: chunk)");
  }
  ChunkOptions options;
  options.max_tokens = chunk_tokens;
  options.target_tokens = chunk_tokens * standard.target_tokens / standard.max_tokens;
  options.overlap_tokens = std::min(standard.overlap_tokens, chunk_tokens / 6);
  return options;
}

std::string chunker_settings(const ChunkOptions& options) {
  return "chunker/1 " + std::to_string(options.target_tokens) + " " +
         std::to_string(options.max_tokens) + " " + std::to_string(options.overlap_tokens);
}

Chunks chunk_document(const Document& document, const ChunkOptions& options,
                      const std::function<int(std::string_view)>& count_tokens) {
  return Chunker(document, options, count_tokens).run();
}

std::string embedded_text(const Document& document, const Chunks& chunks, const Chunk& chunk) {
  const std::string& heading = chunks.sections[static_cast<size_t>(chunk.section)].heading;
  std::string body = document.text.substr(chunk.begin, chunk.end - chunk.begin);
  if (heading.empty() || body == heading) return body;
  return heading + "\n" + body;
}

std::vector<std::string> embedded_parts(const Document& document, const Chunks& chunks,
                                        const Chunk& chunk) {
  const std::string& heading = chunks.sections[static_cast<size_t>(chunk.section)].heading;
  std::string_view body =
      std::string_view(document.text).substr(chunk.begin, chunk.end - chunk.begin);
  std::vector<std::string> parts = {body == heading ? "" : heading};
  for (auto [begin, end] : sentence_ranges(body, 0))
    parts.emplace_back(body.substr(begin, end - begin));
  return parts;
}

}  // namespace apud
