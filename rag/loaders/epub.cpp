// EPUB: the chapters of the spine, in order, as HTML. Source: EPUB 3.3, Open Container Format and
// package document.
#include <set>

#include "rag/loaders/archive.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/html.h"

namespace apud {

namespace {
constexpr const char* kEpubLoader = loader_version("epub");
constexpr size_t kMaxChapters = 10000;

bool ends_with(std::string_view name, std::string_view end) {
  return name.size() >= end.size() && name.substr(name.size() - end.size()) == end &&
         (name.size() == end.size() || name[name.size() - end.size() - 1] == '/');
}
}  // namespace

Document load_epub(std::string_view bytes, const LoadOptions& options) {
  auto skip = [](LoadStatus status, std::string why) {
    return skipped_document(kEpubLoader, status, std::move(why));
  };
  Parts container = read_parts(
      bytes,
      [](std::string_view name) {
        return ends_with(name, "META-INF/container.xml") ||
               ends_with(name, "META-INF/encryption.xml");
      },
      options);
  if (container.status != LoadStatus::kOk) return skip(container.status, container.reason);
  // Some books are packed with their folder: everything then lies below it.
  std::string top_folder;
  for (const auto& [name, content] : container.files) {
    if (ends_with(name, "META-INF/container.xml")) top_folder = name.substr(0, name.size() - 22);
  }
  pugi::xml_document xml, package;
  std::string reason;
  if (!parse_xml(container.find(top_folder + "META-INF/container.xml"), xml, reason)) {
    return skip(LoadStatus::kMalformed, "META-INF/container.xml: " + reason);
  }
  std::string root = resolve_name(
      top_folder,
      local_attribute(local_child(local_child(xml.document_element(), "rootfiles"), "rootfile"),
                      "full-path"));
  Parts opf = read_parts(
      bytes, [&](std::string_view name) { return name == root; }, options);
  if (opf.status != LoadStatus::kOk) return skip(opf.status, opf.reason);
  if (!parse_xml(opf.find(root), package, reason))
    return skip(LoadStatus::kMalformed, "package document: " + reason);

  std::string folder =
      root.substr(0, root.rfind('/') == std::string::npos ? 0 : root.rfind('/') + 1);
  std::map<std::string, std::string, std::less<>> manifest;
  pugi::xml_node top = package.document_element();
  for (const pugi::xml_node& item : local_child(top, "manifest").children()) {
    // The navigation page repeats the headings of the book.
    if (local_attribute(item, "properties").find("nav") != std::string_view::npos) continue;
    std::string_view type = local_attribute(item, "media-type");
    if (type.find("html") == std::string_view::npos) continue;
    manifest[std::string(local_attribute(item, "id"))] =
        resolve_name(folder, local_attribute(item, "href"));
  }
  std::vector<std::string> spine;
  std::set<std::string, std::less<>> wanted;
  for (const pugi::xml_node& item : local_child(top, "spine").children()) {
    auto found = manifest.find(local_attribute(item, "idref"));
    if (found == manifest.end() || !wanted.insert(found->second).second) continue;
    spine.push_back(found->second);
    if (spine.size() > kMaxChapters) return skip(LoadStatus::kLimit, "more than 10000 chapters");
  }
  // Fonts may be obfuscated in any book; encrypted chapters mean copy protection.
  pugi::xml_document encryption;
  if (parse_xml(container.find(top_folder + "META-INF/encryption.xml"), encryption, reason)) {
    for (const pugi::xml_node& data : encryption.document_element().children()) {
      pugi::xml_node reference = local_child(local_child(data, "CipherData"), "CipherReference");
      if (wanted.count(resolve_name(top_folder, local_attribute(reference, "URI")))) {
        return skip(LoadStatus::kEncrypted, "encrypted: copy-protected book");
      }
    }
  }
  Parts parts = read_parts(
      bytes, [&](std::string_view name) { return wanted.count(name) > 0; }, options);
  if (parts.status != LoadStatus::kOk) return skip(parts.status, parts.reason);

  std::vector<std::string> pages, names;
  for (const std::string& name : spine) {
    const std::string* chapter = parts.find(name);
    bool binary = false;
    if (!chapter) continue;
    pages.push_back(decode_html(*chapter, &binary));
    if (binary) return skip(LoadStatus::kMalformed, "a chapter is no text: " + name);
    names.push_back(name);
  }
  DocumentBuilder builder(kEpubLoader);
  std::vector<HtmlPage> parsed = parse_html(pages, options);
  if (options.cancel && options.cancel->raised()) return skip(LoadStatus::kLimit, "cancelled");
  for (size_t i = 0; i < parsed.size(); ++i) append_page(parsed[i], names[i], 0, builder);
  builder.document().title =
      one_line(local_child(local_child(top, "metadata"), "title").text().get());
  Document document = builder.finish();
  if (document.structure_lost)
    document.reason +=
        (document.reason.empty() ? "" : "; ") + std::string("structure lost in a chapter");
  return document;
}

}  // namespace apud
