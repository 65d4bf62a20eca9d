// The gradient of axis_attention in tiles of 16 rows.
#pragma once

#include "axis_tiles.cuh"

namespace pavdit::cuda {
namespace {

// The sums of one tile to memory, back through norm and rotation. dq and dk still lack the factor `scale`.
template <typename T, int kChunks>
__device__ __forceinline__ void write_gradient(Sums<kChunks>& grad, float scale, const Preparation& how,
                                               const TileRows& rows, const T* const (&source)[2], int width,
                                               T* const (&target)[2], float (&dweight)[kChunks]) {
  if (how.weight != nullptr || how.cosines != nullptr) {
    Tile<T, kChunks> x{};
    if (how.weight != nullptr) load_tile(source, width, x);
    prepare_backward(how, rows.token, width, x, grad, dweight);
  }
  store_tile(grad, {scale, scale}, target, width);
}

// The block's share of dq_weight and dk_weight, one warp after the other so that the order is fixed.
template <int kChunks>
__device__ __forceinline__ void write_partial(const AxisCall& call, const float (&dq_weight)[kChunks],
                                              const float (&dk_weight)[kChunks],
                                              float* shared) {  // [2, columns]
  constexpr int kColumns = kChunks * kChunkColumns;
  for (int i = threadIdx.x; i < 2 * kColumns; i += blockDim.x) shared[i] = 0.0f;
  for (int turn = 0; turn < int(blockDim.x) / kWarp; ++turn) {
    __syncthreads();
    if (int(threadIdx.x) / kWarp != turn) continue;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = lane_column(c) + lane_row();
      shared[column] += dq_weight[c];
      shared[kColumns + column] += dk_weight[c];
    }
  }
  __syncthreads();
  float* partial = call.partial + int64_t(blockIdx.x) * 2 * call.width;
  for (int i = threadIdx.x; i < call.width; i += blockDim.x) {
    partial[i] = shared[i] * call.scale;
    partial[call.width + i] = shared[kColumns + i] * call.scale;
  }
}

// Several problems of up to 16 keys per warp; everything stays in registers. Three blocks of 64 columns fit a
// multiprocessor, which ptxas would miss by a few registers.
template <typename T, int kChunks>
__global__ __launch_bounds__(kWarps* kWarp, kChunks == 2 ? 3 : 1) void axis_attention_packed_bwd_kernel(
    const __grid_constant__ AxisCall call, const int problems_per_tile, const uint32_t tiles) {
  constexpr int kColumns = kChunks * kChunkColumns;
  float* shared = dynamic_shared<float>();  // [2, columns] of weights, then of their gradients
  const Preparations how = preparations(call, kColumns, shared);
  float dq_weight[kChunks] = {}, dk_weight[kChunks] = {};

#pragma unroll 1
  for (uint32_t index = blockIdx.x * kWarps + threadIdx.x / kWarp; index < tiles;
       index += gridDim.x * kWarps) {
    WarpProblems<true> problems;
    problems.find(call.problems, index, problems_per_tile);
    const TileRows query_rows = tile_rows<true>(call.query_rows, problems.count, 0, lane_row());
    const TileRows key_rows = tile_rows<true>(call.key_rows, problems.count, 0, lane_row());
    const unsigned seen = problems.seen_keys(call, 0);
    TileRows seen_rows = key_rows;
    hide(seen, seen_rows);
    const T *q_rows[2], *k_rows[2], *v_rows[2], *grad_rows[2];
    problems.pointers(call.problems, kQ, static_cast<const T*>(call.q), query_rows, q_rows);
    problems.pointers(call.problems, kK, static_cast<const T*>(call.k), seen_rows, k_rows);
    problems.pointers(call.problems, kV, static_cast<const T*>(call.v), seen_rows, v_rows);
    problems.pointers(call.problems, kOut, static_cast<const T*>(call.grad), query_rows, grad_rows);
    Tile<T, kChunks> q, k, v, grad;
    load_tile(q_rows, call.width, q);
    load_tile(k_rows, call.width, k);
    load_tile(grad_rows, call.width, grad);
    load_tile(v_rows, call.width, v);
    prepare(how.q, query_rows.token, call.width, q);
    prepare(how.k, seen_rows.token, call.width, k);

    unsigned bits[2];
    seen_by<true>(seen, query_rows, call.keys, bits);
    Square weights = scores(q, k);
    Softmax softmax;
    softmax.next(weights, bits, call.scale * kLog2E);
    float share[2], mean[2] = {};
    softmax.finish(share);
    Square dweights = scores(grad, v);
    each_entry([&](int n, int i, int half, int column) {
      const bool counts = bits[half] >> column & 1;
      weights.v[n][i] = counts ? weights.v[n][i] * share[half] : 0.0f;  // the share may be NaN
      if (counts) mean[half] += weights.v[n][i] * dweights.v[n][i];
    });
    mean[0] = quad_sum(mean[0]);
    mean[1] = quad_sum(mean[1]);
    each_entry([&](int n, int i, int half, int column) {
      const float ds = weights.v[n][i] * (dweights.v[n][i] - mean[half]);
      dweights.v[n][i] = bits[half] >> column & 1 ? ds : 0.0f;
    });

    Sums<kChunks> sums;
    T* target[2];
    product_apart(transposed(rounded<T>(weights)), grad, query_rows.problem, key_rows.problem, problems.count,
                  sums);
    problems.pointers(call.problems, kDv, static_cast<T*>(call.dv), key_rows, target);
    store_tile(sums, {1.0f, 1.0f}, target, call.width);
    const Weights ds = rounded<T>(dweights);
    product_apart(ds, k, key_rows.problem, query_rows.problem, problems.count, sums);
    problems.pointers(call.problems, kDq, static_cast<T*>(call.dq), query_rows, target);
    write_gradient(sums, call.scale, how.q, query_rows, q_rows, call.width, target, dq_weight);
    product_apart(transposed(ds), q, query_rows.problem, key_rows.problem, problems.count, sums);
    problems.pointers(call.problems, kDk, static_cast<T*>(call.dk), key_rows, target);
    write_gradient(sums, call.scale, how.k, key_rows, k_rows, call.width, target, dk_weight);
  }
  if (call.partial != nullptr) write_partial(call, dq_weight, dk_weight, shared + 2 * kColumns);
}

// A warp per tile of 16 keys of a problem. First it takes 16 queries: their softmax, dq. Then its keys: dk,
// dv.
template <typename T, int kChunks>
__global__ __launch_bounds__(kMaxWarps* kWarp) void axis_attention_long_bwd_kernel(
    const __grid_constant__ AxisCall call, const int key_tiles, const uint32_t rounds) {
  constexpr int kColumns = kChunks * kChunkColumns;
  constexpr bool kApart = kChunks > 2;  // dv and dk one after the other: together they would spill
  // Of every query: log2 of the sum of exp2(scores), and sum of p dp.
  __shared__ float2 stats[kMaxWarps * kTileRows];
  float* shared = dynamic_shared<float>();  // [2, columns] of weights, then of their gradients
  const Preparations how = preparations(call, kColumns, shared);
  float dq_weight[kChunks] = {}, dk_weight[kChunks] = {};
  const int warp = int(threadIdx.x) / kWarp, own_tile = warp % key_tiles, first_warp = warp - own_tile;
  const int query_tiles = (call.queries + kTileRows - 1) / kTileRows, width = call.width;
  const float scale = call.scale * kLog2E;

#pragma unroll 1
  for (uint32_t round = blockIdx.x; round < rounds; round += gridDim.x) {
    const uint32_t problem = round * (blockDim.x / kWarp / key_tiles) + warp / key_tiles;
    const bool active = problem < call.problems.count;
    WarpProblems<false> problems;
    problems.find(call.problems, active ? problem : 0, 1);
    const auto tile_of = [&](AxisTensor tensor, const void* data, const TileRows& rows, const T*(&from)[2],
                             Tile<T, kChunks>& tile) {
      problems.pointers(call.problems, tensor, static_cast<const T*>(data), rows, from);
      load_tile(from, width, tile);
    };
    const T *from[2], *unused[2];
    T* target[2];

    if (active && own_tile < query_tiles) {
      const TileRows query_rows = tile_rows<false>(call.query_rows, 1, own_tile, lane_row());
      Tile<T, kChunks> q, grad;
      tile_of(kQ, call.q, query_rows, from, q);
      tile_of(kOut, call.grad, query_rows, unused, grad);
      prepare(how.q, query_rows.token, width, q);
      // Calls f(k, scores, dp, bits) for every tile of keys.
      const auto over_keys = [&](auto f) {
#pragma unroll 1
        for (int tile = 0; tile < key_tiles; ++tile) {
          const unsigned seen = problems.seen_keys(call, tile);
          TileRows key_rows = tile_rows<false>(call.key_rows, 1, tile, lane_row());
          hide(seen, key_rows);
          unsigned bits[2];
          seen_by<false>(seen, query_rows, call.keys, bits);
          Tile<T, kChunks> rows;
          tile_of(kV, call.v, key_rows, unused, rows);
          Square dweights = scores(grad, rows);
          tile_of(kK, call.k, key_rows, unused, rows);
          prepare(how.k, key_rows.token, width, rows);
          Square weights = scores(q, rows);
          f(rows, weights, dweights, bits);
        }
      };
      Softmax softmax;
      float mean[2] = {}, share[2], log_sum[2];
      over_keys([&](const auto&, Square& weights, const Square& dweights, const unsigned (&bits)[2]) {
        const float2 shrink = softmax.next(weights, bits, scale);
        mean[0] *= shrink.x;
        mean[1] *= shrink.y;
        each_entry([&](int n, int i, int half, int) { mean[half] += weights.v[n][i] * dweights.v[n][i]; });
      });
      softmax.finish(share);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mean[half] = quad_sum(mean[half]) * share[half];
        log_sum[half] = softmax.log_sum(half);
        if (threadIdx.x % 4 == 0) {
          stats[warp * kTileRows + lane_row() + 8 * half] = make_float2(log_sum[half], mean[half]);
        }
      }
      Sums<kChunks> dq{};
      over_keys([&](const auto& k, const Square& weights, Square& dweights, const unsigned (&bits)[2]) {
        each_entry([&](int n, int i, int half, int column) {
          const float p = exp2f(weights.v[n][i] * scale - log_sum[half]);
          dweights.v[n][i] = bits[half] >> column & 1 ? p * (dweights.v[n][i] - mean[half]) : 0.0f;
        });
        add_product(rounded<T>(dweights), k, dq);
      });
      problems.pointers(call.problems, kDq, static_cast<T*>(call.dq), query_rows, target);
      write_gradient(dq, call.scale, how.q, query_rows, from, width, target, dq_weight);
    }
    __syncthreads();
    if (active) {
      const TileRows key_rows = tile_rows<false>(call.key_rows, 1, own_tile, lane_row());
      TileRows seen_rows = key_rows;
      hide(problems.seen_keys(call, own_tile), seen_rows);
      // Adds to dv, or to dk, or to both, from every tile of queries.
      const auto over_queries = [&](auto add_dv, auto add_dk, Sums<kChunks>& dv, Sums<kChunks>& dk) {
#pragma unroll 1
        for (int tile = 0; tile < query_tiles; ++tile) {
          const TileRows query_rows = tile_rows<false>(call.query_rows, 1, tile, lane_row());
          Tile<T, kChunks> rows, queries, grad;
          tile_of(kK, call.k, seen_rows, from, rows);
          prepare(how.k, seen_rows.token, width, rows);
          tile_of(kQ, call.q, query_rows, unused, queries);
          prepare(how.q, query_rows.token, width, queries);
          Square weights = scores(rows, queries);  // [key][query]
          const float2* stat = stats + (first_warp + tile) * kTileRows;
          each_entry([&](int n, int i, int half, int column) {
            const bool counts = seen_rows.there[half] && kTileRows * tile + column < call.queries;
            weights.v[n][i] = counts ? exp2f(weights.v[n][i] * scale - stat[column].x) : 0.0f;
          });
          tile_of(kOut, call.grad, query_rows, unused, grad);
          if constexpr (add_dv.value) add_product(rounded<T>(weights), grad, dv);
          if constexpr (add_dk.value) {
            tile_of(kV, call.v, seen_rows, unused, rows);
            Square dweights = scores(rows, grad);
            each_entry([&](int n, int i, int half, int column) {
              const bool counts = seen_rows.there[half] && kTileRows * tile + column < call.queries;
              const float ds = weights.v[n][i] * (dweights.v[n][i] - stat[column].y);
              dweights.v[n][i] = counts ? ds : 0.0f;
            });
            add_product(rounded<T>(dweights), queries, dk);
          }
        }
      };
      Sums<kChunks> dk{}, dv{};
      if constexpr (kApart) {
        over_queries(std::true_type{}, std::false_type{}, dv, dk);
      } else {
        over_queries(std::true_type{}, std::true_type{}, dv, dk);
      }
      problems.pointers(call.problems, kDv, static_cast<T*>(call.dv), key_rows, target);
      store_tile(dv, {1.0f, 1.0f}, target, width);
      if constexpr (kApart) over_queries(std::false_type{}, std::true_type{}, dv, dk);
      problems.pointers(call.problems, kDk, static_cast<T*>(call.dk), key_rows, target);
      write_gradient(dk, call.scale, how.k, key_rows, from, width, target, dk_weight);
    }
    __syncthreads();  // stats are free again
  }
  if (call.partial != nullptr) write_partial(call, dq_weight, dk_weight, shared + 2 * kColumns);
}

}  // namespace
}  // namespace pavdit::cuda
