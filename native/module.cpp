// The Python module octavo._native: everything that Python sees of the native core.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "kernels/kernels.h"

namespace nb = nanobind;

void bind_limits(nb::module_& m);
void bind_matmul(nb::module_& m);
void bind_ops(nb::module_& m);
void bind_plan(nb::module_& m);

NB_MODULE(_native, m) {
  m.doc() = "Octavo's native core: packed weights, the KV cache, step plans and the kernels of each instruction set.";
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (const char* name : octavo::kIsaNames)
          if (octavo::kernels(name)) names.emplace_back(name);
        return names;
      },
      "Instruction sets that this build and this processor have, best first.");
  bind_limits(m);
  bind_matmul(m);
  bind_ops(m);
  bind_plan(m);
}
