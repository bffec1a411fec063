// The pool under ThreadSanitizer, over many runs: every unit of every operation runs once, after all units of the
// operation before it.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "threads.h"

using octavo::Pool;

struct Check final : Pool::Job {
  std::vector<int> units_of;
  std::vector<std::vector<int>> runs;  // written without atomics: the pool must order them
  int ops() const override { return int(units_of.size()); }
  int units(int op) const override { return units_of[size_t(op)]; }
  void run(int op, int begin, int end, int) override {
    if (op > 0)
      for (int count : runs[size_t(op) - 1])
        if (count != 1) std::abort();  // the operation before must be complete, and visible
    for (int u = begin; u < end; ++u) ++runs[size_t(op)][size_t(u)];
  }
};

int main() {
  std::srand(1);
  for (int threads : {1, 2, 3, 5}) {
    Pool pool(threads);
    for (int round = 0; round < 300; ++round) {
      Check job;
      for (int op = 0, n = 1 + std::rand() % 20; op < n; ++op) job.units_of.push_back(std::rand() % 40);
      for (int units : job.units_of) job.runs.emplace_back(size_t(units), 0);
      pool.run(job);
      for (const auto& op : job.runs)
        for (int count : op)
          if (count != 1) return std::puts("a unit did not run once"), 1;
      // The workers park, and must wake again.
      if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  std::puts("ok");
}
