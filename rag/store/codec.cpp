// How texts, anchors and vectors lie in blobs (docs/formats.md).
#include <zstd.h>

#include <memory>

#include "base/check.h"
#include "rag/store/impl.h"

namespace apud::sqlite {
namespace {

constexpr uint64_t kMaxText = 1ull << 31;  // bytes; loaders stop far below

[[noreturn]] void damaged(const std::string& what) {
  throw Error(ErrorKind::kBadData, what + " is damaged in the store",
              "run apud doctor; apud doc rm and ingest the file again");
}

void put_varint(std::string& out, uint64_t value) {
  while (value >= 128) {
    out += static_cast<char>(value | 128);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

uint64_t take_varint(std::string_view& in, const std::string& what) {
  uint64_t value = 0;
  for (int shift = 0; shift < 63; shift += 7) {
    if (in.empty()) damaged(what);
    unsigned char byte = static_cast<unsigned char>(in.front());
    in.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
  damaged(what);
}

}  // namespace

std::string compress(std::string_view text) {
  std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  APUD_CHECK(context, "zstd context");
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, 3);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  size_t size = ZSTD_compress2(context.get(), out.data(), out.size(), text.data(), text.size());
  APUD_CHECK(!ZSTD_isError(size), "zstd compression into a buffer of the bound's size");
  out.resize(size);
  return out;
}

std::string decompress(std::span<const std::byte> data, const std::string& what) {
  unsigned long long size = ZSTD_getFrameContentSize(data.data(), data.size());
  if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size > kMaxText)
    damaged(what);
  std::string out(size, '\0');
  size_t got = ZSTD_decompress(out.data(), out.size(), data.data(), data.size());
  if (ZSTD_isError(got) || got != size) damaged(what);
  return out;
}

// count, then per anchor: offset, line and page as differences (line zigzag: members restart it),
// and the member only where it changes.
std::string pack_anchors(const std::vector<Anchor>& anchors) {
  std::string out;
  put_varint(out, anchors.size());
  Anchor last;
  auto zigzag = [](int64_t v) {
    return static_cast<uint64_t>(v) << 1 ^ static_cast<uint64_t>(v >> 63);
  };
  for (const Anchor& a : anchors) {
    put_varint(out, a.offset - last.offset);
    put_varint(out, zigzag(a.line - last.line));
    put_varint(out, zigzag(a.page - last.page));
    bool same = a.member == last.member;
    put_varint(out, same ? 0 : a.member.size() + 1);
    if (!same) out += a.member;
    last = a;
  }
  return out;
}

std::vector<Anchor> unpack_anchors(std::string_view in, const std::string& what) {
  uint64_t count = take_varint(in, what);
  if (count > in.size() / 4) damaged(what);  // an anchor takes at least four bytes
  std::vector<Anchor> anchors;
  anchors.reserve(count);
  Anchor last;
  auto unzigzag = [](uint64_t v) {
    return static_cast<int64_t>(v >> 1) ^ -static_cast<int64_t>(v & 1);
  };
  for (uint64_t i = 0; i < count; ++i) {
    last.offset += take_varint(in, what);
    last.line += static_cast<int>(unzigzag(take_varint(in, what)));
    last.page += static_cast<int>(unzigzag(take_varint(in, what)));
    uint64_t member = take_varint(in, what);
    if (member > 0) {
      if (member - 1 > in.size()) damaged(what);
      last.member = std::string(in.substr(0, member - 1));
      in.remove_prefix(member - 1);
    }
    anchors.push_back(last);
  }
  return anchors;
}

}  // namespace apud::sqlite
