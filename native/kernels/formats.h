// The formats of packed weights (pack.h has the byte layout), and what each needs of the activations.
#pragma once
#include <cstddef>
#include <cstdint>

namespace octavo {

constexpr int kPanel = 16;    // rows of a panel
constexpr int kMaxTile = 64;  // the most tokens of an activation tile

enum class Scales : int { F16, F16_MIN, F16_ZERO, F32, K_SCALE, K_MIN };

struct PackedFormat {
  const char* name;  // GGUF's, or one of those that pack.h describes
  int bits;          // 4, 5, 6, 8: quantised codes; 32, 16, 17: dense f32, f16, bf16
  Scales scales;
  int group;       // k that share a scale
  int superblock;  // k of a superblock
  int zero;        // constant zero point of the codes
};

constexpr int kNumQuantised = 17, kNumFormats = 20;
constexpr PackedFormat kFormats[kNumFormats] = {
    {"Q4_0", 4, Scales::F16, 32, 64, 8},
    {"Q4_1", 4, Scales::F16_MIN, 32, 32, 0},
    {"Q5_0", 5, Scales::F16, 32, 64, 16},
    {"Q5_1", 5, Scales::F16_MIN, 32, 32, 0},
    {"Q8_0", 8, Scales::F16, 32, 64, 128},
    {"IQ4_NL", 8, Scales::F16, 32, 64, 128},
    {"Q2_K", 4, Scales::K_MIN, 16, 256, 0},
    {"Q3_K", 4, Scales::K_SCALE, 16, 256, 4},
    {"Q4_K", 4, Scales::K_MIN, 32, 256, 0},
    {"Q5_K", 5, Scales::K_MIN, 32, 256, 0},
    {"Q6_K", 6, Scales::K_SCALE, 16, 256, 32},
    {"IQ4_XS", 8, Scales::K_SCALE, 32, 256, 128},
    {"U4_32", 4, Scales::F16_ZERO, 32, 32, 0},
    {"U4_64", 4, Scales::F16_ZERO, 64, 64, 0},
    {"U4_128", 4, Scales::F16_ZERO, 128, 128, 0},
    {"I8_64", 8, Scales::F32, 64, 64, 128},
    {"I8_128", 8, Scales::F32, 128, 128, 128},
    {"F32", 32, Scales::F16, 1, 1, 0},
    {"F16", 16, Scales::F16, 1, 1, 0},
    {"BF16", 17, Scales::F16, 1, 1, 0},
};

constexpr bool is_dense(int format) { return format >= kNumQuantised; }

// The activation group of a format: how many k share one activation scale. Smaller groups are more exact but cost one
// multiplication each. SmolLM2's perplexity is 0.9 % above that of exact activations with groups of 64, and 0.35 %
// above with groups of 32.
constexpr int act_group(const PackedFormat& f) { return f.superblock == 256 ? 256 : 32; }

// k of one step: one integer dot product, with one scale on either side. A larger group of weights consists of several
// steps that share its scale, so no group size needs its own dot product.
constexpr int step_of(const PackedFormat& f) { return f.group < act_group(f) ? f.group : act_group(f); }

// Bytes of 16 rows: the codes of one step, the scales of one superblock (a multiple of 64), a whole superblock.
constexpr size_t step_bytes(const PackedFormat& f) {
  const size_t step = size_t(step_of(f));
  return f.bits == 8 ? step * 16 : step * 8 + (f.bits == 4 ? 0 : 64);
}
constexpr size_t scale_bytes(const PackedFormat& f) {
  const size_t groups = size_t(f.superblock / f.group);
  switch (f.scales) {
    case Scales::F16:
      return 32 * groups;
    case Scales::F16_MIN:
    case Scales::F16_ZERO:
    case Scales::F32:
      return 64 * groups;
    case Scales::K_SCALE:
      return 64 + 16 * groups;
    default:
      return 64 + 32 * groups;
  }
}
constexpr size_t superblock_bytes(const PackedFormat& f) {
  if (f.bits == 32) return kPanel * 4;
  if (f.bits == 16 || f.bits == 17) return kPanel * 2;
  return scale_bytes(f) + size_t(f.superblock / step_of(f)) * step_bytes(f);
}

// An offset of the weights is multiplied by the sum of the activations' codes. Each format needs this sum in one form,
// of 4 bytes per value:
// - kScaled: the sum times the activations' scale, as a float
// - kPair: two sums as s16 side by side, for the pairwise multiply-add with the groups' own offsets or scales
// - kZero: -zero * sum, the start of the integer accumulator
enum Side { kScaled32, kPair32, kPair16, kZero8, kZero16, kZero128, kNumSides };

struct SideForm {
  int zero;     // 0: the plain sum
  int k;        // k of one sum
  int k_value;  // k of one 4-byte value
};
constexpr SideForm kSides[kNumSides] = {{0, 32, 32}, {0, 32, 64},  {0, 16, 32},
                                        {8, 32, 32}, {16, 32, 32}, {128, 32, 32}};

constexpr Side side_of(const PackedFormat& f) {
  if (f.scales == Scales::F16_MIN || f.scales == Scales::F16_ZERO) return kScaled32;
  if (f.scales == Scales::K_MIN || f.scales == Scales::K_SCALE) return f.group == 32 ? kPair32 : kPair16;
  for (int s = kZero8; s < kNumSides; ++s)
    if (kSides[s].zero == f.zero && kSides[s].k == step_of(f)) return Side(s);
  return kNumSides;
}

}  // namespace octavo
