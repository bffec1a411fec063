// Where the quantised activations of up to `rows` rows lie, and how they are cut into tiles.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace octavo {

// In every array, a tile of n tokens from t0 on uses the bytes of those tokens.
struct ActBuffer {
  ActArgs args;
  int8_t* codes;
  float* scale;
  int32_t* side[kNumSides];

  static int tiles(int rows, int max_tile) { return (rows + max_tile - 1) / max_tile; }
  ActTile tile(int rows, int max_tile, int i) const {  // tiles of nearly equal size: 16 tokens are 8 + 8, not 12 + 4
    const int count = tiles(rows, max_tile), small = rows / count, larger = rows % count;
    ActTile t;
    t.n = small + (i < larger);
    t.t0 = i * small + std::min(i, larger);
    const size_t t0 = size_t(t.t0), groups = size_t(args.padded / args.group);
    t.codes = codes + t0 * size_t(args.padded);
    t.scale = scale + t0 * groups;
    for (int s = 0; s < kNumSides; ++s)
      if (side[s]) t.side[s] = side[s] + t0 * size_t(args.padded / kSides[s].k_value);
    return t;
  }
};

// Lays out the arrays of an ActBuffer one after the other, each from a cache line on.
struct ActLayout {
  ActArgs args;
  size_t rows, bytes;

  ActLayout(int rows, int K, int group, unsigned sides) : args{K, 0, group, sides}, rows(size_t(rows)) {
    const int whole = std::max(group, 64);  // 64: the superblock of some formats whose group is 32
    args.padded = (K + whole - 1) / whole * whole;
    bytes = 0;
    place(nullptr);
  }
  ActBuffer place(uint8_t* memory) {
    ActBuffer a{};
    a.args = args;
    bytes = 0;
    auto take = [&](size_t each) {
      uint8_t* p = memory ? memory + bytes : nullptr;
      bytes += (rows * each + 63) / 64 * 64;
      return p;
    };
    const size_t padded = size_t(args.padded), groups = padded / size_t(args.group);
    a.codes = reinterpret_cast<int8_t*>(take(padded));
    bytes += 16 * 64;  // matmul_amx.inc reads codes of 16 tokens even where the last tile has fewer
    a.scale = reinterpret_cast<float*>(take(4 * groups));
    for (int s = 0; s < kNumSides; ++s)
      if (args.sides >> s & 1) a.side[s] = reinterpret_cast<int32_t*>(take(4 * padded / size_t(kSides[s].k_value)));
    bytes += 16 * 4;  // and scales and sums of 16 tokens
    return a;
  }
};

}  // namespace octavo
