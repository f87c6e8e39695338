// What a model's file may ask for at most: more is damage, not a model.
#pragma once

#include <cstdint>

namespace apud {

inline constexpr int64_t kMaxLayers = 512;
inline constexpr int64_t kMaxWidth = 1 << 17;
inline constexpr int64_t kMaxFfn = 1 << 20;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxHeadDim = 1024;
inline constexpr int64_t kMaxContext = 1 << 27;
inline constexpr int64_t kMaxVocab = 1 << 22;

}  // namespace apud
