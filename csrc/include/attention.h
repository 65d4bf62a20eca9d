// The attention of one problem, a few queries over a few keys in float32, for the CPU kernels that differ in
// where their rows lie.
//
//   p_ij  = softmax over the keys j of scale q_i . k_j,   out_i = sum over j of p_ij v_j     0 without keys
//   dp_ij = g_i . v_j,   ds_ij = scale p_ij (dp_ij - sum over j of p_ij dp_ij)     g: the gradient of out
//   dv_j  = sum of p_ij g_i,   dq_i = sum of ds_ij k_j,   dk_j = sum of ds_ij q_i
//
// Up to 16 keys, short_attention.h has the scores. Beyond, scores lie as [key][query]: a vector holds one
// key's scores for several queries, so the softmax needs no sum across lanes. Every sum of products, forward
// and backward, is then the one function `product`. Queries are worked on in tiles, so that the scores of
// many keys stay in the L1 cache.
//
// Rows are read, and results written, up to the next multiple of kNarrow columns beyond the width: such rows
// may lie in memory where the width is a multiple itself, all others in scratch.
#pragma once

#include "attention_scratch.h"
#include "product.h"
#include "rows.h"
#include "short_attention.h"
#include "vec.h"

namespace pavdit {
namespace {

struct Problem {
  int64_t queries, keys, width;
  float scale;  // of the scores, 1 / sqrt(width) as a rule
};

struct Operands {
  Rows q, k, v;
  Result out;
};

// Cut from attention_scratch(keys, width) floats.
struct AttentionScratch {
  float* turned;              // [width, lanes]: a tile of q or grad, transposed
  float *weights, *dweights;  // [keys, lanes]: p, and dp or ds

  AttentionScratch(float* scratch, int64_t keys, int64_t width)
      : turned(scratch),
        weights(turned + kQueryTile * row_scratch(width)),
        dweights(weights + kQueryTile * keys) {}
};

// Whether float32 rows of this width may lie in memory instead of in scratch.
constexpr bool whole_rows(int64_t width) {
  return width % kNarrow == 0;
}

// [key][query], a tile of them; `lanes` are the queries in whole narrow vectors.
struct Scores {
  float* data;
  int64_t keys, queries, lanes;
};

// out[j][i] = rows[j] . columns[i]. `turned` is overwritten.
inline void dots(const Rows& rows, const Rows& columns, int64_t width, float* turned, const Scores& out) {
  if (out.queries == 1) {  // to transpose would cost more than the products
    for (int64_t j = 0; j < out.keys; ++j) {
      Narrow sum = {};
      for (int64_t i = 0; i < width; i += kNarrow) {
        sum += read<Narrow>(rows.data + j * rows.stride + i) * read<Narrow>(columns.data + i);
      }
      float total = 0.0f;
      for (int lane = 0; lane < kNarrow; ++lane) total += sum[lane];
      write(out.data + j * out.lanes, Narrow{} + total);
    }
    return;
  }
  transpose(columns.data, columns.stride, out.queries, width, turned, out.lanes);
  product({rows.data, rows.stride, 1}, {turned, out.lanes}, {out.data, out.lanes}, out.keys, width,
          out.lanes);
}

// Calls body(V{}, query) for all queries, a whole vector at a time.
template <typename Body>
inline void over_queries(const Scores& scores, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= scores.lanes; i += kLanes) body(Floats{}, i);
  for (; i < scores.lanes; i += kNarrow) body(Narrow{}, i);
}

// Scores to weights.
inline void softmax(const Scores& scores, float scale) {
  over_queries(scores, [&](auto zero, int64_t i) {
    using V = decltype(zero);
    float* column = scores.data + i;
    V top = zero - __builtin_inff(), sum = zero;
    for (int64_t j = 0; j < scores.keys; ++j) {
      const V score = read<V>(column + j * scores.lanes);
      top = score > top ? score : top;
    }
    for (int64_t j = 0; j < scores.keys; ++j) {
      const V weight = exp_of_negative((read<V>(column + j * scores.lanes) - top) * scale);
      write(column + j * scores.lanes, weight);
      sum += weight;
    }
    const V share = 1.0f / sum;
    for (int64_t j = 0; j < scores.keys; ++j) {
      write(column + j * scores.lanes, read<V>(column + j * scores.lanes) * share);
    }
  });
}

// dp to ds, beside the weights p.
inline void softmax_backward(const Scores& weights, float* dweights, float scale) {
  over_queries(weights, [&](auto zero, int64_t i) {
    using V = decltype(zero);
    V mean = zero;
    for (int64_t j = 0; j < weights.keys; ++j) {
      mean += read<V>(weights.data + j * weights.lanes + i) * read<V>(dweights + j * weights.lanes + i);
    }
    for (int64_t j = 0; j < weights.keys; ++j) {
      float* dweight = dweights + j * weights.lanes + i;
      write(dweight, read<V>(weights.data + j * weights.lanes + i) * (read<V>(dweight) - mean) * scale);
    }
  });
}

// Calls body(first query, how many) for tiles of about the same size.
template <typename Body>
inline void over_query_tiles(int64_t queries, Body body) {
  const int64_t tiles = (queries + kQueryTile - 1) / kQueryTile;
  for (int64_t tile = 0, first = 0; tile < tiles; ++tile) {
    const int64_t left = queries - first, each = padded((left + tiles - tile - 1) / (tiles - tile), kNarrow);
    const int64_t count = each < left ? each : left;
    body(first, count);
    first += count;
  }
}

inline Rows rows_from(const Rows& rows, int64_t first) {
  return {rows.data + first * rows.stride, rows.stride};
}

inline Result rows_from(const Result& rows, int64_t first) {
  return {rows.data + first * rows.row, rows.row};
}

inline void attend_tiles(const Problem& problem, const Operands& of, const AttentionScratch& work) {
  over_query_tiles(problem.queries, [&](int64_t first, int64_t count) {
    const Scores scores{work.weights, problem.keys, count, padded(count, kNarrow)};
    dots(of.k, rows_from(of.q, first), problem.width, work.turned, scores);
    softmax(scores, problem.scale);
    product({work.weights, 1, scores.lanes}, {of.v.data, of.v.stride}, rows_from(of.out, first), count,
            problem.keys, padded(problem.width, kNarrow));
  });
}

template <int kKeys>
__attribute__((noinline)) void attend_few(Few<kKeys>, const Problem& problem, const Operands* of,
                                          int64_t count, float* scratch) {
  using Keys = Few<kKeys>;
  const int64_t columns = padded(problem.width, kNarrow), each = Keys::scores(problem.queries);
  float *scores = scratch, *weights = scratch + count * each;
  for (int64_t n = 0; n < count; ++n) {
    Keys::dots(problem.queries, columns, of[n].q, of[n].k, scores + n * each);
  }
  for (int64_t n = 0; n < count; ++n) {
    Keys::softmax(problem.queries, scores + n * each, problem.scale, weights + n * each);
  }
  for (int64_t n = 0; n < count; ++n) {
    Keys::mix(problem.queries, columns, weights + n * each, of[n].v, of[n].out);
  }
}

inline bool are_few(const Problem& problem) {
  return problem.queries <= kFew && problem.keys > 0 && problem.keys <= kFew;
}

// `count` problems of one size, at most problems_at_once(queries, keys).
inline void attend(const Problem& problem, const Operands* of, int64_t count, const AttentionScratch& work) {
  if (are_few(problem)) {
    return with_few(problem.keys, [&](auto few) { attend_few(few, problem, of, count, work.turned); });
  }
  for (int64_t n = 0; n < count; ++n) attend_tiles(problem, of[n], work);
}

inline void attend(const Problem& problem, const Rows& q, const Rows& k, const Rows& v, const Result& out,
                   const AttentionScratch& work) {
  const Operands of{q, k, v, out};
  attend(problem, &of, 1, work);
}

template <int kKeys>
void attend_backward_few(Few<kKeys>, const Problem& problem, const Rows& q, const Rows& k, const Rows& v,
                         const Rows& grad, const Result& dq, const Result& dk, const Result& dv,
                         float* scratch) {
  using Keys = Few<kKeys>;
  const int64_t columns = padded(problem.width, kNarrow), count = Keys::scores(problem.queries);
  float *scores = scratch, *dscores = scores + count, *weights = dscores + count, *dweights = weights + count;
  Keys::dots(problem.queries, columns, q, k, scores);
  Keys::dots(problem.queries, columns, grad, v, dscores);
  Keys::softmax_backward(problem.queries, scores, dscores, problem.scale, weights, dweights);
  product<Short>({dweights, Keys::kStride, 1}, {k.data, k.stride}, dq, problem.queries, kKeys, columns);
  product<Short>({dweights, 1, Keys::kStride}, {q.data, q.stride}, dk, kKeys, problem.queries, columns);
  product<Short>({weights, 1, Keys::kStride}, {grad.data, grad.stride}, dv, kKeys, problem.queries, columns);
}

// Computes p again. dk and dv must not overlap any row that is read.
inline void attend_backward(const Problem& problem, const Rows& q, const Rows& k, const Rows& v,
                            const Rows& grad, const Result& dq, const Result& dk, const Result& dv,
                            const AttentionScratch& work) {
  if (are_few(problem)) {
    return with_few(problem.keys, [&](auto few) {
      attend_backward_few(few, problem, q, k, v, grad, dq, dk, dv, work.turned);
    });
  }
  const int64_t columns = padded(problem.width, kNarrow);
  over_query_tiles(problem.queries, [&](int64_t first, int64_t count) {
    const Scores scores{work.weights, problem.keys, count, padded(count, kNarrow)};
    const Scores dscores{work.dweights, problem.keys, count, scores.lanes};
    const Rows q_tile = rows_from(q, first), grad_tile = rows_from(grad, first);
    dots(k, q_tile, problem.width, work.turned, scores);
    softmax(scores, problem.scale);
    dots(v, grad_tile, problem.width, work.turned, dscores);
    softmax_backward(scores, work.dweights, problem.scale);
    product({work.dweights, 1, scores.lanes}, {k.data, k.stride}, rows_from(dq, first), count, problem.keys,
            columns);
    product({work.dweights, scores.lanes, 1}, {q_tile.data, q_tile.stride}, dk, problem.keys, count, columns,
            first > 0);
    product({work.weights, scores.lanes, 1}, {grad_tile.data, grad_tile.stride}, dv, problem.keys, count,
            columns, first > 0);
  });
}

}  // namespace
}  // namespace pavdit
