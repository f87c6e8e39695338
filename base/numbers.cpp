#include "base/numbers.h"

namespace apud {

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number < 0 ? 0 - static_cast<uint64_t>(number)
                                                 : static_cast<uint64_t>(number));
  std::string out = number < 0 ? "-" : "";
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

}  // namespace apud
