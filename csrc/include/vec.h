// Vectors of float32 for CPU kernels, as wide as the instruction set that this compilation targets, and the
// conversions from and to the 16-bit types.
//
// Everything here has internal linkage: the same file is compiled for several instruction sets, and an inline
// function that the linker may share would carry AVX-512 code into the baseline path. No std:: for that
// reason.
#pragma once

#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace pavdit {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;  // SSE2 and NEON
#endif

using Floats = float __attribute__((vector_size(kLanes * 4)));
using Words = uint32_t __attribute__((vector_size(kLanes * 4)));
using Halves = uint16_t __attribute__((vector_size(kLanes * 2)));

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename V, typename T>
inline V read(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <typename V, typename T>
inline void write(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// 16-bit lanes to 32-bit lanes and back; gcc 12 makes several instructions of __builtin_convertvector.
inline Words widen(Halves v) {
#if defined(__AVX512F__)
  return bit_cast<Words>(_mm512_cvtepu16_epi32(bit_cast<__m256i>(v)));
#elif defined(__AVX2__)
  return bit_cast<Words>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(v)));
#else
  return __builtin_convertvector(v, Words);
#endif
}

// Of values below 2^16.
inline Halves narrow(Words v) {
#if defined(__AVX512F__)
  return bit_cast<Halves>(_mm512_cvtepi32_epi16(bit_cast<__m512i>(v)));
#elif defined(__AVX2__)
  const __m256i words = bit_cast<__m256i>(v);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0b1000);
  return bit_cast<Halves>(_mm256_castsi256_si128(packed));
#else
  return __builtin_convertvector(v, Halves);
#endif
}

// ---- bfloat16: the upper half of a float32 ----

// Rounds the upper half to nearest even; the lower one is left over.
template <typename W>
inline W bfloat16_rounded(W bits) {
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

// Every NaN becomes the quiet NaN.
template <typename F, typename W>
inline W bfloat16_bits(F value) {
  return value != value ? W{} + 0x7fc0u : bfloat16_rounded(bit_cast<W>(value)) >> 16;
}

// ---- float16 without F16C, exact for subnormals, infinities and NaN ----

template <typename F, typename W>
inline F float16_value(W bits) {
  const W magnitude = (bits & 0x7fffu) << 13;
  const F finite = bit_cast<F>(magnitude) * 0x1p112f;  // moves the exponent's bias from 15 to 127
  const W special = magnitude | 0x7f800000u;
  const W chosen = magnitude >= 0x0f800000u ? special : bit_cast<W>(finite);
  return bit_cast<F>(chosen | ((bits & 0x8000u) << 16));
}

template <typename F, typename W>
inline W float16_bits(F value) {
  const W bits = bit_cast<W>(value);
  const W magnitude = bits & 0x7fffffffu;
  // Rebias, then round to nearest even; what overflows carries into the exponent of infinity.
  const W normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the last place of a float16 is 2^-24, which is the last place of a float32 in [0.5, 1).
  const W subnormal = bit_cast<W>(bit_cast<F>(magnitude) + 0.5f) - 0x3f000000u;
  const W finite = magnitude < 0x38800000u ? subnormal : normal;
  const W special = magnitude > 0x7f800000u ? W{} + 0x7e00u : W{} + 0x7c00u;
  return ((bits >> 16) & 0x8000u) | (magnitude >= 0x47800000u ? special : finite);
}

// ---- load<V>(p) and store(p, v), V = Floats or float ----

template <typename V>
inline V load(const float* p) {
  return read<V>(p);
}

template <typename V>
inline V load(const BFloat16* p) {
  if constexpr (sizeof(V) == sizeof(float)) {
    return bit_cast<float>(uint32_t{p->bits} << 16);
  } else {
    return bit_cast<Floats>(widen(read<Halves>(p)) << 16);
  }
}

template <typename V>
inline V load(const Float16* p) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return bit_cast<Floats>(_mm512_cvtph_ps(read<__m256i>(p)));
#elif defined(__F16C__)
  if constexpr (sizeof(V) == 32) return bit_cast<Floats>(_mm256_cvtph_ps(read<__m128i>(p)));
#else
  if constexpr (sizeof(V) == sizeof(Floats)) {
    return float16_value<Floats, Words>(widen(read<Halves>(p)));
  }
#endif
  if constexpr (sizeof(V) == sizeof(float)) return float16_value<float, uint32_t>(uint32_t{p->bits});
}

inline void store(float* p, float v) {
  *p = v;
}
inline void store(float* p, Floats v) {
  write(p, v);
}

inline void store(BFloat16* p, float v) {
  p->bits = uint16_t(bfloat16_bits<float, uint32_t>(v));
}
inline void store(BFloat16* p, Floats v) {
#if defined(__AVX512BF16__)
  write(p, _mm512_cvtneps_pbh(bit_cast<__m512>(v)));  // one instruction for nine; subnormals become 0
#else
  write(p, narrow(bfloat16_bits<Floats, Words>(v)));
#endif
}

inline void store(Float16* p, float v) {
  p->bits = uint16_t(float16_bits<float, uint32_t>(v));
}
inline void store(Float16* p, Floats v) {
#if defined(__AVX512F__)
  write(p, _mm512_cvtps_ph(bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  write(p, _mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  write(p, narrow(float16_bits<Floats, Words>(v)));
#endif
}

// ---- loops and sums over the columns of a row ----

constexpr int kSlots = 4;  // independent sums, so that an addition need not wait for the one before

// Calls body(V{}, slot, column) with V = Floats while whole vectors are left, then with V = float.
template <typename Body>
inline __attribute__((always_inline)) void over_columns(int64_t width, Body body) {
  int64_t column = 0;
  for (; column + kSlots * kLanes <= width; column += kSlots * kLanes) {
    body(Floats{}, 0, column);
    body(Floats{}, 1, column + kLanes);
    body(Floats{}, 2, column + 2 * kLanes);
    body(Floats{}, 3, column + 3 * kLanes);
  }
  for (; column + kLanes <= width; column += kLanes) body(Floats{}, 0, column);
  for (; column < width; ++column) body(float{}, 0, column);
}

inline float lane_sum(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(bit_cast<__m512>(v));
#else
  float lanes[kLanes];
  write(lanes, v);
  for (int step = kLanes / 2; step > 0; step /= 2) {
    for (int lane = 0; lane < step; ++lane) lanes[lane] += lanes[lane + step];
  }
  return lanes[0];
#endif
}

struct Sum {
  Floats slots[kSlots] = {};
  float rest = 0.0f;

  void add(int slot, Floats v) { slots[slot] += v; }
  void add(int, float v) { rest += v; }
  float total() const { return rest + lane_sum((slots[0] + slots[1]) + (slots[2] + slots[3])); }
};

}  // namespace
}  // namespace pavdit
