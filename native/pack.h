// The layout of packed weights, and how every encoding is converted into it without loss.
//
// clang-format off
// Rows are grouped into panels of 16. A panel is one sequential stream of bytes over k. It consists of superblocks,
// each [scales][codes]. Every part interleaves the 16 rows and takes a multiple of 32 bytes:
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
// K is padded to a whole superblock and N to a whole panel, with zero weights. In this layout one accumulator register
// holds 16 rows of one token. So no horizontal sums are needed, and the same bytes serve one token or five hundred.
//
// The encodings are those of GGUF (ggml-quants.h describes them), and our own for group sizes that GGUF does not have.
// In our own, a row is a sequence of blocks, and a block is a group of G values, little endian:
//   U4_32, U4_64, U4_128:  f16 d, f16 z, G / 2 bytes: code 2j in the low nibble of byte j, 2j + 1 in the high one
//   I8_64, I8_128:         f32 d, G signed bytes
// U4 holds GPTQ, AWQ and HQQ weights exactly. Their zero point z is a number of codes, and the product d z has more
// bits than the f16 m of F16_MIN.
// I8 has no zero point. It would gain little where steps are this fine, and 8-bit checkpoints hardly use one. It would
// also need a second sum of the activations, because AVX2 and ARM multiply 8-bit codes as signed bytes (vpmaddubsw
// saturates with unsigned ones). The scale is f32, as long as d and z together, so that codes stay on cache lines.
// bf16 scales fit it exactly.
// clang-format on
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace octavo {

// The version of the byte layout above. Files that hold panels (src/octavo/weights/artifact.py) carry it, and a file
// with another version is refused. Raise it with every change of the layout.
constexpr int kLayoutVersion = 1;

// The index in kFormats of the encoding with this name, or -1.
int format_of(const char* type);

// Bytes of one row before packing.
size_t source_row_bytes(int format, int K);

int padded_k(int format, int K);
size_t panel_bytes(int format, int K);

// Packs rows 16 p .. 16 p + 15 (those below N) of a row-major tensor into panel p at `out`.
void pack_panel(int format, const uint8_t* source, int N, int K, int p, uint8_t* out);

// Writes row `row` (0..15) of a panel as floats [K]. It is the slow twin of every matmul kernel, and looks up
// embeddings.
void unpack_row(int format, const uint8_t* panel, int row, int K, float* out);

float f16_to_f32(uint16_t h);

}  // namespace octavo
