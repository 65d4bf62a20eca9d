// Division by a number that is known at launch: a multiplication instead of some thirty instructions.
#pragma once

#include <cstdint>

namespace pavdit::cuda {

// Exact for numbers below 2^31 (Granlund and Montgomery, 1994, figure 4.1).
struct Divider {
  uint32_t divisor = 1, factor = 1, shift = 0;

  Divider() = default;
  explicit Divider(int64_t by) : divisor(uint32_t(by)) {
    while ((uint64_t(1) << shift) < divisor) ++shift;
    factor = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - divisor)) / divisor + 1);
  }

  __device__ __forceinline__ uint32_t quotient(uint32_t of) const {
    return (__umulhi(of, factor) + of) >> shift;
  }
};

}  // namespace pavdit::cuda
