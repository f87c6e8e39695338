// Zip archives for tests, made in memory.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <string>
#include <utility>
#include <vector>

namespace apud::test {

using ZipFiles = std::vector<std::pair<std::string, std::string>>;

/// A zip of `files` in order; a name ending in '@' becomes a symbolic link to its content.
inline std::string make_zip(const ZipFiles& files, bool compress = true) {
  std::string out;
  archive* writer = archive_write_new();
  archive_write_set_format_zip(writer);
  archive_write_set_options(writer, compress ? "zip:compression=deflate" : "zip:compression=store");
  archive_write_open2(
      writer, &out, nullptr,
      [](archive*, void* data, const void* bytes, size_t size) -> la_ssize_t {
        static_cast<std::string*>(data)->append(static_cast<const char*>(bytes), size);
        return static_cast<la_ssize_t>(size);
      },
      nullptr, nullptr);
  archive_write_set_bytes_in_last_block(writer, 1);
  for (const auto& [name, content] : files) {
    archive_entry* entry = archive_entry_new();
    bool link = !name.empty() && name.back() == '@';
    std::string path = link ? name.substr(0, name.size() - 1) : name;
    archive_entry_set_pathname(entry, path.c_str());
    archive_entry_set_filetype(entry, link ? AE_IFLNK : AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, static_cast<la_int64_t>(link ? 0 : content.size()));
    if (link) archive_entry_set_symlink(entry, content.c_str());
    archive_write_header(writer, entry);
    if (!link) archive_write_data(writer, content.data(), content.size());
    archive_entry_free(entry);
  }
  archive_write_close(writer);
  archive_write_free(writer);
  return out;
}

/// `data` in zlib's format (RFC 1950), as PDF's FlateDecode takes it; the checksum is left zero.
inline std::string deflate(const std::string& data) {
  std::string gzip;
  archive* writer = archive_write_new();
  archive_write_set_format_raw(writer);
  archive_write_add_filter_gzip(writer);
  archive_write_open2(
      writer, &gzip, nullptr,
      [](archive*, void* out, const void* bytes, size_t size) -> la_ssize_t {
        static_cast<std::string*>(out)->append(static_cast<const char*>(bytes), size);
        return static_cast<la_ssize_t>(size);
      },
      nullptr, nullptr);
  archive_write_set_bytes_in_last_block(writer, 1);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_write_header(writer, entry);
  archive_write_data(writer, data.data(), data.size());
  archive_entry_free(entry);
  archive_write_close(writer);
  archive_write_free(writer);
  // gzip: 10 bytes of header, raw deflate, 8 bytes of trailer.
  return "\x78\xDA" + gzip.substr(10, gzip.size() - 18) + std::string(4, '\0');
}

}  // namespace apud::test
