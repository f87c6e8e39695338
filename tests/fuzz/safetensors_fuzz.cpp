// libFuzzer target: any bytes as a safetensors file and as a JSON configuration. Nothing but
// apud::Error may leave it.
#include "base/error.h"
#include "models/arch/json.h"
#include "models/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    apud::SafeTensorsFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
  } catch (const apud::Error&) {
  }
  try {
    apud::JsonObject(apud::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz"), "fuzz");
  } catch (const apud::Error&) {
  }
  return 0;
}
