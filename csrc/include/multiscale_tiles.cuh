// What the tiles of multiscale_temporal_attention share: which rows they have, and the squares of the slower
// rates. The layout stands in tile.cuh.
//
// A tile's scores serve all rates. Beside the square of the frames stands a second one, "mixed", whose rows
// are the queries of the two slower rates: of the four rows of a group of four frames, these are
//
//   row 0, row 2: rate 2, the mean of frames 0, 1 and of frames 2, 3;  row 1: rate 4;  row 3: nothing
//
// Its columns are frames as in the first, so both are weights for the same values. Why scores and not rows
// are averaged stands in multiscale_any.cuh.
#pragma once

#include "attention.cuh"
#include "multiscale_problems.cuh"

namespace pavdit::cuda {
namespace {

// Rows g and g + 8 of a tile, and the queries of the mixed square there.
struct TileRows {
  Place at[2];
  int problem[2];  // in the tile
  int frame[2];
  bool there[2];
  int rate;  // of the mixed square's query; 0: there is none

  // `count` problems from `first` on, one behind the other.
  static __device__ __forceinline__ TileRows packed(const MultiscaleCall& call, uint32_t first, int count,
                                                    Divider frames) {
    const int which[2] = {int(frames.quotient(lane_row())), int(frames.quotient(lane_row() + 8))};
    TileRows rows{{{call, first + min(which[0], count - 1)}, {call, first + min(which[1], count - 1)}}};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows.there[half] = which[half] < count;
      rows.problem[half] = rows.there[half] ? which[half] : count;
      rows.frame[half] = rows.there[half] ? lane_row() + 8 * half - which[half] * call.frames : 0;
    }
    rows.rate = mixed_rate();
    return rows;
  }

  // Frames from 16 * tile on of one problem.
  static __device__ __forceinline__ TileRows alone(const MultiscaleCall& call, uint32_t problem, int tile) {
    TileRows rows{{{call, problem}, {call, problem}}};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows.problem[half] = 0;
      rows.frame[half] = kTileRows * tile + lane_row() + 8 * half;
      rows.there[half] = rows.frame[half] < call.frames;
    }
    rows.rate = mixed_rate();
    return rows;
  }

  // Of the frames' rows; null where there is none.
  template <typename T, typename Pointer>
  __device__ __forceinline__ void rows(const MultiscaleRows<Pointer>& of, T* (&pointers)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      pointers[half] = there[half] ? at[half].row<T>(of, frame[half]) : nullptr;
    }
  }

  // Of the mixed square's queries in the two slower of three tensors; null where there is none.
  template <typename T, typename Pointer>
  __device__ __forceinline__ void mixed_rows(const MultiscaleRows<Pointer> (&of)[kRates],
                                             T* (&pointers)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      pointers[half] = nullptr;
      if (there[half] && rate == 1) pointers[half] = at[half].row<T>(of[1], frame[half] / 2);
      if (there[half] && rate == 2) pointers[half] = at[half].row<T>(of[2], frame[half] / 4);
    }
  }

 private:
  static __device__ __forceinline__ int mixed_rate() {
    return lane_row() % 4 == 3 ? 0 : 2 - (lane_row() + 1) % 2;
  }
};

// ---- squares ----

// Scores of frames to scores of the mixed square: means over 2 x 2 and over 4 x 4 of them.
__device__ __forceinline__ Square mixed(const Square& s) {
  const bool second_rate = lane_row() % 2 == 0;
  Square m;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float two = s.v[n][2 * half] + s.v[n][2 * half + 1];  // two columns
      two += __shfl_xor_sync(kAllLanes, two, 4);            // of two rows
      float four = two + __shfl_xor_sync(kAllLanes, two, 8);
      four += __shfl_xor_sync(kAllLanes, four, 1);
      m.v[n][2 * half] = m.v[n][2 * half + 1] = second_rate ? 0.25f * two : 0.0625f * four;
    }
  }
  return m;
}

// The gradient of `mixed`, added to that of the scores of frames.
__device__ __forceinline__ void add_unmixed(const Square& gradient, Square& sums) {
  const int lane = int(threadIdx.x) % kWarp;
  const bool second_rate = lane_row() % 2 == 0;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float two = gradient.v[n][2 * half] + gradient.v[n][2 * half + 1];
      const float four = two + __shfl_xor_sync(kAllLanes, two, 1);
      const float share = second_rate ? 0.25f * two : 0.0625f * four;
      const float total = __shfl_sync(kAllLanes, share, lane & ~4) +        // rows 0, 2 of the four
                          __shfl_sync(kAllLanes, share, (lane & ~12) | 4);  // row 1
      sums.v[n][2 * half] += total;
      sums.v[n][2 * half + 1] += total;
    }
  }
}

// Which columns of one or two squares beside each other the queries g and g + 8 may see.
template <int kTiles>
struct Seen {
  unsigned bits[kTiles][2];

  __device__ __forceinline__ bool operator()(int tile, int half, int column) const {
    return bits[tile][half] >> column & 1;
  }
};

// Scores to weights. Here and below what is not seen is 0 by choice, not by a product: a problem beside this
// one in the tile may hold NaN. Unless kWhole, the weights are still to be divided by `softmax`'s sum.
template <bool kWhole, int kTiles>
__device__ __forceinline__ void to_weights(Square (&squares)[kTiles], const Seen<kTiles>& seen, float scale,
                                           Softmax& softmax) {
  softmax.next(squares[0], seen.bits[0], scale);
  float factor[2] = {1.0f, 1.0f};
  if constexpr (kTiles == 2) {
    const float2 shrink = softmax.next(squares[1], seen.bits[1], scale);
    factor[0] = shrink.x, factor[1] = shrink.y;
    each_entry([&](int n, int i, int half, int) { squares[0].v[n][i] *= factor[half]; });
  }
  if constexpr (kWhole) {
    softmax.finish(factor);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      each_entry([&](int n, int i, int half, int column) {
        float& v = squares[tile].v[n][i];
        v = seen(tile, half, column) ? v * factor[half] : 0.0f;
      });
    }
  }
}

// dp to ds, in place, beside the weights.
template <int kTiles>
__device__ __forceinline__ void softmax_backward(const Square (&weights)[kTiles], const Seen<kTiles>& seen,
                                                 float scale, Square (&gradients)[kTiles]) {
  float mean[2] = {};
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    each_entry([&](int n, int i, int half, int column) {
      float& v = gradients[tile].v[n][i];
      v = seen(tile, half, column) ? v : 0.0f;
      mean[half] += weights[tile].v[n][i] * v;
    });
  }
  mean[0] = quad_sum(mean[0]), mean[1] = quad_sum(mean[1]);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    each_entry([&](int n, int i, int half, int column) {
      float& v = gradients[tile].v[n][i];
      v = seen(tile, half, column) ? weights[tile].v[n][i] * (v - mean[half]) * scale : 0.0f;
    });
  }
}

// From scores to the gradient of the scores, by both squares. On the way in, dscores and mixed_dscores hold
// dp; the weights come back for dv, and mixed_dscores is used up.
template <int kTiles>
__device__ __forceinline__ void scores_backward(Square (&weights)[kTiles], Square (&mixed_weights)[kTiles],
                                                Square (&dscores)[kTiles], Square (&mixed_dscores)[kTiles],
                                                const Seen<kTiles>& seen, const Seen<kTiles>& seen_mixed,
                                                float scale) {
  Softmax softmax, mixed_softmax;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) mixed_weights[tile] = mixed(weights[tile]);
  to_weights<true>(weights, seen, scale * kLog2E, softmax);
  to_weights<true>(mixed_weights, seen_mixed, scale * kLog2E, mixed_softmax);
  softmax_backward(weights, seen, scale, dscores);
  softmax_backward(mixed_weights, seen_mixed, scale, mixed_dscores);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) add_unmixed(mixed_dscores[tile], dscores[tile]);
}

// What a block's warps do: the tile, or the problem, of each.
__device__ __forceinline__ uint32_t warp_index() {
  return blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
}

}  // namespace
}  // namespace pavdit::cuda
