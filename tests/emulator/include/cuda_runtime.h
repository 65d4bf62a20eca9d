// Stands in for CUDA's header on the host: what the kernels of csrc/cuda use, and nothing else.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorUnknown = 999 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

// The fault itself is kept until the check in stream.h asks for its text.
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

using std::max;
using std::min;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

namespace emulator {

template <typename To, typename From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "want one size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
T shuffle(unsigned mask, T value, unsigned source) {
  if (mask != kAllLanes) std::abort();  // our kernels know no other mask
  const Slots all = exchange(Collective::kShuffle, &value, sizeof(T));
  std::memcpy(&value, all[source % 32], sizeof(T));
  return value;
}

inline unsigned lane() {
  return thread_index.x % 32;
}

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = emulator::lane();
  return emulator::shuffle(mask, value, lane / width * width + unsigned(source) % width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other) {
  return emulator::shuffle(mask, value, emulator::lane() ^ unsigned(other));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  const unsigned lane = emulator::lane();
  return emulator::shuffle(mask, value, lane + by < 32 ? lane + by : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  const unsigned lane = emulator::lane();
  return emulator::shuffle(mask, value, lane >= by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  if (mask != emulator::kAllLanes) std::abort();
  const bool mine = predicate != 0;
  const emulator::Slots all = emulator::exchange(emulator::Collective::kVote, &mine, 1);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) votes |= unsigned(all[lane][0]) << lane;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == emulator::kAllLanes;
}
inline void __syncwarp(unsigned = emulator::kAllLanes) {
  emulator::exchange(emulator::Collective::kSyncWarp, "", 0);
}
inline void __syncthreads() {
  emulator::barrier();
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
inline float rsqrtf(float v) {
  return 1.0f / std::sqrt(v);
}
inline float __expf(float v) {
  return std::exp(v);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float v) {
  return 1.0f / v;
}
inline unsigned __float_as_uint(float v) {
  return emulator::bits<unsigned>(v);
}
inline float __uint_as_float(unsigned v) {
  return emulator::bits<float>(v);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return unsigned(uint64_t(a) * b >> 32);
}
inline int __popc(unsigned v) {
  return __builtin_popcount(v);
}
inline int __ffs(int v) {
  return __builtin_ffs(v);
}
inline int __clz(int v) {
  return v == 0 ? 32 : __builtin_clz(unsigned(v));
}
inline void sincospif(float v, float* sine, float* cosine) {
  *sine = float(std::sin(M_PI * double(v)));
  *cosine = float(std::cos(M_PI * double(v)));
}
