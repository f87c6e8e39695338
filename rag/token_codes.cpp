#include "rag/token_codes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/utf8.h"

namespace apud {
namespace {

constexpr size_t kWordBits = 64;
constexpr int kZero = 128;  // of the 8 bits of a question's dimension
constexpr int kMost = 127;
constexpr int kPlanes = 8;
// Of a script's own mean in its centre, the rest the mean of both. With all of it a question finds
// as much in the other language, but code and foreign lines come before prose in its own; with none
// it finds little there. Half has nearly all of both (docs/performance.md, "Retrieval").
constexpr double kOwnShare = 0.5;

// What the centres are measured on: manuals, contracts, accounts, letters, recipes, science,
// stories, tables and code in both languages, so that they lie in the middle of what people write.
// A centre of 1,600 tokens of only two subjects cost .01 to .02 of hit@10; this is as good as one
// of 12,000 tokens of another corpus.
constexpr const char* kCenterTexts[] = {
    "The package is installed with one command, and its configuration file lies in the system "
    "folder. To change the default value, edit the file, save it and restart the service. If the "
    "option is not given, the program reads from standard input and writes to standard output. The "
    "function returns zero on success and a negative error code on failure. Users without "
    "administrator rights cannot mount a disk or open a port below 1024. See the next section for "
    "a list of all parameters and their meaning.",
    "The contract ends on the last day of the month unless one of the parties objects in writing. "
    "Each member pays an annual fee of 40 euros, which is due in January. The tenant must report "
    "any damage to the owner without delay. In the first quarter revenue grew by 12 percent, while "
    "costs stayed nearly the same. The meeting was moved to Tuesday at ten because two colleagues "
    "were ill. Please send the signed form back to us before the end of next week.",
    "The patient was given 20 milligrams twice a day and recovered within a week. Wash the rice, "
    "add twice as much water, and let it simmer for a quarter of an hour. The river flows from the "
    "mountains in the north to the sea, about 300 kilometres away. In 1848 the city had fewer than "
    "ten thousand inhabitants; today there are more than a million. Light travels faster than "
    "sound, so we see the flash before we hear the thunder. The experiment was repeated five "
    "times, and the mean of the results is shown in table 3.",
    "She closed the door, looked out of the window for a while, and said nothing. Children under "
    "six travel free of charge when they are with an adult. The library is open from nine to five, "
    "except on public holidays. Plants need water, light and air; most of them do not survive a "
    "hard frost. Why does the engine stop after a few minutes, and what can be done about it? A "
    "backup should be kept in another place, so that a fire does not destroy both copies. The new "
    "version fixes several errors and is compatible with older files.",
    "for i in range(10): print(i, values[i])\nif (count == 0) return false; // nothing to do\n"
    "| Name | Size | Date |\nChapter 2. Overview of the most important terms\nNote: this step "
    "cannot be undone.",
    "这个软件包用一条命令就可以安装，配置文件位于系统目录中。要修改默认设置，请编辑该文件，保存后重"
    "新启动服务。"
    "如果没有指定这个选项，程序就从标准输入读取数据，并把结果写到标准输出。函数成功时返回零，失败时"
    "返回负的错误代码。"
    "没有管理员权限的用户不能挂载磁盘，也不能使用1024以下的端口。所有参数的含义请参见下一节的列表"
    "。",
    "除非一方书面提出异议，合同在当月最后一天终止。每位会员每年缴纳会费二百元，一月份付清。租户发现"
    "损坏时，应当立即通知房东。"
    "第一季度收入增长了百分之十二，成本基本没有变化。因为两位同事生病，会议改到星期二上午十点举行。"
    "请在下周末之前把签好字的表格寄回来。",
    "病人每天服药两次，每次二十毫克，一周之内就恢复了健康。把米洗净，加两倍的水，用小火煮一刻钟。"
    "这条河从北方的山区流向大海，全长约三百公里。1848年这座城市的人口不到一万，如今已经超过一百万。"
    "光比声音传播得快，所以我们先看到闪电，后听到雷声。实验重复了五次，平均结果见表3。",
    "她关上门，望着窗外，很久没有说话。六岁以下的儿童由大人陪同时可以免费乘车。图书馆的开放时间是九"
    "点到五点，节假日除外。"
    "植物需要水、阳光和空气，大多数都经不起严寒。为什么发动机几分钟以后就停了？应该怎么办？"
    "备份应当放在另一个地方，以免一场火灾把两份都毁掉。新版本修正了若干错误，并且与旧文件兼容。"
    "第二章 重要概念概述\n注意：这一步无法撤销。",
};

void put_u16(std::string& out, uint16_t value) {
  out += static_cast<char>(value & 0xFF);
  out += static_cast<char>(value >> 8);
}

using CountBits = int64_t (*)(const uint64_t* planes, const uint64_t* code, size_t words);

/// Bits that `code` shares with each of the planes, weighed by the plane.
[[gnu::always_inline]] inline int64_t weighed_bits(const uint64_t* planes, const uint64_t* code,
                                                   size_t words) {
  int64_t sum = 0;
  for (int p = 0; p < kPlanes; ++p) {
    int64_t count = 0;
    for (size_t w = 0; w < words; ++w)
      count += __builtin_popcountll(planes[static_cast<size_t>(p) * words + w] & code[w]);
    sum += count << p;
  }
  return sum;
}

int64_t count_portable(const uint64_t* planes, const uint64_t* code, size_t words) {
  return weighed_bits(planes, code, words);
}

#if defined(__x86_64__)
/// The same with the instruction that counts bits.
__attribute__((target("popcnt"))) int64_t count_popcnt(const uint64_t* planes, const uint64_t* code,
                                                       size_t words) {
  return weighed_bits(planes, code, words);
}
#endif

CountBits count_bits() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("popcnt")) return count_popcnt;
#endif
  return count_portable;
}

}  // namespace

TokenCenters TokenCenters::measure(TextEmbedder& embedder) {
  const auto width = static_cast<size_t>(embedder.token_width());
  APUD_CHECK(width > 0, "the embedder has vectors of tokens");
  std::vector<std::vector<std::string>> texts;
  for (const char* text : kCenterTexts) texts.push_back({text});
  std::vector<double> sums(2 * width, 0);
  std::array<size_t, 2> tokens{};
  std::vector<float> vectors(texts.size() * static_cast<size_t>(embedder.dimension()));
  embedder.embed_parts(texts, EmbedKind::kPassage, vectors,
                       [&](size_t i, std::span<const float> rows, std::span<const int>) {
                         const size_t script = holds_cjk(texts[i][0]) ? 1 : 0;
                         for (size_t at = 0; at < rows.size(); ++at)
                           sums[script * width + at % width] += rows[at];
                         tokens[script] += rows.size() / width;
                       });
  TokenCenters centers;
  const auto both = static_cast<double>(std::max<size_t>(1, tokens[0] + tokens[1]));
  for (size_t at = 0; at < sums.size(); ++at) {
    const size_t script = at / width, d = at % width;
    const double own = sums[at] / static_cast<double>(std::max<size_t>(1, tokens[script]));
    const double all = (sums[d] + sums[width + d]) / both;
    centers.values_.push_back(static_cast<float>(kOwnShare * own + (1 - kOwnShare) * all));
  }
  return centers;
}

std::span<const float> TokenCenters::of(std::string_view text) const {
  return std::span(values_).subspan(holds_cjk(text) ? width() : 0, width());
}

TokenCodes TokenCodes::of(const TokenCenters& centers, std::span<const std::string> texts,
                          std::span<const float> rows, std::span<const int> counts) {
  APUD_CHECK(texts.size() == counts.size() && texts.size() <= UINT16_MAX, "tokens of each part");
  const size_t width = centers.width();
  TokenCodes codes;
  codes.words = (width + kWordBits - 1) / kWordBits;
  codes.bits.assign(rows.size() / width * codes.words, 0);
  size_t token = 0;
  for (size_t p = 0; p < texts.size(); ++p) {
    APUD_CHECK(counts[p] >= 0 && counts[p] <= UINT16_MAX, "a part's tokens fit the format");
    codes.parts.push_back(static_cast<uint16_t>(counts[p]));
    const std::span<const float> center = centers.of(texts[p]);
    const size_t end = token + codes.parts.back();
    APUD_CHECK(end * width <= rows.size(), "a row for every token");
    for (; token < end; ++token) {
      for (size_t d = 0; d < width; ++d) {
        if (rows[token * width + d] > center[d])
          codes.bits[token * codes.words + d / kWordBits] |= uint64_t{1} << (d % kWordBits);
      }
    }
  }
  APUD_CHECK(token * width == rows.size(), "a row for every token");
  return codes;
}

std::string TokenCodes::pack() const {
  std::string out;
  out.reserve(2 + parts.size() * 2 + bits.size() * 8);
  put_u16(out, static_cast<uint16_t>(parts.size()));
  for (uint16_t count : parts) put_u16(out, count);
  for (uint64_t word : bits) {
    for (int byte = 0; byte < 8; ++byte) out += static_cast<char>(word >> (8 * byte) & 0xFF);
  }
  return out;
}

std::optional<TokenCodes> TokenCodes::unpack(std::string_view bytes, size_t width) {
  auto u16 = [&](size_t at) {
    return static_cast<uint16_t>(static_cast<unsigned char>(bytes[at]) |
                                 static_cast<unsigned char>(bytes[at + 1]) << 8);
  };
  if (bytes.size() < 2) return {};
  TokenCodes codes;
  codes.words = (width + kWordBits - 1) / kWordBits;
  const size_t count = u16(0);
  size_t at = 2, tokens = 0;
  if (bytes.size() < at + 2 * count) return {};
  for (size_t p = 0; p < count; ++p, at += 2) {
    codes.parts.push_back(u16(at));
    tokens += codes.parts.back();
  }
  if (bytes.size() != at + tokens * codes.words * 8) return {};
  codes.bits.resize(tokens * codes.words);
  for (uint64_t& word : codes.bits) {
    for (int byte = 0; byte < 8; ++byte, ++at)
      word |= uint64_t{static_cast<unsigned char>(bytes[at])} << (8 * byte);
  }
  return codes;
}

TokenQuestion::TokenQuestion(std::span<const float> center, std::span<const float> rows)
    : words_((center.size() + kWordBits - 1) / kWordBits) {
  const size_t width = center.size();
  for (size_t at = 0; at + width <= rows.size(); at += width) {
    double norm = 0;
    float most = 0;
    for (size_t d = 0; d < width; ++d) {
      const float x = rows[at + d] - center[d];
      norm += double{x} * x;
      most = std::max(most, std::abs(x));
    }
    if (most == 0) continue;  // the centre itself: near nothing
    Token& token = tokens_.emplace_back();
    token.planes.assign(kPlanes * words_, 0);
    token.scale = static_cast<float>(most / kMost / std::sqrt(norm * static_cast<double>(width)));
    for (size_t d = 0; d < width; ++d) {
      const int value = static_cast<int>(std::lround((rows[at + d] - center[d]) / most * kMost));
      token.sum += value;
      for (int p = 0; p < kPlanes; ++p) {
        if (((value + kZero) >> p & 1) != 0)
          token.planes[static_cast<size_t>(p) * words_ + d / kWordBits] |= uint64_t{1}
                                                                           << (d % kWordBits);
      }
    }
  }
}

TokenMatch TokenQuestion::match(const TokenCodes& codes) const {
  APUD_CHECK(codes.words == words_, "codes of the same embedder");
  static const CountBits count = count_bits();
  TokenMatch match;
  match.all = -1;
  match.parts.assign(codes.parts.size(), kUnread);
  const size_t rows = codes.bits.size() / std::max<size_t>(1, words_);
  if (tokens_.empty() || rows == 0) return match;
  // With u = value + 128 and a set bit for +1: the sum of value x sign is twice the sum of u - 128
  // over the set bits, less the sum of all values.
  std::vector<int64_t> above(rows);  // 128 x set bits
  for (size_t r = 0; r < rows; ++r) {
    int64_t set = 0;
    for (size_t w = 0; w < words_; ++w) set += std::popcount(codes.bits[r * words_ + w]);
    above[r] = kZero * set;
  }
  std::vector<double> sums(codes.parts.size(), 0);
  double all = 0;
  for (const Token& token : tokens_) {
    float best_of_all = -1;
    size_t row = 0;
    for (size_t p = 0; p < codes.parts.size(); ++p) {
      float best = -1;
      for (size_t end = row + codes.parts[p]; row < end; ++row) {
        const int64_t product =
            2 * (count(token.planes.data(), codes.bits.data() + row * words_, words_) -
                 above[row]) -
            token.sum;
        best = std::max(best, static_cast<float>(product) * token.scale);
      }
      sums[p] += best;
      best_of_all = std::max(best_of_all, best);
    }
    all += best_of_all;
  }
  const auto n = static_cast<double>(tokens_.size());
  match.all = static_cast<float>(all / n);
  for (size_t p = 0; p < sums.size(); ++p) {
    if (codes.parts[p] > 0) match.parts[p] = static_cast<float>(sums[p] / n);
  }
  return match;
}

}  // namespace apud
