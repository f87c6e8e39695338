#include "base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>
#ifdef APUD_XXH_DISPATCH
#include <xxh_x86dispatch.h>  // makes the names below choose among SSE2, AVX2 and AVX-512
#endif

#include "base/check.h"
#include "base/file.h"

namespace apud {

namespace {
std::string hex(const unsigned char* bytes, size_t size) {
  static const char* digits = "0123456789abcdef";
  std::string out;
  out.reserve(size * 2);
  for (size_t i = 0; i < size; ++i) {
    out += digits[bytes[i] >> 4];
    out += digits[bytes[i] & 15];
  }
  return out;
}
}  // namespace

struct Sha256::Impl {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Impl() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  APUD_CHECK(impl_->context && EVP_DigestInit_ex(impl_->context, EVP_sha256(), nullptr) == 1,
             "libcrypto has SHA-256");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> data) {
  APUD_CHECK(EVP_DigestUpdate(impl_->context, data.data(), data.size()) == 1, "digest update");
}
void Sha256::update(std::string_view text) { update(std::as_bytes(std::span(text))); }

std::string Sha256::finish_hex() {
  unsigned char digest[32];
  unsigned size = sizeof digest;
  APUD_CHECK(EVP_DigestFinal_ex(impl_->context, digest, &size) == 1, "digest final");
  return hex(digest, size);
}

std::string sha256_hex(std::string_view data) {
  Sha256 sha;
  sha.update(data);
  return sha.finish_hex();
}

std::string sha256_file_hex(const std::filesystem::path& path) {
  Sha256 sha;
  FileReader reader(path);
  std::string buffer(1 << 20, '\0');
  while (size_t n = reader.read(buffer.data(), buffer.size())) {
    sha.update(std::string_view(buffer.data(), n));
  }
  return sha.finish_hex();
}

uint64_t xxh3_64(const void* data, size_t size, uint64_t seed) {
  return XXH3_64bits_withSeed(data, size, seed);
}

struct Xxh3::Impl {
  XXH3_state_t* state = XXH3_createState();
  ~Impl() { XXH3_freeState(state); }
};
Xxh3::Xxh3(uint64_t seed) : impl_(std::make_unique<Impl>()) {
  if (!impl_->state) throw std::bad_alloc();
  XXH3_64bits_reset_withSeed(impl_->state, seed);
}
Xxh3::~Xxh3() = default;
void Xxh3::update(std::span<const std::byte> data) {
  XXH3_64bits_update(impl_->state, data.data(), data.size());
}
uint64_t Xxh3::finish() const { return XXH3_64bits_digest(impl_->state); }

std::string xxh3_128_hex(std::string_view data) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(data.data(), data.size()));
  return hex(canonical.digest, sizeof canonical.digest);
}

}  // namespace apud
