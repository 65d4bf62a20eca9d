// Attention over a few keys, at most 16. Scores come from dots of whole rows: a tile of queries and up to 4
// keys keeps one vector of partial sums per score, and a tree adds these up across their lanes, which leaves
// a quad of lanes to every query. Nothing is transposed, and the softmax of a query lies in one quad of a few
// vectors, several queries side by side.
#pragma once

#include "lanes.h"
#include "product.h"
#include "rows.h"
#include "vec.h"

namespace pavdit {
namespace {

template <int kKeys>
struct Few {
  static constexpr int kQuads = (kKeys + 3) / 4;                  // of keys
  static constexpr int kPerQuad = (kKeys + kQuads - 1) / kQuads;  // 6 keys are 3 and 3: no lopsided tile
  static constexpr int kQueries =
      kLanes == 4 ? 2 : kLanes / 4;                       // of a tile: 8 or 16 sums of 16 or 32 registers
  static constexpr int kVectors = 4 * kQueries / kLanes;  // of scores, per tile and quad
  static constexpr int kStride = 4 * kQuads;              // from query to query, of weights

  // Floats of a problem's scores, or of its weights.
  static constexpr int64_t scores(int64_t queries) { return padded(queries, kQueries) * kStride; }

  // scores[tile of queries][quad of keys][query][lane of the quad] = q . k
  static inline void dots(int64_t queries, int64_t columns, const Rows& q, const Rows& k, float* scores) {
    for (int64_t i = 0; i < queries; i += kQueries) {
      const float* rows[kQueries];
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) rows[r] = q.data + (i + r < queries ? i + r : i) * q.stride;
#pragma GCC unroll 4
      for (int quad = 0; quad < kQuads; ++quad, scores += 4 * kQueries) {
        quad_dots(rows, {k.data + quad * kPerQuad * k.stride, k.stride}, columns, scores, quad);
      }
    }
  }

  // Scores to weights [query][key], rows kStride apart.
  static inline void softmax(int64_t queries, const float* scores, float scale, float* weights) {
    for (int64_t i = 0; i < queries; i += kQueries, scores += kStride * kQueries) {
      for (int v = 0; v < kVectors; ++v) {
        Floats p[kQuads];
        softmax_vector(scores + v * kLanes, scale, p);
        store_quads(p, weights + (i + v * (kLanes / 4)) * kStride);
      }
    }
  }

  // out = weights v
  static inline void mix(int64_t queries, int64_t columns, const float* weights, const Rows& v,
                         const Result& out) {
    if constexpr (kKeys > 4) {
      product<Short>({weights, kStride, 1}, {v.data, v.stride}, out, queries, kKeys, columns);
    } else {
      for (int64_t i = 0; i < queries; i += kQueries, weights += kQueries * kStride)
        mix_tile(i, queries, columns, weights, v, out);
    }
  }

  // The same beside dp, in the layout of the scores: p and ds, both as [query][key].
  static inline void softmax_backward(int64_t queries, const float* scores, const float* dp, float scale,
                                      float* weights, float* dscores) {
    for (int64_t i = 0; i < queries; i += kQueries, scores += kStride * kQueries, dp += kStride * kQueries) {
      for (int v = 0; v < kVectors; ++v) {
        Floats p[kQuads], ds[kQuads], mean = {};
        softmax_vector(scores + v * kLanes, scale, p);
#pragma GCC unroll 4
        for (int quad = 0; quad < kQuads; ++quad) {
          ds[quad] = read<Floats>(dp + v * kLanes + quad * 4 * kQueries);
          mean += p[quad] * ds[quad];
        }
        mean = group_sum<4>(mean);
#pragma GCC unroll 4
        for (int quad = 0; quad < kQuads; ++quad) ds[quad] = p[quad] * (ds[quad] - mean) * scale;
        store_quads(p, weights + (i + v * (kLanes / 4)) * kStride);
        store_quads(ds, dscores + (i + v * (kLanes / 4)) * kStride);
      }
    }
  }

 private:
  static constexpr int keys_in(int quad) { return quad + 1 < kQuads ? kPerQuad : kKeys - quad * kPerQuad; }

  static inline __attribute__((always_inline)) void softmax_vector(const float* scores, float scale,
                                                                   Floats (&p)[kQuads]) {
    Floats top = Floats{} - __builtin_inff(), sum = {};
#pragma GCC unroll 4
    for (int quad = 0; quad < kQuads; ++quad) {
      const auto seen = (AllLanes::numbers() & 3u) < uint32_t(keys_in(quad));
      p[quad] = read<Floats>(scores + quad * 4 * kQueries);
      if (keys_in(quad) < 4) p[quad] = seen ? p[quad] : Floats{} - __builtin_inff();
      top = larger(p[quad], top);
    }
    top = group_max<4>(top);
#pragma GCC unroll 4
    for (int quad = 0; quad < kQuads; ++quad) {
      p[quad] = exp_of_negative((p[quad] - top) * scale);
      sum += p[quad];
    }
    const Floats share = 1.0f / group_sum<4>(sum);
#pragma GCC unroll 4
    for (int quad = 0; quad < kQuads; ++quad) p[quad] *= share;
  }

  // A quad of fewer than 4 keys ends in zeros, which the next one overwrites.
  static inline __attribute__((always_inline)) void store_quads(const Floats (&p)[kQuads], float* weights) {
    using Quad = float __attribute__((vector_size(16)));
    struct Parts {
      Quad quad[kLanes / 4];
    };
#pragma GCC unroll 4
    for (int quad = 0; quad < kQuads; ++quad) {
      const Parts parts = bit_cast<Parts>(p[quad]);
#pragma GCC unroll 4
      for (int r = 0; r < kLanes / 4; ++r) write(weights + r * kStride + quad * kPerQuad, parts.quad[r]);
    }
  }

  // All weights of the tile in registers, which the tiles of `product` would load again and again.
  static inline __attribute__((always_inline)) void mix_tile(int64_t first, int64_t queries, int64_t columns,
                                                             const float* weights, const Rows& v,
                                                             const Result& out) {
    Floats p[kQueries][kKeys];
    float* rows[kQueries];
    const float* values[kKeys];
#pragma GCC unroll 4
    for (int r = 0; r < kQueries; ++r) {
      rows[r] =
          out.data + (first + r < queries ? first + r : first) * out.row;  // the weights are the same then
#pragma GCC unroll 4
      for (int j = 0; j < kKeys; ++j) p[r][j] = held(Floats{} + weights[r * kStride + j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kKeys; ++j) values[j] = v.data + j * v.stride;
    const auto mix = [&](auto zero, int64_t i) __attribute__((always_inline)) {
      using V = decltype(zero);
      V sums[kQueries] = {};
#pragma GCC unroll 4
      for (int j = 0; j < kKeys; ++j) {
        const V value = held(read<V>(values[j] + i));
#pragma GCC unroll 4
        for (int r = 0; r < kQueries; ++r) sums[r] += first_lanes<V>(p[r][j]) * value;
      }
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) write(rows[r] + i, sums[r]);
    };
    int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) mix(Floats{}, i);
    if constexpr (kNarrow < kLanes)
      if (i < columns) mix(Narrow{}, i);
  }

  static inline __attribute__((always_inline)) void quad_dots(const float* const (&q)[kQueries],
                                                              const Rows& k, int64_t columns, float* scores,
                                                              int quad) {
    if (keys_in(quad) == kPerQuad) {
      tile_dots<kPerQuad>(q, k, columns, scores);
    } else {
      tile_dots<keys_in(kQuads - 1)>(q, k, columns, scores);
    }
  }

  template <int kCount>
  static inline __attribute__((always_inline)) void tile_dots(const float* const (&q)[kQueries],
                                                              const Rows& k, int64_t columns, float* scores) {
    Floats sums[4 * kQueries] = {};
    const float* keys[kCount];
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) keys[j] = k.data + j * k.stride;
    const auto add = [&](int64_t i, auto load_columns) __attribute__((always_inline)) {
      Floats query[kQueries];
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) query[r] = load_columns(q[r] + i);
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) {
        const Floats key = held(load_columns(keys[j] + i));
#pragma GCC unroll 4
        for (int r = 0; r < kQueries; ++r) sums[4 * r + j] += query[r] * key;
      }
    };
    int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) add(i, [](const float* p) { return read<Floats>(p); });
    if (i < columns) add(i, load_narrow);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) write(scores + v * kLanes, lane_sums(sums + v * kLanes));
  }
};

// Calls run(Few<kKeys>{}) with kKeys = keys, 1..kFew.
template <int kKeys = 1, typename Run>
inline void with_few(int64_t keys, Run run) {
  if (keys == kKeys) return run(Few<kKeys>{});
  if constexpr (kKeys < kFew) with_few<kKeys + 1>(keys, run);
}

}  // namespace
}  // namespace pavdit
