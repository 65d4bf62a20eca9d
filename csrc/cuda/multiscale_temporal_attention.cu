// The equations and the cost stand in multiscale_temporal_attention.h, the layout of rows and why tensor
// cores serve in attention.cuh, why scores and not rows are averaged in multiscale_any.cuh.
//
// Two paths. Tiles: 16-bit types of up to 16 frames whose rows are aligned. A warp holds a tile of 16 rows of
// q, k and v, one problem of 16 frames or several shorter ones, and reads each once. The tile's scores serve
// all rates: beside the square of the frames stands a second one, "mixed", whose rows are the queries of the
// two slower rates. Of the four rows of a group of four frames, these are in the mixed square
//
//   row 0, row 2: rate 2, the mean of frames 0, 1 and of frames 2, 3;  row 1: rate 4;  row 3: nothing
//
// and its columns are frames as in the first. So both squares are weights for the same values, and 24 mma
// of 16 x 8 x 16 do a tile of 16 frames x 64 columns forward, 56 backward. Any: everything else
// (multiscale_any.cuh).
#include "attention.cuh"
#include "multiscale_any.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kTileWarps = 4;                           // of a block: more only lengthen the tail
constexpr int kForwardChunks = 4, kBackwardChunks = 3;  // at most; one more would spill in the backward

// Rows g and g + 8 of a tile of `per_tile` problems, and the queries of the mixed square there.
struct TileRows {
  Place at[2];
  int problem[2];  // in the tile
  int frame[2];
  bool there[2];
  unsigned seen[2];  // the rows of the tile that are frames of the same problem; 0 where there is no row
  unsigned seen_mixed[2];  // the same for the query of the mixed square
  int rate;                // of that query; 0: there is none

  __device__ __forceinline__ TileRows(const MultiscaleCall& call, uint32_t first, int count, Divider frames)
      : at{{call, first + problem_of(0, count, frames)}, {call, first + problem_of(1, count, frames)}},
        rate(lane_row() % 4 == 3   ? 0
             : lane_row() % 2 == 0 ? 1
                                   : 2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane_row() + 8 * half, which = int(frames.quotient(row));
      there[half] = which < count;
      problem[half] = there[half] ? which : count;
      frame[half] = there[half] ? row - which * call.frames : 0;
      seen[half] = there[half] ? ((1u << call.frames) - 1u) << (which * call.frames) : 0;
      seen_mixed[half] = rate == 0 ? 0 : seen[half];
    }
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
  static __device__ __forceinline__ int problem_of(int half, int count, Divider frames) {
    return min(int(frames.quotient(lane_row() + 8 * half)), count - 1);
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

// Scores to weights. Here and below what is not seen is 0 by choice, not by a product: a problem beside this
// one in the tile may hold NaN.
__device__ __forceinline__ void normalise(Square& weights, Softmax& softmax, const unsigned (&seen)[2],
                                          float scale) {
  softmax.next(weights, seen, scale);
  float share[2];
  softmax.finish(share);
  each_entry([&](int n, int i, int half, int column) {
    float& v = weights.v[n][i];
    v = seen[half] >> column & 1 ? v * share[half] : 0.0f;
  });
}

// dp to ds, in place, beside the weights.
__device__ __forceinline__ void softmax_backward(const Square& weights, const unsigned (&seen)[2],
                                                 float scale, Square& gradient) {
  float mean[2] = {};
  each_entry([&](int n, int i, int half, int column) {
    float& v = gradient.v[n][i];
    v = seen[half] >> column & 1 ? v : 0.0f;
    mean[half] += weights.v[n][i] * v;
  });
  mean[0] = quad_sum(mean[0]), mean[1] = quad_sum(mean[1]);
  each_entry([&](int n, int i, int half, int column) {
    float& v = gradient.v[n][i];
    v = seen[half] >> column & 1 ? weights.v[n][i] * (v - mean[half]) * scale : 0.0f;
  });
}

// ---- kernels ----

template <typename T, int kChunks>
__global__ __launch_bounds__(kTileWarps* kWarp) void multiscale_tile_fwd_kernel(
    const __grid_constant__ MultiscaleCall call, const Divider frames, const int per_tile,
    const uint32_t tiles) {
  const uint32_t tile = blockIdx.x * kTileWarps + threadIdx.x / kWarp;
  if (tile >= tiles) return;
  const uint32_t first = tile * per_tile;
  const int count = min(per_tile, int(call.problems - first));
  const TileRows rows(call, first, count, frames);

  const T* pointers[2];
  Tile<T, kChunks> q, k, v;
  rows.rows(call.in.parts[0], pointers);
  load_tile(pointers, call.width, q);
  rows.rows(call.in.parts[1], pointers);
  load_tile(pointers, call.width, k);
  rows.rows(call.in.parts[2], pointers);
  load_tile(pointers, call.width, v);

  const Square of_frames = scores(q, k);
  const auto attend = [&](Square weights, const unsigned (&seen)[2], T* const(&targets)[2]) {
    Softmax softmax;
    softmax.next(weights, seen, call.scale * kLog2E);
    Sums<kChunks> out;
    product_apart(rounded<T>(weights), v, rows.problem, rows.problem, count, out);
    float share[2];
    softmax.finish(share);
    store_tile(out, share, targets, call.width);
  };
  T* targets[2];
  rows.rows(call.out.rates[0], targets);
  attend(of_frames, rows.seen, targets);
  rows.mixed_rows(call.out.rates, targets);
  attend(mixed(of_frames), rows.seen_mixed, targets);
}

template <typename T, int kChunks>
__global__ __launch_bounds__(kTileWarps* kWarp) void multiscale_tile_bwd_kernel(
    const __grid_constant__ MultiscaleCall call, const Divider frames, const int per_tile,
    const uint32_t tiles) {
  const uint32_t tile = blockIdx.x * kTileWarps + threadIdx.x / kWarp;
  if (tile >= tiles) return;
  const uint32_t first = tile * per_tile;
  const int count = min(per_tile, int(call.problems - first));
  const TileRows rows(call, first, count, frames);

  const T* pointers[2];
  Tile<T, kChunks> q, k, v, grad, mixed_grad;
  rows.rows(call.in.parts[0], pointers);
  load_tile(pointers, call.width, q);
  rows.rows(call.in.parts[1], pointers);
  load_tile(pointers, call.width, k);
  rows.rows(call.in.parts[2], pointers);
  load_tile(pointers, call.width, v);
  rows.rows(call.gradients.rates[0], pointers);
  load_tile(pointers, call.width, grad);
  rows.mixed_rows(call.gradients.rates, pointers);
  load_tile(pointers, call.width, mixed_grad);

  Square weights = scores(q, k), mixed_weights = mixed(weights);
  Softmax softmax, mixed_softmax;
  normalise(weights, softmax, rows.seen, call.scale * kLog2E);
  normalise(mixed_weights, mixed_softmax, rows.seen_mixed, call.scale * kLog2E);
  Square dscores = scores(grad, v), mixed_dscores = scores(mixed_grad, v);
  softmax_backward(weights, rows.seen, call.scale, dscores);
  softmax_backward(mixed_weights, rows.seen_mixed, call.scale, mixed_dscores);
  add_unmixed(mixed_dscores, dscores);

  const float whole[2] = {1.0f, 1.0f};
  const auto product = [&](const Weights& left, const Tile<T, kChunks>& right, Sums<kChunks>& sums) {
    product_apart(left, right, rows.problem, rows.problem, count, sums);
  };
  const auto write = [&](int part, const Sums<kChunks>& sums) {
    T* targets[2];
    rows.rows(call.gradients.parts[part], targets);
    store_tile(sums, whole, targets, call.width);
  };
  Sums<kChunks> sums;
  product(rounded<T>(dscores), k, sums);
  write(0, sums);
  product(transposed(rounded<T>(dscores)), q, sums);
  write(1, sums);
  product(transposed(rounded<T>(weights)), grad, sums);
  Sums<kChunks> mixed_sums;
  product(transposed(rounded<T>(mixed_weights)), mixed_grad, mixed_sums);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 16; ++i) sums.v[c][i / 8][i % 8] += mixed_sums.v[c][i / 8][i % 8];
  }
  write(2, sums);
}

// ---- launches ----

// Calls run(T{}, chunks) for the types and widths that the tiles take; false if they do not.
template <int kMaxChunks, typename Run>
bool with_tiles(const MultiscaleShape& shape, Run run) {
  const auto by_width = [&](auto type) {
    if (shape.width <= 64) {
      run(type, std::integral_constant<int, 2>{});
    } else if (shape.width <= 96) {
      run(type, std::integral_constant<int, 3>{});
    } else {
      run(type, std::integral_constant<int, kMaxChunks>{});
    }
    return true;
  };
  const bool fits = shape.frames <= kTileRows && shape.width % 8 == 0;
  if (!fits || shape.width > kMaxChunks * kChunkColumns) return false;
  if (shape.dtype == DType::kBFloat16) return by_width(__nv_bfloat16{});
  if (shape.dtype == DType::kFloat16) return by_width(__half{});
  return false;
}

template <typename Kernel>
void launch_tiles(Kernel* kernel, const MultiscaleCall& call, cudaStream_t stream) {
  const int64_t per_tile = kTileRows / call.frames;
  const int64_t tiles = (call.problems + per_tile - 1) / per_tile;
  launch(kernel, (tiles + kTileWarps - 1) / kTileWarps, kTileWarps * kWarp, 0, stream, call,
         Divider(call.frames), int(per_tile), uint32_t(tiles));
}

template <typename Run>
void with_type(DType dtype, Run run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kBFloat16:
      return run(__nv_bfloat16{});
    case DType::kFloat16:
      return run(__half{});
  }
}

bool aligned_parts(const MultiscaleInputs& in) {
  return aligned_rows(in.parts[0], 8) && aligned_rows(in.parts[1], 8) && aligned_rows(in.parts[2], 8);
}

bool launchable(const MultiscaleShape& shape) {
  return shape.problems() < int64_t(1) << 31 && shape.frames <= kMultiscaleCudaMaxFrames;
}

}  // namespace

cudaError_t multiscale_temporal_attention_forward(const MultiscaleShape& shape, const MultiscaleInputs& in,
                                                  const MultiscaleOutputs& out, cudaStream_t stream) {
  if (shape.problems() == 0) return cudaSuccess;
  if (!launchable(shape)) return cudaErrorInvalidValue;
  MultiscaleCall call = multiscale_call(shape, in);
  call.out = out;
  bool whole = aligned_parts(in);
  for (const auto& rows : out.rates) whole = whole && aligned_rows(rows, 8);
  if (whole && with_tiles<kForwardChunks>(shape, [&](auto type, auto chunks) {
        launch_tiles(multiscale_tile_fwd_kernel<decltype(type), chunks.value>, call, stream);
      })) {
    return cudaGetLastError();
  }
  with_type(shape.dtype, [&](auto type) {
    launch(any::multiscale_any_fwd_kernel<decltype(type)>, call.problems, any::kThreads,
           any::shared_bytes(false), stream, call);
  });
  return cudaGetLastError();
}

cudaError_t multiscale_temporal_attention_backward(const MultiscaleShape& shape, const MultiscaleInputs& in,
                                                   const MultiscaleGradients& gradients,
                                                   cudaStream_t stream) {
  if (shape.problems() == 0) return cudaSuccess;
  if (!launchable(shape)) return cudaErrorInvalidValue;
  MultiscaleCall call = multiscale_call(shape, in);
  call.gradients = gradients;
  bool whole = aligned_parts(in);
  for (const auto& rows : gradients.rates) whole = whole && (rows.data == nullptr || aligned_rows(rows, 8));
  for (const auto& rows : gradients.parts) whole = whole && aligned_rows(rows, 8);
  if (whole && with_tiles<kBackwardChunks>(shape, [&](auto type, auto chunks) {
        launch_tiles(multiscale_tile_bwd_kernel<decltype(type), chunks.value>, call, stream);
      })) {
    return cudaGetLastError();
  }
  with_type(shape.dtype, [&](auto type) {
    launch(any::multiscale_any_bwd_kernel<decltype(type)>, call.problems, any::kThreads,
           any::shared_bytes(true), stream, call);
  });
  return cudaGetLastError();
}

}  // namespace pavdit::cuda
