// Entry points for tests and micro-benchmarks of packing, quantising and matmuls: one call, one thread, no plan.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "act_buffer.h"
#include "memory.h"
#include "pack.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace octavo;

namespace {

template <class T, int Rank>
using In = nb::ndarray<const T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

Floats floats(size_t rows, size_t columns) {
  auto* data = new float[rows * columns]();
  return Floats(data, {rows, columns}, nb::capsule(data, [](void* p) noexcept { delete[] static_cast<float*>(p); }));
}

// One packed weight, without a plan.
struct One {
  int format, N, K, panels;
  size_t stride;
  Memory memory;
  One(const std::string& type, In<uint8_t, 1> source, int N, int K)
      : format(format_of(type.c_str())),
        N(N),
        K(K),
        panels((N + kPanel - 1) / kPanel),
        stride(format < 0 ? 0 : panel_bytes(format, K)),
        memory(size_t(panels) * stride) {
    if (format < 0 || source.size() != size_t(N) * source_row_bytes(format, K))
      throw std::invalid_argument("type or size of the source");
    for (int p = 0; p < panels; ++p) pack_panel(format, source.data(), N, K, p, memory.data() + size_t(p) * stride);
  }
  const uint8_t* panel(int p) const { return memory.data() + size_t(p) * stride; }
};

Floats unpack(const std::string& type, In<uint8_t, 1> source, int N, int K) {
  const One w(type, source, N, K);
  Floats out = floats(size_t(N), size_t(K));
  for (int n = 0; n < N; ++n)
    unpack_row(w.format, w.panel(n / kPanel), n % kPanel, K, out.data() + size_t(n) * size_t(K));
  return out;
}

// Quantises x in tiles of at most max_tile tokens (0: the instruction set's own limit) and multiplies. Returns x @ w.T,
// and the best time of `repeat` matmuls in seconds.
std::tuple<Floats, double> matmul(const std::string& isa, const std::string& type, In<uint8_t, 1> source, int N,
                                  In<float, 2> x, int max_tile, int repeat) {
  const KernelTable* k = kernels(isa.c_str());
  if (!k) throw std::invalid_argument("instruction set '" + isa + "' is not available");
  const int T = int(x.shape(0)), K = int(x.shape(1));
  const One w(type, source, N, K);
  Floats out = floats(size_t(T), size_t(N));
  float y[kMaxTile * kPanel];
  const int limit = max_tile > 0 ? std::min(max_tile, k->max_tile) : k->max_tile;
  double best = 1e30;
  auto store = [&](int p, int t0, int n) {
    for (int t = 0; t < n; ++t)
      std::copy_n(y + t * kPanel, std::min(kPanel, N - p * kPanel),
                  out.data() + size_t(t0 + t) * size_t(N) + p * kPanel);
  };
  auto timed = [&](auto&& body) {
    for (int r = 0; r < repeat; ++r) {
      const auto begin = std::chrono::steady_clock::now();
      body();
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
  };
  if (is_dense(w.format)) {
    timed([&] {
      for (int p = 0; p < w.panels; ++p)
        for (int t0 = 0; t0 < T; t0 += limit) {
          const int n = std::min(limit, T - t0);
          k->dense[w.format - kNumQuantised](w.panel(p), x.data() + size_t(t0) * size_t(K), size_t(K), n, K, y);
          store(p, t0, n);
        }
    });
    return {out, best};
  }
  const PackedFormat& f = kFormats[w.format];
  ActLayout layout(T, K, act_group(f), 1u << side_of(f));
  Memory memory(layout.bytes);
  const ActBuffer act = layout.place(memory.data());
  std::vector<float> scratch(size_t(act.args.padded));
  const int tiles = ActBuffer::tiles(T, limit);
  for (int i = 0; i < tiles; ++i)
    k->quantize(x.data(), size_t(K), nullptr, 0.0f, act.args, act.tile(T, limit, i), scratch.data());
  timed([&] {
    if (k->begin_wide) k->begin_wide(act.args.group);
    for (int p = 0; p < w.panels; ++p)
      for (int i = 0; i < tiles; ++i) {
        const ActTile tile = act.tile(T, limit, i);
        k->tiles[w.format][tile.n - 1](w.panel(p), i == 0 ? Upcoming{w.panel(p + 1), ptrdiff_t(w.stride)} : Upcoming{},
                                       tile, K, y);
        store(p, tile.t0, tile.n);
      }
  });
  return {out, best};
}

// Quantises x as for matmuls with `type`, and returns the values that the int8 codes stand for.
Floats quantized(const std::string& isa, const std::string& type, In<float, 2> x) {
  const KernelTable* k = kernels(isa.c_str());
  const int format = format_of(type.c_str());
  if (!k || format < 0 || is_dense(format)) throw std::invalid_argument("instruction set or type");
  const int T = int(x.shape(0)), K = int(x.shape(1));
  ActLayout layout(T, K, act_group(kFormats[format]), 1u << side_of(kFormats[format]));
  Memory memory(layout.bytes);
  const ActBuffer act = layout.place(memory.data());
  std::vector<float> scratch(size_t(act.args.padded));
  Floats out = floats(size_t(T), size_t(K));
  for (int i = 0; i < ActBuffer::tiles(T, k->max_tile); ++i) {
    const ActTile tile = act.tile(T, k->max_tile, i);
    k->quantize(x.data(), size_t(K), nullptr, 0.0f, act.args, tile, scratch.data());
    for (int t = 0; t < tile.n; ++t)
      for (int j = 0; j < K; ++j)
        out.data()[size_t(tile.t0 + t) * size_t(K) + size_t(j)] =
            tile.scale[j / act.args.group * tile.n + t] *
            float(tile.codes[code_place(code_run(*k, tile.n), tile.n, t, j)]);
  }
  return out;
}

}  // namespace

void bind_matmul(nb::module_& m) {
  m.def("unpack", &unpack, "type"_a, "source"_a, "N"_a, "K"_a, "Packs a tensor and unpacks it again: [N, K] float32.");
  m.def("matmul", &matmul, "isa"_a, "type"_a, "source"_a, "N"_a, "x"_a, "max_tile"_a = 0, "repeat"_a = 1,
        "(x @ w.T [T, N], seconds of the best of `repeat` runs on the calling thread).");
  m.def("quantized", &quantized, "isa"_a, "type"_a, "x"_a,
        "The values of x as int8 activations for matmuls with `type`: [T, K] float32.");
}
