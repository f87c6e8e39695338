// base/child.h without processes, so that a fuzz target reaches what runs in them: registered
// functions are called directly, and a program's output is its input (pdftotext's pages are then
// whatever the fuzzer says).
#include <unistd.h>

#include <map>

#include "base/child.h"

namespace apud {

namespace {
std::map<std::string, ChildFunction, std::less<>>& functions() {
  static std::map<std::string, ChildFunction, std::less<>> all;
  return all;
}
std::string given;  // the last memory_file
}  // namespace

ChildEntry::ChildEntry(const char* name, ChildFunction function) { functions()[name] = function; }

ChildResult run_in_child(const char* name, std::string_view input, const ChildLimits&,
                         const CancelFlag*) {
  ChildResult result;
  result.output = functions().at(name)(input);
  return result;
}

struct ChildReuse::Serving {};
ChildReuse::ChildReuse() = default;
ChildReuse::~ChildReuse() = default;

std::optional<Path> find_program(std::string_view name) { return Path("/") / name; }

FileDescriptor memory_file(std::string_view content) {
  given = content;
  return FileDescriptor(::dup(STDERR_FILENO));
}

ChildResult run_program(const Path&, const std::vector<std::string>&, int, const ChildLimits&,
                        const CancelFlag*) {
  ChildResult result;
  result.output = given;
  return result;
}

std::string describe(const ChildResult&, const ChildLimits&) { return "ended"; }

}  // namespace apud
