// multiscale_temporal_attention of 17 to 32 frames: a warp per problem, which is two tiles of 16 rows. The
// squares of multiscale_tiles.cuh become two beside each other for each tile of queries.
#pragma once

#include "multiscale_tiles.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kPairWarps = 4;

// One problem's tiles, and which keys of both may be seen.
struct PairOfTiles {
  uint32_t problem;
  const MultiscaleCall& call;
  Seen<2> seen;

  __device__ __forceinline__ PairOfTiles(const MultiscaleCall& call_, uint32_t problem_)
      : problem(problem_), call(call_) {
    seen.bits[0][0] = seen.bits[0][1] = 0xffffu;
    seen.bits[1][0] = seen.bits[1][1] = (1u << (call.frames - kTileRows)) - 1u;
  }

  __device__ __forceinline__ TileRows rows(int tile) const { return TileRows::alone(call, problem, tile); }

  template <typename T, int kChunks, typename Pointer>
  __device__ __forceinline__ void load(const MultiscaleRows<Pointer>& from, int which,
                                       Tile<T, kChunks>& tile) const {
    const T* pointers[2];
    rows(which).rows(from, pointers);
    load_tile(pointers, call.width, tile);
  }

  template <typename T, int kChunks>
  __device__ __forceinline__ void load_mixed_gradients(int which, Tile<T, kChunks>& tile) const {
    const T* pointers[2];
    rows(which).mixed_rows(call.gradients.rates, pointers);
    load_tile(pointers, call.width, tile);
  }

  template <typename T, int kChunks>
  __device__ __forceinline__ void write_gradient(int part, int which, const Sums<kChunks>& sums) const {
    const float whole[2] = {1.0f, 1.0f};
    T* targets[2];
    rows(which).rows(call.gradients.parts[part], targets);
    store_tile(sums, whole, targets, call.width);
  }
};

template <typename T, int kChunks>
__global__ __launch_bounds__(kPairWarps* kWarp) void multiscale_pair_fwd_kernel(
    const __grid_constant__ MultiscaleCall call) {
  if (warp_index() >= call.problems) return;
  const PairOfTiles pair(call, warp_index());
  Tile<T, kChunks> k[2], v[2];
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    pair.load(call.in.parts[1], tile, k[tile]);
    pair.load(call.in.parts[2], tile, v[tile]);
  }
#pragma unroll 1
  for (int tile = 0; tile < 2; ++tile) {
    Tile<T, kChunks> q;
    pair.load(call.in.parts[0], tile, q);
    const auto attend = [&](Square(&weights)[2], T* const(&targets)[2]) {
      Softmax softmax;
      to_weights<false>(weights, pair.seen, call.scale * kLog2E, softmax);
      Sums<kChunks> out{};
      add_product(rounded<T>(weights[0]), v[0], out);
      add_product(rounded<T>(weights[1]), v[1], out);
      float share[2];
      softmax.finish(share);
      store_tile(out, share, targets, call.width);
    };
    Square weights[2] = {scores(q, k[0]), scores(q, k[1])};
    Square mixed_weights[2] = {mixed(weights[0]), mixed(weights[1])};
    const TileRows rows = pair.rows(tile);
    T* targets[2];
    rows.rows(call.out.rates[0], targets);
    attend(weights, targets);
    rows.mixed_rows(call.out.rates, targets);
    attend(mixed_weights, targets);
  }
}

// All squares first, rounded; then one tile of gradients after the other, the rows read again from L1.
template <typename T, int kChunks>
__global__ __launch_bounds__(kPairWarps* kWarp) void multiscale_pair_bwd_kernel(
    const __grid_constant__ MultiscaleCall call) {
  if (warp_index() >= call.problems) return;
  const PairOfTiles pair(call, warp_index());
  Weights to_dq[2][2], to_dv[2][2], mixed_to_dv[2][2];  // [tile of queries][tile of keys]
#pragma unroll
  for (int queries = 0; queries < 2; ++queries) {
    Square weights[2], mixed_weights[2], dscores[2], mixed_dscores[2];
    Tile<T, kChunks> left, right;
    pair.load(call.in.parts[0], queries, left);
#pragma unroll
    for (int keys = 0; keys < 2; ++keys) {
      pair.load(call.in.parts[1], keys, right);
      weights[keys] = scores(left, right);
    }
    pair.load(call.gradients.rates[0], queries, left);
    Tile<T, kChunks> mixed_left;
    pair.load_mixed_gradients(queries, mixed_left);
#pragma unroll
    for (int keys = 0; keys < 2; ++keys) {
      pair.load(call.in.parts[2], keys, right);
      dscores[keys] = scores(left, right);
      mixed_dscores[keys] = scores(mixed_left, right);
    }
    scores_backward(weights, mixed_weights, dscores, mixed_dscores, pair.seen, pair.seen, call.scale);
#pragma unroll
    for (int keys = 0; keys < 2; ++keys) {
      to_dq[queries][keys] = rounded<T>(dscores[keys]);
      to_dv[queries][keys] = transposed(rounded<T>(weights[keys]));
      mixed_to_dv[queries][keys] = transposed(rounded<T>(mixed_weights[keys]));
    }
  }
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    Sums<kChunks> dq{}, dk{}, dv{};
    Tile<T, kChunks> rows;
#pragma unroll
    for (int other = 0; other < 2; ++other) {
      pair.load(call.in.parts[1], other, rows);
      add_product(to_dq[tile][other], rows, dq);
    }
    pair.template write_gradient<T>(0, tile, dq);
#pragma unroll
    for (int other = 0; other < 2; ++other) {
      pair.load(call.in.parts[0], other, rows);
      add_product(transposed(to_dq[other][tile]), rows, dk);
    }
    pair.template write_gradient<T>(1, tile, dk);
#pragma unroll
    for (int other = 0; other < 2; ++other) {
      pair.load(call.gradients.rates[0], other, rows);
      add_product(to_dv[other][tile], rows, dv);
      pair.load_mixed_gradients(other, rows);
      add_product(mixed_to_dv[other][tile], rows, dv);
    }
    pair.template write_gradient<T>(2, tile, dv);
  }
}

}  // namespace
}  // namespace pavdit::cuda
