#pragma once

namespace pavdit::cpu {

// Which of the compilations of a CPU kernel to run.
enum class Capability { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };

// What this processor can do, lowered by PAVDIT_CPU_CAPABILITY=baseline|avx2|avx512|avx512bf16, which never
// raises it. Read once. Throws std::runtime_error where the variable holds another word.
Capability capability();

const char* name(Capability capability);

}  // namespace pavdit::cpu
