// Cuts a document into chunks: ranges of its text, by structure first (sections, blocks), then at
// sentences, sized in the embedder's own tokens. Also the sentence splitter that packing uses.
//
// Sizes: ~220 tokens did best with small embedders at equal packing budgets, and the nearest
// heading in front of the embedded text helps while the whole path hurts (project's measurements);
// so a chunk names both, for the embedder and for the keyword column.
//
// Threads: free functions, re-entrant.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rag/document.h"

namespace apud {

struct ChunkOptions {
  int target_tokens =
      220;               // what a cut aims at; larger: fewer vectors, more unrelated text in each
  int max_tokens = 240;  // heading and text; never exceeded
  int overlap_tokens = 40;  // repeated where a cut falls inside a paragraph
};

/// Defaults for an embedder that takes texts of `max_tokens` tokens (TextEmbedder::max_tokens()):
/// at most 400 where it takes as many, else 240 or what it takes.
ChunkOptions chunk_options_for(int max_tokens);
/// For chunks of at most `chunk_tokens` tokens, the rest in proportion; 0: the defaults. Throws
/// kUsage where the embedder cannot take as many, or for fewer than 32.
ChunkOptions chunk_options_for(int max_tokens, int chunk_tokens);
/// The settings in one line, stored with a collection ("chunker/1 220 240 40").
std::string chunker_settings(const ChunkOptions& options);

/// A heading with what stands under it, up to the next heading.
struct Section {
  size_t begin = 0;  // of the heading, or of the text where there is none
  size_t end = 0;
  int level = 0;        // 0: text before the first heading
  int parent = -1;      // index of the enclosing section, -1: none
  std::string heading;  // own or nearest enclosing
  std::string path;     // "Book > Chapter > Section"
};

/// A sentence, table row or line group of code.
struct Sentence {
  size_t begin = 0;
  size_t end = 0;
  int tokens = 0;
};

struct Chunk {
  size_t begin = 0;  // range of the document's text, without the heading
  size_t end = 0;
  int section = 0;            // index into Chunks::sections
  int tokens = 0;             // of heading and text, the sum over sentences
  size_t first_sentence = 0;  // into Chunks::sentences; chunks that overlap share sentences
  size_t sentence_count = 0;
};

struct Chunks {
  std::vector<Section> sections;
  std::vector<Sentence> sentences;
  std::vector<Chunk> chunks;
};

/// `count_tokens` gives the tokens of a text of at most 2 KiB; it is called once for each sentence
/// and heading. Time is linear in the text.
Chunks chunk_document(const Document& document, const ChunkOptions& options,
                      const std::function<int(std::string_view)>& count_tokens);

/// What the embedder sees of a chunk: nearest heading, newline, text.
std::string embedded_text(const Document& document, const Chunks& chunks, const Chunk& chunk);
/// The same in parts: the heading (empty: none), then each of sentence_ranges() of the chunk's
/// text.
std::vector<std::string> embedded_parts(const Document& document, const Chunks& chunks,
                                        const Chunk& chunk);

/// Ranges of the sentences of `text`, relative to it, in order, white space around them left out.
/// English and Chinese punctuation; a newline ends one before a list marker and after a short line.
std::vector<Sentence> split_sentences(std::string_view text);
/// The same as ranges [begin, end) moved by `base`, with over-long ones (lists and tables gone
/// wrong) cut at spaces: what packing chooses from.
std::vector<std::pair<size_t, size_t>> sentence_ranges(std::string_view text, size_t base);

}  // namespace apud
