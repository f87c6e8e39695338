// Named parts of a zip container (DOCX, ODT, PPTX, XLSX, EPUB), streamed into memory through
// libarchive. Nothing is ever written to disk and no other part is decompressed. Private to rag.
//
// Threads: re-entrant.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include <pugixml.hpp>

#include "rag/loader.h"

namespace apud {

struct Parts {
  std::map<std::string, std::string, std::less<>> files;  // name in the archive → content
  LoadStatus status = LoadStatus::kOk;
  std::string reason;
  const std::string* find(std::string_view name) const {
    auto it = files.find(name);
    return it == files.end() ? nullptr : &it->second;
  }
};

/// Reads the parts whose names `wanted` accepts. Limits: 65,536 entries, 256 MiB in all, 200 times
/// the size of the archive (1 MiB always allowed); beyond them status is kLimit. A wrong checksum
/// or broken structure is kMalformed, an encrypted part kEncrypted.
Parts read_parts(std::string_view bytes, const std::function<bool(std::string_view)>& wanted,
                 const LoadOptions& options);

/// Parses XML without DTD and custom entities, at most 256 elements deep. Absent parts and refused
/// ones give false; `reason` says why.
bool parse_xml(const std::string* xml, pugi::xml_document& out, std::string& reason);

/// Name without its namespace prefix: "w:p" → "p".
std::string_view local_name(const char* name);
/// Attribute by local name, whatever its prefix; empty when absent.
std::string_view local_attribute(const pugi::xml_node& node, std::string_view name);
/// First child by local name.
pugi::xml_node local_child(const pugi::xml_node& node, std::string_view name);
/// Relationship id → target of a .rels part, targets resolved against `folder`.
std::map<std::string, std::string, std::less<>> relationships(const std::string* rels,
                                                              std::string_view folder);
/// "a/b/../c#x" against "base/": a name inside the archive, without fragment and percent escapes.
std::string resolve_name(std::string_view folder, std::string_view target);

}  // namespace apud
