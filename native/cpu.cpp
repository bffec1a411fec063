// Which of the compiled instruction sets this processor can run.
#include <cstring>

#include "kernels/kernels.h"

namespace octavo {

namespace portable {
const KernelTable& table();
}
#if defined(__x86_64__)
namespace avx2 {
const KernelTable& table();
}
namespace avx512 {
const KernelTable& table();
}
#endif

const KernelTable* kernels(const char* isa) {
  if (!std::strcmp(isa, "portable")) return &portable::table();
#if defined(__x86_64__)
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!std::strcmp(isa, "avx2") && has_avx2) return &avx2::table();
#if defined(OCTAVO_EMULATE_AVX512)
  if (!std::strcmp(isa, "avx512") && has_avx2) return &avx512::table();
#else
  if (!std::strcmp(isa, "avx512") && has_avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    return &avx512::table();
#endif
#endif
  return nullptr;
}

}  // namespace octavo
