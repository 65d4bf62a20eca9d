// The two instructions of the tensor cores that short attention needs, for 16-bit types (sm_80 and later).
// Fragments, for lane = 4 g + t; every 32-bit register holds two neighbours, the first in its low half:
//
//   A [16 x 16]  a[0]: (g, 2t), a[1]: (g + 8, 2t), a[2]: (g, 2t + 8), a[3]: (g + 8, 2t + 8)
//   B [16 x 8]   b0: rows 2t, 2t + 1 of column g;  b1: rows 2t + 8, 2t + 9
//   D [16 x 8]   d[0], d[1]: (g, 2t), (g, 2t + 1);  d[2], d[3]: the same of row g + 8; float32
#pragma once

#include <cstdint>

#include "vec.cuh"

#if defined(PAVDIT_EMULATOR)
#include "emulator_mma.h"
#endif

namespace pavdit::cuda {

// d += a b
template <typename T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(PAVDIT_EMULATOR)
  emulator::mma<T>(d, a, b0, b1);
#else
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<T, __half>, "want a 16-bit type");
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#endif
}

// An 8 x 8 matrix whose lane 4 g + t holds (g, 2t) and (g, 2t + 1), transposed.
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t pair) {
#if defined(PAVDIT_EMULATOR)
  return emulator::transpose_8x8(pair);
#else
  uint32_t turned;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
  return turned;
#endif
}

// Two float32 values in one register, rounded to nearest, and back.
template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float first, float second) {
  uint32_t pair;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    memcpy(&pair, &both, sizeof(pair));
  } else {
    const __half2 both = __floats2half2_rn(first, second);
    memcpy(&pair, &both, sizeof(pair));
  }
  return pair;
}

template <typename T>
__device__ __forceinline__ float2 unpack_pair(uint32_t pair) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  } else {
    __half2 both;
    memcpy(&both, &pair, sizeof(pair));
    return __half22float2(both);
  }
}

}  // namespace pavdit::cuda
