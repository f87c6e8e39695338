#include "rag/loaders/archive.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/utf8.h"

namespace apud {

namespace {

constexpr size_t kMaxEntries = 65536;
constexpr uint64_t kMaxTotal = 256ull << 20;
constexpr uint64_t kMaxRatio = 200;
constexpr uint64_t kAlwaysAllowed = 1u << 20;
constexpr int kMaxXmlDepth = 256;

Parts failed(LoadStatus status, std::string reason) {
  Parts parts;
  parts.status = status;
  parts.reason = std::move(reason);
  return parts;
}

// Depth of the elements and presence of declarations, in one pass before anything is built.
bool xml_within_limits(std::string_view xml, std::string& reason) {
  int depth = 0;
  for (size_t i = 0; (i = xml.find('<', i)) != std::string_view::npos;) {
    if (xml.compare(i, 4, "<!--") == 0) {
      i = xml.find("-->", i + 4);
      if (i == std::string_view::npos) break;
      continue;
    }
    if (xml.compare(i, 9, "<![CDATA[") == 0) {
      i = xml.find("]]>", i + 9);
      if (i == std::string_view::npos) break;
      continue;
    }
    if (i + 1 < xml.size() && xml[i + 1] == '!') {
      reason = "XML with a document type declaration";
      return false;
    }
    // End of the tag; quoted values may hold '>'.
    size_t end = i + 1;
    while (end < xml.size() && xml[end] != '>') {
      if (xml[end] == '"' || xml[end] == '\'') {
        end = xml.find(xml[end], end + 1);
        if (end == std::string_view::npos) end = xml.size() - 1;
      }
      ++end;
    }
    bool closing = i + 1 < xml.size() && xml[i + 1] == '/';
    bool empty = end > i && xml[end - 1] == '/';
    bool declaration = i + 1 < xml.size() && xml[i + 1] == '?';
    if (closing) {
      --depth;
    } else if (!empty && !declaration && ++depth > kMaxXmlDepth) {
      reason = "XML nested deeper than " + std::to_string(kMaxXmlDepth);
      return false;
    }
    i = end;
  }
  return true;
}

}  // namespace

Parts read_parts(std::string_view bytes, const std::function<bool(std::string_view)>& wanted,
                 const LoadOptions& options) {
  std::unique_ptr<archive, int (*)(archive*)> reader(archive_read_new(), archive_read_free);
  archive_read_support_format_zip_seekable(reader.get());
  auto message = [&] {
    const char* text = archive_error_string(reader.get());
    return printable(utf8_repair(text ? text : "damaged zip"), true);
  };
  if (archive_read_open_memory(reader.get(), bytes.data(), bytes.size()) != ARCHIVE_OK) {
    return failed(LoadStatus::kMalformed, message());
  }
  Parts parts;
  uint64_t total = 0;
  const uint64_t allowed = std::min(kMaxTotal, std::max(kAlwaysAllowed, bytes.size() * kMaxRatio));
  std::vector<char> buffer(1u << 16);
  archive_entry* entry = nullptr;
  for (size_t count = 0;; ++count) {
    int status = archive_read_next_header(reader.get(), &entry);
    if (status == ARCHIVE_EOF) return parts;
    if (status < ARCHIVE_WARN) return failed(LoadStatus::kMalformed, message());
    if (count >= kMaxEntries) {
      return failed(LoadStatus::kLimit,
                    "zip with more than " + std::to_string(kMaxEntries) + " entries");
    }
    if (options.cancel && options.cancel->raised()) return failed(LoadStatus::kLimit, "cancelled");
    const char* raw = archive_entry_pathname(entry);
    std::string name = raw ? raw : "";
    if (archive_entry_filetype(entry) != AE_IFREG || !wanted(name)) continue;
    if (archive_entry_is_encrypted(entry))
      return failed(LoadStatus::kEncrypted, "encrypted: " + printable(name, true));
    if (parts.files.count(name))
      return failed(LoadStatus::kMalformed, "two parts named " + printable(name, true));
    std::string content;
    for (;;) {
      la_ssize_t n = archive_read_data(reader.get(), buffer.data(), buffer.size());
      if (n == 0) break;
      if (n < 0) return failed(LoadStatus::kMalformed, printable(name, true) + ": " + message());
      total += static_cast<uint64_t>(n);
      if (total > allowed) {
        return failed(LoadStatus::kLimit, "unpacks to more than " + std::to_string(allowed) +
                                              " bytes from " + std::to_string(bytes.size()));
      }
      content.append(buffer.data(), static_cast<size_t>(n));
    }
    parts.files.emplace(std::move(name), std::move(content));
  }
}

bool parse_xml(const std::string* xml, pugi::xml_document& out, std::string& reason) {
  if (!xml) {
    reason = "a part is missing";
    return false;
  }
  if (!xml_within_limits(*xml, reason)) return false;
  pugi::xml_parse_result result =
      out.load_buffer(xml->data(), xml->size(), pugi::parse_default | pugi::parse_ws_pcdata);
  if (result) return true;
  reason =
      std::string("XML: ") + result.description() + " at byte " + std::to_string(result.offset);
  return false;
}

std::string_view local_name(const char* name) {
  std::string_view text(name);
  size_t colon = text.find(':');
  return colon == std::string_view::npos ? text : text.substr(colon + 1);
}

std::string_view local_attribute(const pugi::xml_node& node, std::string_view name) {
  for (const pugi::xml_attribute& a : node.attributes()) {
    if (local_name(a.name()) == name) return a.value();
  }
  return {};
}

pugi::xml_node local_child(const pugi::xml_node& node, std::string_view name) {
  for (const pugi::xml_node& child : node.children()) {
    if (local_name(child.name()) == name) return child;
  }
  return {};
}

std::string resolve_name(std::string_view folder, std::string_view target) {
  target = target.substr(0, target.find('#'));
  std::string decoded;
  for (size_t i = 0; i < target.size(); ++i) {
    auto hex = [](char c) {
      return c >= '0' && c <= '9'                 ? c - '0'
             : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                  : -1;
    };
    if (target[i] == '%' && i + 2 < target.size() && hex(target[i + 1]) >= 0 &&
        hex(target[i + 2]) >= 0) {
      decoded += static_cast<char>(hex(target[i + 1]) * 16 + hex(target[i + 2]));
      i += 2;
    } else {
      decoded += target[i];
    }
  }
  std::string joined =
      !decoded.empty() && decoded[0] == '/' ? decoded.substr(1) : std::string(folder) + decoded;
  std::vector<std::string> segments;
  for (size_t begin = 0; begin <= joined.size();) {
    size_t end = std::min(joined.find('/', begin), joined.size());
    std::string segment = joined.substr(begin, end - begin);
    if (segment == "..") {
      if (!segments.empty()) segments.pop_back();
    } else if (!segment.empty() && segment != ".") {
      segments.push_back(std::move(segment));
    }
    begin = end + 1;
  }
  std::string out;
  for (const std::string& segment : segments) out += (out.empty() ? "" : "/") + segment;
  return out;
}

std::map<std::string, std::string, std::less<>> relationships(const std::string* rels,
                                                              std::string_view folder) {
  std::map<std::string, std::string, std::less<>> out;
  pugi::xml_document document;
  std::string ignored;
  if (!parse_xml(rels, document, ignored)) return out;
  for (const pugi::xml_node& r : document.document_element().children()) {
    if (local_attribute(r, "TargetMode") == "External") continue;
    out[std::string(local_attribute(r, "Id"))] = resolve_name(folder, local_attribute(r, "Target"));
  }
  return out;
}

}  // namespace apud
