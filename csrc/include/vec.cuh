// 16-byte accesses and conversions for CUDA kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace pavdit::cuda {

constexpr int kPackBytes = 16;  // the widest access of one thread

template <typename T>
inline constexpr int kPack = kPackBytes / int(sizeof(T));  // elements in one access

template <typename T>
struct alignas(kPackBytes) Pack {
  T v[kPack<T>];
};

__device__ __forceinline__ float to_float(float v) {
  return v;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}
__device__ __forceinline__ float to_float(__half v) {
  return __half2float(v);
}

template <typename T>
__device__ __forceinline__ T from_float(float v) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return v;
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(v);
  } else {
    return __float2half_rn(v);
  }
}

// kCount consecutive elements from p.
template <int kCount, typename T>
__device__ __forceinline__ void load_floats(const T* __restrict__ p, float (&values)[kCount]) {
  static_assert(kCount % kPack<T> == 0, "want whole packs");
#pragma unroll
  for (int i = 0; i < kCount; i += kPack<T>) {
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(p + i);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) values[i + j] = to_float(pack.v[j]);
  }
}

template <int kCount, typename T>
__device__ __forceinline__ void store_floats(T* __restrict__ p, const float (&values)[kCount]) {
  static_assert(kCount % kPack<T> == 0, "want whole packs");
#pragma unroll
  for (int i = 0; i < kCount; i += kPack<T>) {
    Pack<T> pack;
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) pack.v[j] = from_float<T>(values[i + j]);
    *reinterpret_cast<Pack<T>*>(p + i) = pack;
  }
}

inline bool aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % kPackBytes == 0;
}

}  // namespace pavdit::cuda
