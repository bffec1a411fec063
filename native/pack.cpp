#include "pack.h"

#include <algorithm>
#include <cstring>

namespace octavo {

namespace {

// One superblock of one row: the codes and scales that the packed layout keeps.
struct RowBlock {
  uint8_t codes[256];
  uint16_t d[2], m[2];         // F16: d[g] of group g; F32: d's two halves; else d[0], and m[0] is dmin, min or zero
  uint8_t scale[16], min[16];  // K_SCALE (as s8 bits), K_MIN
};

uint16_t u16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

void nibbles32(const uint8_t* q, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = q[j] & 15;
    codes[j + 16] = q[j] >> 4;
  }
}

void add_fifth_bit(const uint8_t* qh, uint8_t* codes) {
  uint32_t h;
  std::memcpy(&h, qh, 4);
  for (int j = 0; j < 32; ++j) codes[j] |= uint8_t((h >> j & 1) << 4);
}

void decode_q4_0(const uint8_t* p, RowBlock& b, int groups) {
  for (int g = 0; g < groups; ++g, p += 18) {
    b.d[g] = u16(p);
    nibbles32(p + 2, b.codes + 32 * g);
  }
}
void decode_q4_1(const uint8_t* p, RowBlock& b, int) {
  b.d[0] = u16(p);
  b.m[0] = u16(p + 2);
  nibbles32(p + 4, b.codes);
}
void decode_q5_0(const uint8_t* p, RowBlock& b, int groups) {
  for (int g = 0; g < groups; ++g, p += 22) {
    b.d[g] = u16(p);
    nibbles32(p + 6, b.codes + 32 * g);
    add_fifth_bit(p + 2, b.codes + 32 * g);
  }
}
void decode_q5_1(const uint8_t* p, RowBlock& b, int) {
  b.d[0] = u16(p);
  b.m[0] = u16(p + 2);
  nibbles32(p + 8, b.codes);
  add_fifth_bit(p + 4, b.codes);
}
void decode_q8_0(const uint8_t* p, RowBlock& b, int groups) {
  for (int g = 0; g < groups; ++g, p += 34) {
    b.d[g] = u16(p);
    for (int j = 0; j < 32; ++j) b.codes[32 * g + j] = uint8_t(p[2 + j] ^ 0x80);
  }
}

// The non-linear codebook of IQ4_NL and IQ4_XS, plus 128.
constexpr uint8_t kIq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

void decode_iq4_nl(const uint8_t* p, RowBlock& b, int groups) {
  for (int g = 0; g < groups; ++g, p += 18) {
    b.d[g] = u16(p);
    nibbles32(p + 2, b.codes + 32 * g);
    for (int j = 0; j < 32; ++j) b.codes[32 * g + j] = kIq4[b.codes[32 * g + j]];
  }
}
void decode_q2_k(const uint8_t* p, RowBlock& b, int) {  // scales[16], qs[64], d, dmin
  for (int g = 0; g < 16; ++g) {
    b.scale[g] = p[g] & 15;
    b.min[g] = p[g] >> 4;
  }
  for (int k = 0; k < 256; ++k) b.codes[k] = p[16 + k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2) & 3;
  b.d[0] = u16(p + 80);
  b.m[0] = u16(p + 82);
}
void decode_q3_k(const uint8_t* p, RowBlock& b, int) {  // hmask[32], qs[64], scales[12], d
  for (int k = 0; k < 256; ++k) {
    const int low = p[32 + k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2) & 3;
    const int high = p[k % 32] >> (k / 32) & 1;
    b.codes[k] = uint8_t(low | high << 2);
  }
  const uint8_t* s = p + 96;  // 6-bit scales: low nibbles in 8 bytes, the top 2 bits of all 16 in the last 4
  for (int g = 0; g < 16; ++g) {
    const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
    const int high = s[8 + g % 4] >> (g / 4 * 2) & 3;
    b.scale[g] = uint8_t(int8_t((low | high << 4) - 32));
  }
  b.d[0] = u16(p + 108);
}
void k_scales_and_mins(const uint8_t* s, RowBlock& b) {  // eight 6-bit scales and mins in 12 bytes
  for (int g = 0; g < 8; ++g) {
    if (g < 4) {
      b.scale[g] = s[g] & 63;
      b.min[g] = s[g + 4] & 63;
    } else {
      b.scale[g] = uint8_t((s[g + 4] & 15) | (s[g - 4] >> 6) << 4);
      b.min[g] = uint8_t((s[g + 4] >> 4) | (s[g] >> 6) << 4);
    }
  }
}
void decode_q4_k(const uint8_t* p, RowBlock& b, int) {  // d, dmin, scales[12], qs[128]
  b.d[0] = u16(p);
  b.m[0] = u16(p + 2);
  k_scales_and_mins(p + 4, b);
  for (int j = 0; j < 4; ++j)
    for (int l = 0; l < 32; ++l) {
      const uint8_t q = p[16 + 32 * j + l];
      b.codes[64 * j + l] = q & 15;
      b.codes[64 * j + 32 + l] = q >> 4;
    }
}
void decode_q5_k(const uint8_t* p, RowBlock& b, int) {  // d, dmin, scales[12], qh[32], qs[128]
  b.d[0] = u16(p);
  b.m[0] = u16(p + 2);
  k_scales_and_mins(p + 4, b);
  for (int j = 0; j < 4; ++j)
    for (int l = 0; l < 32; ++l) {
      const uint8_t q = p[48 + 32 * j + l], h = p[16 + l];
      b.codes[64 * j + l] = uint8_t((q & 15) | (h >> (2 * j) & 1) << 4);
      b.codes[64 * j + 32 + l] = uint8_t((q >> 4) | (h >> (2 * j + 1) & 1) << 4);
    }
}
void decode_q6_k(const uint8_t* p, RowBlock& b, int) {  // ql[128], qh[64], scales[16], d
  for (int half = 0; half < 2; ++half) {
    const uint8_t *ql = p + 64 * half, *qh = p + 128 + 32 * half;
    uint8_t* c = b.codes + 128 * half;
    for (int l = 0; l < 32; ++l) {
      c[l] = uint8_t((ql[l] & 15) | (qh[l] & 3) << 4);
      c[l + 32] = uint8_t((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4);
      c[l + 64] = uint8_t((ql[l] >> 4) | (qh[l] >> 4 & 3) << 4);
      c[l + 96] = uint8_t((ql[l + 32] >> 4) | (qh[l] >> 6 & 3) << 4);
    }
  }
  std::memcpy(b.scale, p + 192, 16);
  b.d[0] = u16(p + 208);
}

void decode_iq4_xs(const uint8_t* p, RowBlock& b, int) {  // d, scales_h, scales_l[4], qs[128]
  b.d[0] = u16(p);
  const int high = u16(p + 2);
  for (int g = 0; g < 8; ++g) {
    const int s = (p[4 + g / 2] >> (4 * (g & 1)) & 15) | (high >> (2 * g) & 3) << 4;
    b.scale[g] = uint8_t(int8_t(s - 32));
    nibbles32(p + 8 + 16 * g, b.codes + 32 * g);
  }
  for (auto& code : b.codes) code = kIq4[code];
}

void decode_u4(const uint8_t* p, RowBlock& b, int steps) {
  b.d[0] = u16(p);
  b.m[0] = u16(p + 2);
  for (int k = 0; k < 32 * steps; ++k) b.codes[k] = p[4 + k / 2] >> (4 * (k & 1)) & 15;
}
void decode_i8(const uint8_t* p, RowBlock& b, int steps) {
  std::memcpy(b.d, p, 4);
  for (int k = 0; k < 32 * steps; ++k) b.codes[k] = uint8_t(p[4 + k] ^ 0x80);
}

struct Source {
  int elements, bytes;  // of one block in the file
  void (*decode)(const uint8_t*, RowBlock&, int steps);
};
constexpr Source kSources[kNumFormats] = {
    {32, 18, decode_q4_0},   {32, 20, decode_q4_1},   {32, 22, decode_q5_0},   {32, 24, decode_q5_1},
    {32, 34, decode_q8_0},   {32, 18, decode_iq4_nl}, {256, 84, decode_q2_k},  {256, 110, decode_q3_k},
    {256, 144, decode_q4_k}, {256, 176, decode_q5_k}, {256, 210, decode_q6_k}, {256, 136, decode_iq4_xs},
    {32, 20, decode_u4},     {64, 36, decode_u4},     {128, 68, decode_u4},    {64, 68, decode_i8},
    {128, 132, decode_i8},   {1, 4, nullptr},         {1, 2, nullptr},         {1, 2, nullptr},
};

// Spreads a row's codes of one step over the interleaved vectors.
void put_codes(int bits, int step, const uint8_t* codes, int row, uint8_t* out) {
  const int vectors = step / 4;
  for (int v = 0; v < vectors; ++v) {
    const uint8_t* c = codes + 4 * v;
    if (bits == 8) {
      std::memcpy(out + 64 * v + 4 * row, c, 4);
      continue;
    }
    uint8_t* low = out + v / 2 * 64 + 4 * row;
    for (int i = 0; i < 4; ++i) low[i] |= uint8_t((c[i] & 15) << (4 * (v & 1)));
    if (bits == 4) continue;
    uint8_t* plane = out + vectors / 2 * 64 + 4 * row;
    const int shift = bits == 5 ? v : 2 * v;
    for (int i = 0; i < 4; ++i) plane[i] |= uint8_t((c[i] >> 4) << shift);
  }
}

uint8_t get_code(int bits, int step, const uint8_t* codes, int row, int k) {
  const int v = k / 4, at = 4 * row + k % 4;
  if (bits == 8) return codes[64 * v + at];
  const uint8_t low = codes[v / 2 * 64 + at] >> (4 * (v & 1)) & 15;
  if (bits == 4) return low;
  const uint8_t plane = codes[step / 8 * 64 + at];
  return uint8_t(low | (bits == 5 ? plane >> v & 1 : plane >> (2 * v) & 3) << 4);
}

void put_scales(const PackedFormat& f, const RowBlock& b, int row, uint8_t* out) {
  auto* half = reinterpret_cast<uint16_t*>(out);  // panels are 64-byte aligned
  const int groups = f.superblock / f.group;
  switch (f.scales) {
    case Scales::F16:
      for (int g = 0; g < groups; ++g) half[16 * g + row] = b.d[g];
      break;
    case Scales::F16_MIN:
    case Scales::F16_ZERO:
      half[row] = b.d[0];
      half[16 + row] = b.m[0];
      break;
    case Scales::F32:
      std::memcpy(out + 4 * row, b.d, 4);
      break;
    case Scales::K_SCALE:
      half[row] = b.d[0];
      for (int g = 0; g < groups; ++g) out[64 + 16 * g + row] = b.scale[g];
      break;
    case Scales::K_MIN:
      half[row] = b.d[0];
      half[16 + row] = b.m[0];
      for (int g = 0; g < groups; ++g) {
        out[64 + 16 * g + row] = b.scale[g];
        out[64 + 16 * groups + g / 2 * 32 + row * 2 + (g & 1)] = b.min[g];
      }
      break;
  }
}

void pack_dense(const PackedFormat& f, const uint8_t* source, int N, int K, int p, uint8_t* out) {
  const size_t width = f.bits == 32 ? 4 : 2;
  std::memset(out, 0, size_t(K) * kPanel * width);
  for (int row = 0; row < kPanel && p * kPanel + row < N; ++row) {
    const uint8_t* from = source + (size_t(p) * kPanel + row) * K * width;
    for (int k = 0; k < K; ++k) std::memcpy(out + (size_t(k) * kPanel + row) * width, from + k * width, width);
  }
}

}  // namespace

float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16;
  const int exponent = h >> 10 & 31;
  uint32_t mantissa = h & 1023u, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent) {
    bits = sign | uint32_t(exponent + 112) << 23 | mantissa << 13;
  } else if (mantissa) {
    int e = 113;
    while (!(mantissa & 1024u)) mantissa <<= 1, --e;
    bits = sign | uint32_t(e) << 23 | (mantissa & 1023u) << 13;
  } else {
    bits = sign;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

int format_of(const char* type) {
  for (const auto& f : kFormats)
    if (!std::strcmp(f.name, type)) return int(&f - kFormats);
  return -1;
}

size_t source_row_bytes(int format, int K) { return size_t(K / kSources[format].elements) * kSources[format].bytes; }

int padded_k(int format, int K) {
  const int sb = kFormats[format].superblock;
  return (K + sb - 1) / sb * sb;
}

size_t panel_bytes(int format, int K) {
  const size_t superblock = size_t(kFormats[format].superblock);  // padded_k would overflow if K is the largest int
  return (size_t(K) + superblock - 1) / superblock * superblock_bytes(kFormats[format]);
}

void pack_panel(int format, const uint8_t* source, int N, int K, int p, uint8_t* out) {
  const PackedFormat& f = kFormats[format];
  if (!kSources[format].decode) return pack_dense(f, source, N, K, p, out);
  const Source& s = kSources[format];
  const size_t row_bytes = source_row_bytes(format, K), sb_bytes = superblock_bytes(f);
  const int step = step_of(f), superblocks = padded_k(format, K) / f.superblock, steps = f.superblock / step;
  std::memset(out, 0, superblocks * sb_bytes);
  RowBlock block;
  for (int sb = 0; sb < superblocks; ++sb, out += sb_bytes) {
    for (int row = 0; row < kPanel && p * kPanel + row < N; ++row) {
      const uint8_t* from = source + (size_t(p) * kPanel + row) * row_bytes;
      // Only formats with blocks of 32 elements and superblocks of 64 can end in half a superblock. Its second step
      // stays zero.
      const int present = std::min(steps, (K - sb * f.superblock) / step);
      if (present < steps) std::memset(&block, 0, sizeof block);
      s.decode(from + size_t(sb) * (f.superblock / s.elements) * s.bytes, block, present);
      put_scales(f, block, row, out);
      for (int i = 0; i < present; ++i)
        put_codes(f.bits, step, block.codes + i * step, row, out + scale_bytes(f) + i * step_bytes(f));
    }
  }
}

void unpack_row(int format, const uint8_t* panel, int row, int K, float* out) {
  const PackedFormat& f = kFormats[format];
  if (!kSources[format].decode) {
    for (int k = 0; k < K; ++k) {
      const uint8_t* at = panel + (size_t(k) * kPanel + row) * (f.bits == 32 ? 4 : 2);
      uint32_t bits = 0;
      std::memcpy(&bits, at, f.bits == 32 ? 4 : 2);
      if (f.bits == 17) bits <<= 16;
      if (f.bits == 16)
        out[k] = f16_to_f32(uint16_t(bits));
      else
        std::memcpy(&out[k], &bits, 4);
    }
    return;
  }
  const size_t sb_bytes = superblock_bytes(f);
  const int step = step_of(f), groups = f.superblock / f.group;
  for (int k0 = 0; k0 < K; k0 += f.superblock, panel += sb_bytes) {
    for (int g = 0; g < groups && k0 + g * f.group < K; ++g) {
      float scale = f16_to_f32(u16(panel + 2 * row)), offset = 0;
      switch (f.scales) {
        case Scales::F16:
          scale = f16_to_f32(u16(panel + 32 * g + 2 * row));
          break;
        case Scales::F16_MIN:
          offset = f16_to_f32(u16(panel + 32 + 2 * row));
          break;
        case Scales::F16_ZERO:
          offset = -scale * f16_to_f32(u16(panel + 32 + 2 * row));
          break;
        case Scales::F32:
          std::memcpy(&scale, panel + 4 * row, 4);
          break;
        case Scales::K_SCALE:
          scale *= float(int8_t(panel[64 + 16 * g + row]));
          break;
        case Scales::K_MIN:
          scale *= float(panel[64 + 16 * g + row]);
          offset =
              -f16_to_f32(u16(panel + 32 + 2 * row)) * float(panel[64 + 16 * groups + g / 2 * 32 + row * 2 + (g & 1)]);
          break;
      }
      for (int k = g * f.group; k < (g + 1) * f.group; ++k) {
        const uint8_t* codes = panel + scale_bytes(f) + size_t(k / step) * step_bytes(f);
        out[k0 + k] = scale * float(int(get_code(f.bits, step, codes, row, k % step)) - f.zero) + offset;
      }
    }
  }
}

}  // namespace octavo
