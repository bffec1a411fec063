// The eight tile registers of AMX, each of up to 16 rows of 64 bytes. They are used in assembly, because g++ 12's
// intrinsics hide from the compiler that tiles are loaded from memory. A version in plain C++ tests the kernels on
// machines without AMX.
#pragma once
#include <cstdint>
#include <cstring>

namespace octavo {
namespace ISA_NS {

struct TileConfig {  // operand of ldtilecfg (Intel's manual, volume 1, 18.2)
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

#if defined(OCTAVO_EMULATE_AVX512)
struct EmulatedTile {
  int rows, row_bytes;
  int8_t data[16][64];
};
static thread_local EmulatedTile emulated_tiles[8];

static inline void tile_config(const TileConfig& config) {
  std::memset(emulated_tiles, 0, sizeof emulated_tiles);
  for (int i = 0; i < 8; ++i)
    emulated_tiles[i].rows = config.rows[i], emulated_tiles[i].row_bytes = config.row_bytes[i];
}
template <int TILE>
static void tile_zero() {
  std::memset(emulated_tiles[TILE].data, 0, sizeof emulated_tiles[TILE].data);
}
template <int TILE>
static void tile_load(const void* from, size_t stride) {
  EmulatedTile& t = emulated_tiles[TILE];
  for (int r = 0; r < t.rows; ++r)
    std::memcpy(t.data[r], static_cast<const char*>(from) + size_t(r) * stride, size_t(t.row_bytes));
}
template <int TILE>
static void tile_store(void* to, size_t stride) {
  const EmulatedTile& t = emulated_tiles[TILE];
  for (int r = 0; r < t.rows; ++r)
    std::memcpy(static_cast<char*>(to) + size_t(r) * stride, t.data[r], size_t(t.row_bytes));
}
template <int SUMS, int X, int W, bool SIGNED>
static void tile_dot() {
  EmulatedTile &sums = emulated_tiles[SUMS], &x = emulated_tiles[X], &w = emulated_tiles[W];
  for (int m = 0; m < sums.rows; ++m) {
    for (int n = 0; n < sums.row_bytes / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, sums.data[m] + 4 * n, 4);
      for (int k = 0; k < x.row_bytes; ++k) {
        const int8_t code = w.data[k / 4][4 * n + k % 4];
        sum += x.data[m][k] * (SIGNED ? int(code) : int(uint8_t(code)));
      }
      std::memcpy(sums.data[m] + 4 * n, &sum, 4);
    }
  }
}
#else
static inline void tile_config(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
template <int TILE>
static inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(TILE));
}
template <int TILE>
static inline void tile_load(const void* from, size_t stride) {
  asm volatile("tileloadd (%0, %1, 1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE>
static inline void tile_store(void* to, size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0, %1, 1)" : : "r"(to), "r"(stride), "i"(TILE) : "memory");
}
// sums[m][n] += the sum over k and j of x[m][k][j] * w[k][n][j]. All are bytes, and the four j lie side by side. x is
// signed; w is signed if SIGNED.
template <int SUMS, int X, int W, bool SIGNED>
static inline void tile_dot() {
  if constexpr (SIGNED) {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(X), "i"(W));
  } else {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(X), "i"(W));
  }
}
#endif

}  // namespace ISA_NS
}  // namespace octavo
