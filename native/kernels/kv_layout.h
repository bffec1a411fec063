// Where a token's key and value lie in a layer's pool (kernels.h has the layout), and how to copy them. Everything here
// is `static`: each instruction set compiles its own copy (simd/vec.h says why).
#pragma once
#include <cstring>

#include "kernels/kernels.h"

namespace octavo {

static inline size_t kv_value_bytes(KvType type) { return type == KvType::F32 ? 4 : type == KvType::BF16 ? 2 : 1; }

// A layer's offsets and sizes. The owner of the memory sets `base`.
static inline KvLayer kv_geometry(int kv_heads, int head_dim, int block_size, KvType type) {
  const size_t half = (size_t)kv_heads * head_dim * block_size * kv_value_bytes(type);
  const size_t scales = type == KvType::INT8 ? (size_t)kv_heads * block_size * sizeof(float) : 0;
  KvLayer layer;
  layer.v_offset = half;
  layer.k_scale_offset = 2 * half;
  layer.v_scale_offset = 2 * half + scales;
  layer.block_bytes = 2 * (half + scales);
  layer.type = type;
  layer.rotated = type == KvType::INT8 && (head_dim & (head_dim - 1)) == 0;
  layer.kv_heads = kv_heads;
  layer.head_dim = head_dim;
  layer.block_size = block_size;
  return layer;
}

// The place of one head of one token. A word is 4 bytes: the P values of K that lie side by side.
struct KvPlace {
  uint8_t* k;  // word w at k + w * k_step
  size_t k_step;
  uint8_t* v;  // value d at v + 4 * d
  float *k_scale, *v_scale;
};

static inline KvPlace kv_place(const KvLayer& kv, int head, int block, int offset) {
  uint8_t* at = kv.base + (size_t)block * kv.block_bytes;
  const size_t value = kv_value_bytes(kv.type), first = (size_t)head * kv.head_dim * kv.block_size;
  const size_t within = offset & (4 / value - 1), scale = (size_t)head * kv.block_size + offset;
  return {at + first * value + (size_t)offset * 4, (size_t)kv.block_size * 4,
          at + kv.v_offset + (first + (offset - within) * kv.head_dim + within) * value,
          (float*)(at + kv.k_scale_offset) + scale, (float*)(at + kv.v_scale_offset) + scale};
}

// Copies one head's key and value. `kv` describes both places, except for their block size.
static inline void copy_key(const KvLayer& kv, const KvPlace& from, const KvPlace& to) {
  const size_t value = kv_value_bytes(kv.type), words = kv.head_dim * value / 4;
  for (size_t w = 0; w < words; ++w) memcpy(to.k + w * to.k_step, from.k + w * from.k_step, 4);
  for (int d = 0; d < kv.head_dim; ++d) memcpy(to.v + 4 * d, from.v + 4 * d, value);
  if (kv.type == KvType::INT8) *to.k_scale = *from.k_scale, *to.v_scale = *from.v_scale;
}

// Copies 16 keys and their values. The first is at a multiple of 16.
static inline void copy_16_keys(const KvLayer& kv, const KvPlace& from, const KvPlace& to) {
  const size_t bytes = kv.head_dim * kv_value_bytes(kv.type);
  for (size_t w = 0; w < bytes / 4; ++w) memcpy(to.k + w * to.k_step, from.k + w * from.k_step, 64);
  memcpy(to.v, from.v, 16 * bytes);
  if (kv.type == KvType::INT8) memcpy(to.k_scale, from.k_scale, 64), memcpy(to.v_scale, from.v_scale, 64);
}

}  // namespace octavo
