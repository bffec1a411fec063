// Where a token's key and value lie in a layer's pool (kernels.h has the layout), and how to copy them. Everything here
// is `static`: each instruction set compiles its own copy (simd/vec.h says why).
#pragma once
#include <cstring>

#include "kernels/kernels.h"

namespace octavo {

// Bytes of a value of K.
static inline size_t kv_value_bytes(KvType type) { return type == KvType::F32 ? 4 : type == KvType::BF16 ? 2 : 1; }

// Entries of a token's V that lie 4 bytes apart: its values, or bytes with two of them.
static inline int kv_value_entries(KvType type, int head_dim) { return type == KvType::K8V4 ? head_dim / 2 : head_dim; }

// A layer's offsets and sizes. The owner of the memory sets `base`.
static inline KvLayer kv_geometry(int kv_heads, int head_dim, int block_size, KvType type) {
  const size_t slots = (size_t)kv_heads * block_size, value = kv_value_bytes(type);
  const size_t k = slots * head_dim * value, v = slots * kv_value_entries(type, head_dim) * value;
  const size_t k_scales = is_quantised(type) ? slots * sizeof(float) : 0;
  const size_t v_scales = type == KvType::K8V4 ? slots * (head_dim / kValueGroup) * 2 * sizeof(uint16_t) : k_scales;
  KvLayer layer;
  layer.v_offset = k;
  layer.k_scale_offset = k + v;
  layer.v_scale_offset = k + v + k_scales;
  layer.block_bytes = k + v + k_scales + v_scales;
  layer.type = type;
  layer.rotated = is_quantised(type) && (head_dim & (head_dim - 1)) == 0;
  layer.kv_heads = kv_heads;
  layer.head_dim = head_dim;
  layer.block_size = block_size;
  return layer;
}

// The place of one head of one token. A word is 4 bytes: the P values of K that lie side by side.
struct KvPlace {
  uint8_t* k;  // word w at k + w * k_step
  size_t k_step;
  uint8_t* v;  // entry d (kv_value_entries) at v + 4 * d
  float *k_scale, *v_scale;
  uint16_t* v_group;  // k8v4: the scale of group g at v_group + 2 * g * block_size, its minimum block_size further
};

static inline KvPlace kv_place(const KvLayer& kv, int head, int block, int offset) {
  uint8_t* at = kv.base + (size_t)block * kv.block_bytes;
  const size_t value = kv_value_bytes(kv.type), first = (size_t)head * kv.head_dim * kv.block_size;
  const size_t within = offset & (4 / value - 1), scale = (size_t)head * kv.block_size + offset;
  const size_t entries = kv_value_entries(kv.type, kv.head_dim), before = (size_t)head * entries * kv.block_size;
  const size_t groups = (size_t)head * (kv.head_dim / kValueGroup) * 2 * kv.block_size;
  return {at + first * value + (size_t)offset * 4,
          (size_t)kv.block_size * 4,
          at + kv.v_offset + (before + (offset - within) * entries + within) * value,
          (float*)(at + kv.k_scale_offset) + scale,
          (float*)(at + kv.v_scale_offset) + scale,
          (uint16_t*)(at + kv.v_scale_offset) + groups + offset};
}

// Copies what n keys and their values are decoded with. `kv` describes both places, except for their block size, which
// follows from k_step.
static inline void copy_scales(const KvLayer& kv, const KvPlace& from, const KvPlace& to, int n) {
  if (!is_quantised(kv.type)) return;
  memcpy(to.k_scale, from.k_scale, n * sizeof(float));
  if (kv.type == KvType::INT8) {
    memcpy(to.v_scale, from.v_scale, n * sizeof(float));
  } else {
    for (int i = 0; i < kv.head_dim / kValueGroup * 2; ++i)
      memcpy(to.v_group + i * (to.k_step / 4), from.v_group + i * (from.k_step / 4), n * sizeof(uint16_t));
  }
}

// Copies one head's key and value. `kv` describes both places, except for their block size.
static inline void copy_key(const KvLayer& kv, const KvPlace& from, const KvPlace& to) {
  const size_t value = kv_value_bytes(kv.type), words = kv.head_dim * value / 4;
  for (size_t w = 0; w < words; ++w) memcpy(to.k + w * to.k_step, from.k + w * from.k_step, 4);
  for (int d = 0; d < kv_value_entries(kv.type, kv.head_dim); ++d) memcpy(to.v + 4 * d, from.v + 4 * d, value);
  copy_scales(kv, from, to, 1);
}

// Copies 16 keys and their values. The first is at a multiple of 16.
static inline void copy_16_keys(const KvLayer& kv, const KvPlace& from, const KvPlace& to) {
  const size_t value = kv_value_bytes(kv.type), words = kv.head_dim * value / 4;
  for (size_t w = 0; w < words; ++w) memcpy(to.k + w * to.k_step, from.k + w * from.k_step, 64);
  memcpy(to.v, from.v, 16 * kv_value_entries(kv.type, kv.head_dim) * value);
  copy_scales(kv, from, to, 16);
}

}  // namespace octavo
