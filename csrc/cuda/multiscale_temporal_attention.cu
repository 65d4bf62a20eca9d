// The equations and the cost stand in multiscale_temporal_attention.h, the layout of rows and why tensor
// cores serve in tile.cuh, why scores and not rows are averaged in multiscale_any.cuh.
//
// Three paths. Packed: 16-bit types of up to 16 frames whose rows are aligned. A warp holds a tile of 16 rows
// of q, k and v, one problem of 16 frames or several shorter ones, and reads each once; its two squares of
// weights (multiscale_tiles.cuh) take 24 mma of 16 x 8 x 16 forward and 56 backward for 16 frames x 64
// columns. Pair: the same for 17 to 32 frames of one problem (multiscale_pair.cuh). Any: everything else
// (multiscale_any.cuh).
#include "multiscale_any.cuh"
#include "multiscale_pair.cuh"
#include "multiscale_tiles.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kTileWarps = 4;  // of a block: more only lengthen the tail
// Chunks of 32 columns that a path takes: with one more it would spill.
constexpr int kForwardChunks = 4, kBackwardChunks = 3, kPairForwardChunks = 3, kPairBackwardChunks = 3;

// ---- up to 16 frames: a warp has one problem of 16 or several shorter ones ----

// The problems of one warp, and what their rows may see.
struct PackedTile {
  int count;
  TileRows rows;
  Seen<1> seen, seen_mixed;

  __device__ __forceinline__ PackedTile(const MultiscaleCall& call, uint32_t tile, int per_tile,
                                        Divider frames)
      : count(min(per_tile, int(call.problems - tile * per_tile))),
        rows(TileRows::packed(call, tile * per_tile, count, frames)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned own = ((1u << call.frames) - 1u) << (rows.problem[half] * call.frames);
      seen.bits[0][half] = rows.there[half] ? own : 0;
      seen_mixed.bits[0][half] = rows.rate == 0 ? 0 : seen.bits[0][half];
    }
  }

  template <typename T, int kChunks, typename Pointer>
  __device__ __forceinline__ void load(const MultiscaleCall& call, const MultiscaleRows<Pointer>& from,
                                       Tile<T, kChunks>& tile) const {
    const T* pointers[2];
    rows.rows(from, pointers);
    load_tile(pointers, call.width, tile);
  }

  template <typename T, int kChunks>
  __device__ __forceinline__ void product(const Weights& left, const Tile<T, kChunks>& right,
                                          Sums<kChunks>& sums) const {
    product_apart(left, right, rows.problem, rows.problem, count, sums);
  }
};

template <typename T, int kChunks>
__global__ __launch_bounds__(kTileWarps* kWarp) void multiscale_tile_fwd_kernel(
    const __grid_constant__ MultiscaleCall call, const Divider frames, const int per_tile,
    const uint32_t tiles) {
  if (warp_index() >= tiles) return;
  const PackedTile tile(call, warp_index(), per_tile, frames);
  Tile<T, kChunks> q, k, v;
  tile.load(call, call.in.parts[0], q);
  tile.load(call, call.in.parts[1], k);
  tile.load(call, call.in.parts[2], v);

  const auto attend = [&](Square(&weights)[1], const Seen<1>& seen, T* const(&targets)[2]) {
    Softmax softmax;
    to_weights<false>(weights, seen, call.scale * kLog2E, softmax);
    Sums<kChunks> out;
    tile.product(rounded<T>(weights[0]), v, out);
    float share[2];
    softmax.finish(share);
    store_tile(out, share, targets, call.width);
  };
  Square weights[1] = {scores(q, k)}, mixed_weights[1] = {mixed(weights[0])};
  T* targets[2];
  tile.rows.rows(call.out.rates[0], targets);
  attend(weights, tile.seen, targets);
  tile.rows.mixed_rows(call.out.rates, targets);
  attend(mixed_weights, tile.seen_mixed, targets);
}

template <typename T, int kChunks>
__global__ __launch_bounds__(kTileWarps* kWarp) void multiscale_tile_bwd_kernel(
    const __grid_constant__ MultiscaleCall call, const Divider frames, const int per_tile,
    const uint32_t tiles) {
  if (warp_index() >= tiles) return;
  const PackedTile tile(call, warp_index(), per_tile, frames);
  Tile<T, kChunks> q, k, v, grad, mixed_grad;
  tile.load(call, call.in.parts[0], q);
  tile.load(call, call.in.parts[1], k);
  tile.load(call, call.in.parts[2], v);
  tile.load(call, call.gradients.rates[0], grad);
  const T* mixed_rows[2];
  tile.rows.mixed_rows(call.gradients.rates, mixed_rows);
  load_tile(mixed_rows, call.width, mixed_grad);

  Square weights[1] = {scores(q, k)}, mixed_weights[1];
  Square dscores[1] = {scores(grad, v)}, mixed_dscores[1] = {scores(mixed_grad, v)};
  scores_backward(weights, mixed_weights, dscores, mixed_dscores, tile.seen, tile.seen_mixed, call.scale);

  const auto write = [&](int part, const Sums<kChunks>& sums) {
    const float whole[2] = {1.0f, 1.0f};
    T* targets[2];
    tile.rows.rows(call.gradients.parts[part], targets);
    store_tile(sums, whole, targets, call.width);
  };
  Sums<kChunks> sums, mixed_sums;
  tile.product(rounded<T>(dscores[0]), k, sums);
  write(0, sums);
  tile.product(transposed(rounded<T>(dscores[0])), q, sums);
  write(1, sums);
  tile.product(transposed(rounded<T>(weights[0])), grad, sums);
  tile.product(transposed(rounded<T>(mixed_weights[0])), mixed_grad, mixed_sums);
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
      run(type, std::integral_constant<int, std::min(3, kMaxChunks)>{});
    } else {
      run(type, std::integral_constant<int, kMaxChunks>{});
    }
    return true;
  };
  if (shape.width % 8 != 0 || shape.width > kMaxChunks * kChunkColumns) return false;
  if (shape.dtype == DType::kBFloat16) return by_width(__nv_bfloat16{});
  if (shape.dtype == DType::kFloat16) return by_width(__half{});
  return false;
}

template <typename Kernel>
void launch_packed(Kernel* kernel, const MultiscaleCall& call, cudaStream_t stream) {
  const int64_t per_tile = kTileRows / call.frames;
  const int64_t tiles = (call.problems + per_tile - 1) / per_tile;
  launch(kernel, (tiles + kTileWarps - 1) / kTileWarps, kTileWarps * kWarp, 0, stream, call,
         Divider(call.frames), int(per_tile), uint32_t(tiles));
}

template <typename Kernel>
void launch_pair(Kernel* kernel, const MultiscaleCall& call, cudaStream_t stream) {
  launch(kernel, (int64_t(call.problems) + kPairWarps - 1) / kPairWarps, kPairWarps * kWarp, 0, stream, call);
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
  const bool packed = shape.frames <= kTileRows;
  if (whole && packed && with_tiles<kForwardChunks>(shape, [&](auto type, auto chunks) {
        launch_packed(multiscale_tile_fwd_kernel<decltype(type), chunks.value>, call, stream);
      })) {
    return cudaGetLastError();
  }
  if (whole && !packed && with_tiles<kPairForwardChunks>(shape, [&](auto type, auto chunks) {
        launch_pair(multiscale_pair_fwd_kernel<decltype(type), chunks.value>, call, stream);
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
  const bool packed = shape.frames <= kTileRows;
  if (whole && packed && with_tiles<kBackwardChunks>(shape, [&](auto type, auto chunks) {
        launch_packed(multiscale_tile_bwd_kernel<decltype(type), chunks.value>, call, stream);
      })) {
    return cudaGetLastError();
  }
  if (whole && !packed && with_tiles<kPairBackwardChunks>(shape, [&](auto type, auto chunks) {
        launch_pair(multiscale_pair_bwd_kernel<decltype(type), chunks.value>, call, stream);
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
