// The canonical weight layout, and the lossless way into it from every encoding.
//
// clang-format off
// Rows are cut into panels of 16. A panel is one sequential byte stream over k, made of superblocks [scales][codes];
// every piece is interleaved over the 16 rows and a multiple of 32 bytes:
//   codes, 8 bit: 64 bytes = 16 rows x 4 consecutive k, unsigned: one "vector"
//   codes, 4 bit: 64 bytes = vector 2j in the low nibbles, vector 2j + 1 in the high ones
//   codes, 5 bit: as 4 bit for 32 k (4 loads), then a 64-byte plane whose bit v is bit 4 of vector v's code
//   codes, 6 bit: as 4 bit for 16 k (2 loads), then a 64-byte plane whose bits 2v, 2v+1 are bits 4, 5 of vector v's code
//   scales F16:      f16 d[16] for each group;               w = d (code - zero)
//   scales F16_MIN:  f16 d[16], f16 m[16] for each group;    w = d code + m
//   scales F16_ZERO: f16 d[16], f16 z[16] for each group;    w = d code - d z
//   scales F32:      f32 d[16] for each group;               w = d (code - zero)
//   scales K_SCALE:  f16 d[16], then s8 s[16] for each group;  w = d s (code - zero)
//   scales K_MIN:    f16 d[16], f16 dmin[16], u8 s[16] for each group, u8 m[16][2] for each pair of groups;
//                    w = d s code - dmin m
//   dense f32, f16, bf16: 16 rows of one k side by side.
// K is padded to a whole superblock and N to a whole panel with zero weights. One accumulator register then holds 16
// rows of one token: no horizontal sums, and the same bytes serve one token and five hundred.
//
// Encodings are GGUF's (ggml-quants.h describes them), and for groups that it does not have our own. A row is blocks one
// after the other, a block is a group of G values, little endian:
//   U4_32, U4_64, U4_128:  f16 d, f16 z, G / 2 bytes: code 2j in the low nibble of byte j, 2j + 1 in the high one
//   I8_64, I8_128:         f32 d, G signed bytes
// U4 holds GPTQ, AWQ and HQQ exactly: their zero point is a number of codes, and d z has more bits than the f16 m of
// F16_MIN. I8 has no zero point: it would gain little where steps are this fine, 8-bit checkpoints hardly use it, and
// AVX2 and ARM multiply signed bytes (unsigned ones saturate in vpmaddubsw), so that it would need a second sum of the
// activations. Its scale is f32: as long as d and z, so that codes stay on cache lines, and bf16 scales fit exactly.
// clang-format on
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace octavo {

// Of the bytes drawn above. Files that hold panels (src/octavo/weights/artifact.py) carry it and are refused when it
// differs: raise it with any change of the layout.
constexpr int kLayoutVersion = 1;

// Index into kFormats of an encoding's name; -1 if it has none.
int format_of(const char* type);

// Bytes of one row in the encoding.
size_t source_row_bytes(int format, int K);

int padded_k(int format, int K);
size_t panel_bytes(int format, int K);

// Packs rows 16 p .. 16 p + 15 (those below N) of a row-major tensor into panel p at `out`.
void pack_panel(int format, const uint8_t* source, int N, int K, int p, uint8_t* out);

// Row `row` (0..15) of a panel, as floats [K]. The slow twin of every matmul kernel, and the embedding look-up.
void unpack_row(int format, const uint8_t* panel, int row, int K, float* out);

float f16_to_f32(uint16_t h);

}  // namespace octavo
