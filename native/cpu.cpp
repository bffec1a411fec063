// Which of the compiled instruction sets this processor can run.
#include <cstring>

#include "kernels/kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace octavo {

#define OCTAVO_ISA(name)      \
  namespace name {            \
  const KernelTable& table(); \
  }
OCTAVO_ISA(portable)
#if defined(__x86_64__)
OCTAVO_ISA(avx2)
OCTAVO_ISA(avx512)
OCTAVO_ISA(amx)
#elif defined(__aarch64__)
OCTAVO_ISA(neon)
OCTAVO_ISA(i8mm)
#endif

namespace {
#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
#if defined(OCTAVO_EMULATE_AVX512)
  return has_avx2();
#else
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
#endif
}
// Linux gives a process the tile registers only on request (Documentation/arch/x86/xstate.rst).
bool has_amx() {
#if defined(OCTAVO_EMULATE_AVX512)
  return has_avx2();
#elif defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = has_avx512() && __builtin_cpu_supports("amx-tile") &&
                              __builtin_cpu_supports("amx-int8") &&
                              syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}
#elif defined(__aarch64__) && defined(__linux__)
// Bits of the kernel's ABI (Documentation/arch/arm64/elf_hwcaps.rst); older C libraries do not name the second.
bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1); }
#elif defined(__aarch64__) && defined(__APPLE__)
bool has(const char* feature) {
  int value = 0;
  size_t size = sizeof value;
  return !sysctlbyname(feature, &value, &size, nullptr, 0) && value;
}
bool has_dotprod() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_dotprod() && has("hw.optional.arm.FEAT_I8MM"); }
#elif defined(__aarch64__)
bool has_dotprod() { return false; }
bool has_i8mm() { return false; }
#endif
}  // namespace

const KernelTable* kernels(const char* isa) {
  auto is = [isa](const char* name) { return !std::strcmp(isa, name); };
  if (is("portable")) return &portable::table();
#if defined(__x86_64__)
  if (is("avx2") && has_avx2()) return &avx2::table();
  if (is("avx512") && has_avx512()) return &avx512::table();
  if (is("amx") && has_amx()) return &amx::table();
#elif defined(__aarch64__)
  if (is("neon") && has_dotprod()) return &neon::table();
  if (is("i8mm") && has_i8mm()) return &i8mm::table();
#endif
  return nullptr;
}

}  // namespace octavo
