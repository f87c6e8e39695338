// libFuzzer target: any bytes as a GGUF file, through configuration and program. Nothing but
// apud::Error may leave it.
#include "base/error.h"
#include "models/arch/arch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    apud::GgufFile file = apud::GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    auto source = apud::make_gguf_source(file);
    apud::LoadedProgram loaded = apud::build_program(apud::config_from_gguf(file, 0), *source);
    apud::print_program(loaded.program, loaded.weights);
  } catch (const apud::Error&) {
  }
  return 0;
}
