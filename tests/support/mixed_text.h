// Deterministic test text: English, Chinese and other scripts, code, emoji, control characters and
// random bytes. scripts/make-tokenizer-golden holds the same generator in Python: change both.
#pragma once

#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/utf8.h"

namespace apud::test {

class MixedText {
 public:
  static constexpr size_t kBlock = 65536;

  explicit MixedText(const Path& seed_file) : seed_(read_file(seed_file)) {
    for (size_t begin = 0; begin < seed_.size();) {
      size_t end = seed_.find('\n', begin);
      lines_.push_back(seed_.substr(begin, end + 1 - begin));
      begin = end + 1;
    }
  }

  /// Block `index` as raw bytes (with ill-formed UTF-8), exactly kBlock of them.
  std::string raw(uint64_t index) {
    state_ = (index + 1) * 0x9E3779B97F4A7C15ull;
    std::string out;
    while (out.size() < kBlock) add_some(out);
    out.resize(kBlock);
    return out;
  }
  /// The same with every ill-formed subpart replaced by U+FFFD, as a reference sees it.
  std::string block(uint64_t index) { return utf8_repair(raw(index)); }

 private:
  uint64_t next() {  // xorshift64*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545F4914F6CDD1Dull) >> 33;
  }

  void add_some(std::string& out) {
    static constexpr uint32_t kRanges[][2] = {
        {0x4E00, 0x9FFF},   {0x4E00, 0x5FFF},    {0x3040, 0x30FF}, {0xAC00, 0xD7A3},
        {0x1F300, 0x1FAFF}, {0x2600, 0x27BF},    {0xC0, 0x24F},    {0x400, 0x52F},
        {0x590, 0x6FF},     {0x900, 0xDFF},      {0x300, 0x36F},   {0x1E00, 0x1FFF},
        {0x2000, 0x206F},   {0xFF00, 0xFFEF},    {0xA0, 0xD7FF},   {0xE000, 0xFFFF},
        {0x10000, 0x1FFFF}, {0x10000, 0x10FFFF}, {0x1100, 0x11FF}, {0x80, 0xFF}};
    static constexpr const char* kRepeats[] = {
        "a",  " ",    "\n", "=",        "-", "0", "\xE4\xB8\xAD", "\t", "!", "\xF0\x9F\x99\x82",
        "ab", "\r\n", "x",  "e\xCC\x81"};
    static constexpr const char* kSpaces[] = {" ",        "\n",           "\t",           "\r\n",
                                              "\xC2\xA0", "\xE3\x80\x80", "  ",           "\x0B",
                                              "\x0C",     "\xC2\x85",     "\xE2\x80\xA8", "\r"};
    switch (next() % 14) {
      case 0:
      case 1:
      case 2:
      case 3:
        out += lines_[next() % lines_.size()];
        break;
      case 4: {
        size_t at = next() % seed_.size();
        out += seed_.substr(at, next() % 200);
        break;
      }
      case 5:
      case 6: {
        const uint32_t* range = kRanges[next() % std::size(kRanges)];
        for (uint64_t n = next() % 20; n > 0; --n) {
          utf8_append(out, static_cast<char32_t>(range[0] + next() % (range[1] - range[0] + 1)));
        }
        break;
      }
      case 7:
        for (uint64_t n = next() % 32; n > 0; --n) out += static_cast<char>(next() % 256);
        break;
      case 8: {
        const char* text = kRepeats[next() % std::size(kRepeats)];
        for (uint64_t n = next() % 300; n > 0; --n) out += text;
        break;
      }
      case 9:
        for (uint64_t n = next() % 8; n > 0; --n) out += kSpaces[next() % std::size(kSpaces)];
        break;
      case 10:
        for (uint64_t n = next() % 12; n > 0; --n) out += static_cast<char>('0' + next() % 10);
        break;
      case 11:
        for (uint64_t n = next() % 8; n > 0; --n) out += static_cast<char>(next() % 32);
        break;
      case 12:
        for (uint64_t n = next() % 40; n > 0; --n) out += static_cast<char>(32 + next() % 95);
        break;
      case 13:
        for (uint64_t n = next() % 12; n > 0; --n) {
          for (uint64_t m = 1 + next() % 9; m > 0; --m) out += static_cast<char>('a' + next() % 26);
          out += ' ';
        }
        break;
    }
  }

  std::string seed_;
  std::vector<std::string> lines_;
  uint64_t state_ = 0;
};

}  // namespace apud::test
