#include "capability.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace pavdit::cpu {
namespace {

Capability detected() {
#if defined(PAVDIT_X86)
  // x86-64-v3 is AVX2 with FMA and F16C, v4 is AVX-512 F, BW, CD, DQ, VL. As in CMakeLists.txt.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) {
    return __builtin_cpu_supports("avx512bf16") ? Capability::kAvx512Bf16 : Capability::kAvx512;
  }
  if (__builtin_cpu_supports("x86-64-v3")) return Capability::kAvx2;
#endif
  return Capability::kBaseline;
}

Capability wanted(const std::string& word) {
  for (Capability c :
       {Capability::kBaseline, Capability::kAvx2, Capability::kAvx512, Capability::kAvx512Bf16}) {
    if (word == name(c)) return c;
  }
  throw std::runtime_error("PAVDIT_CPU_CAPABILITY: want baseline, avx2, avx512 or avx512bf16, got '" + word +
                           "'");
}

}  // namespace

const char* name(Capability capability) {
  switch (capability) {
    case Capability::kAvx512Bf16:
      return "avx512bf16";
    case Capability::kAvx512:
      return "avx512";
    case Capability::kAvx2:
      return "avx2";
    default:
      return "baseline";
  }
}

Capability capability() {
  static const Capability chosen = [] {
    const char* word = std::getenv("PAVDIT_CPU_CAPABILITY");
    if (word == nullptr || *word == '\0') return detected();
    const Capability limit = wanted(word);
    return limit < detected() ? limit : detected();
  }();
  return chosen;
}

}  // namespace pavdit::cpu
