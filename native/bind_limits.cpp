// Measures the machine. kernels/limits.inc has the loops that run, src/octavo/bench/limits.py reports the results.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "bind.h"
#include "memory.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace octavo;

namespace {

template <class Fn>
double seconds(Fn&& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

template <class Fn>
double best_seconds(int repeat, Fn&& body) {
  double best = 1e30;
  for (int r = 0; r < repeat; ++r) best = std::min(best, seconds(body));
  return best;
}

const LimitLoop& loop_named(const KernelTable& table, const std::string& instruction) {
  for (int i = 0; i < table.num_limits; ++i)
    if (instruction == table.limits[i].instruction) return table.limits[i];
  throw std::invalid_argument("no loop of " + instruction);
}

std::vector<std::pair<std::string, std::string>> loops(const std::string& isa) {
  const KernelTable& table = table_of(isa);
  std::vector<std::pair<std::string, std::string>> names;
  for (int i = 0; i < table.num_limits; ++i) names.emplace_back(table.limits[i].kind, table.limits[i].instruction);
  return names;
}

// Runs pieces of about a millisecond, ten for each thread, so that the pool evens out the time that other processes
// take.
double ops_per_second(const std::string& isa, const std::string& instruction, Pool& pool, int repeat) {
  const LimitLoop& loop = loop_named(table_of(isa), instruction);
  nb::gil_scoped_release release;
  int rounds = 1024;
  while (rounds < 1 << 28 && seconds([&] { loop.run(rounds); }) < 1e-3) rounds *= 2;
  const int pieces = 10 * pool.threads();
  const double time = best_seconds(repeat, [&] {
    pool.parallel_for(pieces, [&](int begin, int end) {
      for (int i = begin; i < end; ++i) loop.run(rounds);
    });
  });
  return loop.ops * double(rounds) * double(pieces) / time;
}

// A buffer to read. It must be larger than the caches, or the speed of the caches is measured.
class ReadBuffer {
 public:
  ReadBuffer(Pool& pool, size_t bytes) : memory_(bytes) {
    const int pieces = int((bytes + kPiece - 1) / kPiece);
    pool.parallel_for(pieces, [&](int begin, int end) {  // pages never written would all be one page of zeros
      const size_t from = size_t(begin) * kPiece, to = std::min(memory_.bytes(), size_t(end) * kPiece);
      std::fill(memory_.data() + from, memory_.data() + to, uint8_t(1));
    });
  }
  size_t bytes() const { return memory_.bytes(); }

  double bytes_per_second(const std::string& isa, Pool& pool, int streams, int repeat) {
    const KernelTable& table = table_of(isa);
    nb::gil_scoped_release release;
    const int pieces = 8 * pool.threads();
    const size_t piece = memory_.bytes() / size_t(pieces) / 64 * 64;
    std::atomic<uint64_t> sum{0};
    const double time = best_seconds(repeat, [&] {
      pool.parallel_for(pieces, [&](int begin, int end) {
        sum ^= table.read(memory_.data() + size_t(begin) * piece, size_t(end - begin) * piece, streams);
      });
    });
    return double(piece) * pieces / time;
  }

 private:
  static constexpr size_t kPiece = size_t(1) << 20;
  Memory memory_;
};

}  // namespace

void bind_limits(nb::module_& m) {
  m.def("limit_loops", &loops, "isa"_a, "(kind, instruction) of the instructions whose throughput can be measured.");
  m.def("ops_per_second", &ops_per_second, "isa"_a, "instruction"_a, "pool"_a, "repeat"_a,
        "Operations per second of all the pool's threads together: the best of `repeat` runs of about 10 ms.");
  nb::class_<ReadBuffer>(m, "ReadBuffer", "A buffer that is read to measure the speed of memory.")
      .def(nb::init<Pool&, size_t>(), "pool"_a, "bytes"_a)
      .def_prop_ro("bytes", &ReadBuffer::bytes)
      .def("bytes_per_second", &ReadBuffer::bytes_per_second, "isa"_a, "pool"_a, "streams"_a, "repeat"_a,
           "Bytes per second that all threads read, each from `streams` (1, 2, 4 or 8) places at once; best of "
           "`repeat`.");
}
