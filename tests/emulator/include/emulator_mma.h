// The collectives of csrc/include/mma.cuh, from the fragments' layout in PTX's manual.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace emulator {

template <typename T>
float half_of(uint32_t pair, unsigned index) {
  const uint16_t value = uint16_t(pair >> (16 * index));
  if constexpr (sizeof(T) == sizeof(__half) && std::is_same_v<T, __half>) {
    return __half2float(bits<__half>(value));
  } else {
    return __bfloat162float(bits<__nv_bfloat16>(value));
  }
}

template <typename T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4], b[2];
  } mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}}, of_lane[32];
  const Slots all = exchange(Collective::kMma, &mine, sizeof(mine));
  for (unsigned i = 0; i < 32; ++i) std::memcpy(&of_lane[i], all[i], sizeof(mine));
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      const uint32_t left = of_lane[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
      const uint32_t right = of_lane[column * 4 + k % 8 / 2].b[k / 8];
      d[i] += half_of<T>(left, k % 2) * half_of<T>(right, k % 2);
    }
  }
}

inline uint32_t transpose_8x8(uint32_t pair) {
  const Slots all = exchange(Collective::kTranspose, &pair, sizeof(pair));
  const unsigned g = lane() / 4, t = lane() % 4;
  uint32_t turned = 0;
  for (unsigned i = 0; i < 2; ++i) {  // (g, 2t + i) was (2t + i, g)
    uint32_t source;
    std::memcpy(&source, all[(2 * t + i) * 4 + g / 2], sizeof(source));
    turned |= (source >> (16 * (g % 2)) & 0xffffu) << (16 * i);
  }
  return turned;
}

}  // namespace emulator
