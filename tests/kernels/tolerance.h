// How far a fast kernel may be from the reference, and why. Errors are relative to the norm of the
// reference's result: |y - r| / |r| (Euclidean).
#pragma once

namespace apud::test {

/// Weights and activations that int8 holds exactly: only the order of float sums differs.
inline constexpr double kExactSums = 3e-6;
/// Activations rounded to int8 by blocks of 32: a step is 1/127 of the block's largest value, about
/// 0.9 % of it uniformly distributed; over many terms the relative error of a sum stays below that.
inline constexpr double kActBlock32 = 0.012;
/// The AMX path's cut weights, where the test's own cut falls on the other side of a value: once in
/// some thousand weights, by 1/128 at most.
inline constexpr double kCutWeights = 3e-4;
/// Activations rounded to bfloat16 (AMX tiles): 8 bits, at most 1/256 each; weights cut to as many.
inline constexpr double kActBf16 = 4e-3;
/// An encoder's F32 and F16 weights, and their activations, rounded to 1/4095 of the largest of
/// 128.
inline constexpr double kWords = 5e-4;
/// Float arithmetic throughout (norms, attention over F32 KV, float weights).
inline constexpr double kFloat = 2e-5;
/// KV stored in half, in bfloat16, or in int8 with one scale per token and head.
inline constexpr double kKvF16 = 1e-3;
inline constexpr double kKvBf16 = 8e-3;
inline constexpr double kKvI8 = 1.5e-2;

/// Two ways to the same token on a GPU's default path: prompts in prefill's products (16-bit
/// activations) or decode's (kActBlock32), whatever the cache left to compute. Of the gap between
/// the two highest logits, relative to the root mean square of the row: six standard deviations of
/// the difference of two logits that are each wrong by kActBlock32 of that on both ways. The widest
/// seen in 2,442 answers of SmolLM2-135M was 0.102.
inline constexpr double kPathGap = 12 * kActBlock32;

}  // namespace apud::test
