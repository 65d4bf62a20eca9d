// Attention of a few queries over a few keys, at most 8 of each. Scores lie as [query][key] here, several
// queries to a vector: kLanes row dots are added up across their lanes in one tree, which leaves them in the
// lanes of one vector, and the softmax of a group of lanes, one query's, happens inside a register. Nothing
// is transposed, and no lane waits for tokens that are not there.
#pragma once

#include "lanes.h"
#include "product.h"
#include "rows.h"
#include "vec.h"

namespace pavdit {
namespace {

constexpr int64_t kFewKeys = kLanes < kFew ? 4 : kFew;

// kKeys keys in groups of 4 or 8 lanes.
template <int kKeys>
struct Few {
  static constexpr int kGroup = kKeys <= 4 ? 4 : 8;
  static constexpr int kQueries = kLanes / kGroup;  // in a vector

  // Scores of a problem, in whole vectors.
  static constexpr int64_t scores(int64_t queries) { return padded(queries * kGroup, kLanes); }

  // scores[query][key] = q . k
  static void dots(int64_t queries, int64_t width, const Rows& q, const Rows& k, float* scores) {
    const float *keys[kKeys], *rows[kQueries];
#pragma GCC unroll 8
    for (int j = 0; j < kKeys; ++j) keys[j] = k.data + j * k.stride;
    for (int64_t i = 0; i < queries; i += kQueries) {
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) rows[r] = q.data + (i + r < queries ? i + r : i) * q.stride;
      write(scores + i * kGroup, row_dots(rows, keys, padded(width, kNarrow)));
    }
  }

  // Scores to weights, 0 for lanes without a key.
  static inline Floats softmax(Floats scores, float scale) {
    const auto seen = (AllLanes::numbers() & uint32_t(kGroup - 1)) < uint32_t(kKeys);
    scores = seen ? scores : Floats{} - __builtin_inff();
    const Floats weights = exp_of_negative((scores - group_max<kGroup>(scores)) * scale);
    return weights / group_sum<kGroup>(weights);
  }

  // dp to ds.
  static inline Floats softmax_backward(Floats weights, Floats dweights, float scale) {
    return weights * (dweights - group_sum<kGroup>(weights * dweights)) * scale;
  }

 private:
  // Lane i kGroup + j is q_i . k_j.
  static inline __attribute__((always_inline)) Floats row_dots(const float* const* q, const float* const* k,
                                                               int64_t columns) {
    Floats sums[kLanes] = {};
    const auto add = [&](int64_t i, auto load_columns) __attribute__((always_inline)) {
      Floats query[kQueries];
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) query[r] = load_columns(q[r] + i);
#pragma GCC unroll 8
      for (int j = 0; j < kKeys; ++j) {
        const Floats key = load_columns(k[j] + i);
#pragma GCC unroll 4
        for (int r = 0; r < kQueries; ++r) sums[r * kGroup + j] += query[r] * key;
      }
    };
    int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) add(i, [](const float* p) { return read<Floats>(p); });
    if (i < columns) add(i, load_narrow);
    return lane_sums(sums);
  }
};

// Calls run(Few<kKeys>{}) with kKeys = keys, 1..kFewKeys.
template <typename Run>
inline void with_few(int64_t keys, Run run) {
  switch (keys) {
    case 1:
      return run(Few<1>{});
    case 2:
      return run(Few<2>{});
    case 3:
      return run(Few<3>{});
    case 4:
      return run(Few<4>{});
  }
  if constexpr (kFewKeys == 8) {
    switch (keys) {
      case 5:
        return run(Few<5>{});
      case 6:
        return run(Few<6>{});
      case 7:
        return run(Few<7>{});
      case 8:
        return run(Few<8>{});
    }
  }
}

}  // namespace
}  // namespace pavdit
