// The equations and the cost stand in axis_attention.h, the layout of rows and why tensor cores serve in
// tile.cuh.
//
// Two paths. Tiles (axis_tiles.cuh): 16-bit types, rows of whole aligned packs. Any (axis_any.cuh): all else,
// by float32 arithmetic.
#include <algorithm>

#include "adaln_modulate.h"
#include "axis_any.cuh"
#include "axis_tiles.cuh"
#include "axis_tiles_backward.cuh"

namespace pavdit::cuda {
namespace {

constexpr int64_t kMaxProblems = 2147483647 / kMaxTiles;  // tiles are numbered in 32 bits

template <typename T, int kChunks>
void forward_tiles(const AxisShape& shape, const AxisCall& call, cudaStream_t stream) {
  const size_t shared = call.q_weight == nullptr ? 0 : 2 * kChunks * kChunkColumns * sizeof(float);
  const auto run = [&](auto* kernel, int64_t problems_per_tile, int64_t query_tiles) {
    const int64_t tiles = (shape.problems() + problems_per_tile - 1) / problems_per_tile * query_tiles;
    launch(kernel, (tiles + kWarps - 1) / kWarps, kWarps * kWarp, shared, stream, call,
           int(problems_per_tile), Divider(query_tiles), uint32_t(tiles));
  };
  if (shape.keys <= kTileRows) {
    run(axis_attention_fwd_kernel<T, kChunks, true>, kTileRows / shape.keys, 1);
  } else {
    run(axis_attention_fwd_kernel<T, kChunks, false>, 1, (shape.queries + kTileRows - 1) / kTileRows);
  }
}

// Returns the number of blocks, as backward_any does.
template <typename T, int kChunks>
int64_t backward_tiles(const AxisShape& shape, const AxisCall& call, int64_t most_blocks,
                       cudaStream_t stream) {
  const size_t shared = call.q_weight == nullptr ? 0 : 4 * kChunks * kChunkColumns * sizeof(float);
  if (shape.keys <= kTileRows) {
    const int64_t problems_per_tile = kTileRows / shape.keys;
    const int64_t tiles = (shape.problems() + problems_per_tile - 1) / problems_per_tile;
    const int64_t blocks = std::min((tiles + kWarps - 1) / kWarps, most_blocks);
    launch(axis_attention_packed_bwd_kernel<T, kChunks>, blocks, kWarps * kWarp, shared, stream, call,
           int(problems_per_tile), uint32_t(tiles));
    return blocks;
  }
  const int64_t key_tiles = (shape.keys + kTileRows - 1) / kTileRows;
  const int64_t problems_per_block = std::max<int64_t>(kWarps / key_tiles, 1);
  const int64_t rounds = (shape.problems() + problems_per_block - 1) / problems_per_block;
  const int64_t blocks = std::min(rounds, most_blocks);
  launch(axis_attention_long_bwd_kernel<T, kChunks>, blocks, problems_per_block * key_tiles * kWarp, shared,
         stream, call, int(key_tiles), uint32_t(rounds));
  return blocks;
}

// ---- any ----

int64_t any_problems_per_block(const AxisShape& shape) {
  return std::clamp<int64_t>(kAnyLooking / shape.keys, 1, shape.problems());
}

// Above 48 KB a kernel has to ask.
template <typename Kernel>
size_t any_shared(const AxisShape& shape, Kernel* kernel) {
  const size_t bytes = AnyShared::floats(AnyShared::stride_of(int(shape.width)),
                                         int(any_problems_per_block(shape) * shape.keys)) *
                       sizeof(float);
  if (bytes > 48 << 10) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  return bytes;
}

template <typename T>
void forward_any(const AxisShape& shape, const AxisCall& call, cudaStream_t stream) {
  const auto kernel = axis_attention_any_fwd_kernel<T>;
  const int64_t problems = any_problems_per_block(shape);
  launch(kernel, (shape.problems() + problems - 1) / problems, kAnyThreads, any_shared(shape, kernel), stream,
         call, int(problems));
}

template <typename T>
int64_t backward_any(const AxisShape& shape, const AxisCall& call, int64_t most_blocks, cudaStream_t stream) {
  const auto kernel = axis_attention_any_bwd_kernel<T>;
  const int64_t problems = any_problems_per_block(shape);
  const int64_t rounds = (shape.problems() + problems - 1) / problems, blocks = std::min(rounds, most_blocks);
  launch(kernel, blocks, kAnyThreads, any_shared(shape, kernel), stream, call, int(problems),
         uint32_t(rounds));
  return blocks;
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

// Calls run(T{}, chunks) for the types and widths that the tiles take; false if they do not.
template <int kMaxChunks, typename Run>
bool with_tiles(const AxisShape& shape, Run run) {
  const auto by_width = [&](auto type) {
    if (shape.width <= 64) {
      run(type, std::integral_constant<int, 2>{});
    } else if (shape.width <= 96) {
      run(type, std::integral_constant<int, 3>{});
    } else if constexpr (kMaxChunks > 3) {
      run(type, std::integral_constant<int, 4>{});
    } else {
      return false;
    }
    return true;
  };
  if (shape.dtype == DType::kBFloat16) return by_width(__nv_bfloat16{});
  if (shape.dtype == DType::kFloat16) return by_width(__half{});
  return false;
}

bool tileable(const AxisCall& call) {
  return call.width % 8 == 0 && aligned_rows(call.problems, kQ, call.q, 8) &&
         aligned_rows(call.problems, kK, call.k, 8) && aligned_rows(call.problems, kV, call.v, 8) &&
         (call.cosines == nullptr || aligned(call.cosines));
}

}  // namespace

cudaError_t axis_attention_forward(const AxisShape& shape, const AxisInputs& in, const AxisRows<void*>& out,
                                   cudaStream_t stream) {
  if (shape.problems() == 0) return cudaSuccess;
  if (shape.problems() > kMaxProblems) return cudaErrorInvalidValue;
  AxisCall call = axis_call(shape, in);
  call.problems.rows[kOut] = strides_of(out);
  call.out = out.data;
  set_axes(shape, call.problems);
  const bool tiles = tileable(call) && aligned_rows(call.problems, kOut, call.out, 8) &&
                     with_tiles<4>(shape, [&](auto type, auto chunks) {
                       forward_tiles<decltype(type), chunks.value>(shape, call, stream);
                     });
  if (!tiles) {
    with_type(shape.dtype, [&](auto type) { forward_any<decltype(type)>(shape, call, stream); });
  }
  return cudaGetLastError();
}

// Enough blocks to fill any device a few times over. On the host few, so that small tests make blocks take
// several tiles.
#if defined(PAVDIT_EMULATOR)
constexpr int64_t kMostChunks = 8;
#else
constexpr int64_t kMostChunks = 1024;
#endif

int64_t axis_chunks(const AxisShape& shape) {
  return std::min(shape.problems(), kMostChunks);
}

cudaError_t axis_attention_backward(const AxisShape& shape, const AxisInputs& in,
                                    const AxisGradients& gradients, void* dq_weight, void* dk_weight,
                                    cudaStream_t stream) {
  const bool normed = in.q_weight != nullptr;
  const int64_t most_blocks = normed ? axis_chunks(shape) : kMaxProblems;
  int64_t blocks = 0;
  if (shape.problems() > kMaxProblems) return cudaErrorInvalidValue;
  if (shape.problems() > 0) {
    AxisCall call = axis_call(shape, in);
    call.problems.rows[kOut] = strides_of(gradients.out);
    call.problems.rows[kDq] = strides_of(gradients.q);
    call.problems.rows[kDk] = strides_of(gradients.k);
    call.problems.rows[kDv] = strides_of(gradients.v);
    call.grad = gradients.out.data;
    call.dq = gradients.q.data, call.dk = gradients.k.data, call.dv = gradients.v.data;
    call.partial = normed ? gradients.partial : nullptr;
    set_axes(shape, call.problems);
    const bool tiles =
        tileable(call) && aligned_rows(call.problems, kOut, call.grad, 8) &&
        aligned_rows(call.problems, kDq, call.dq, 8) && aligned_rows(call.problems, kDk, call.dk, 8) &&
        aligned_rows(call.problems, kDv, call.dv, 8) &&
        with_tiles<3>(shape, [&](auto type, auto columns) {  // four would spill
          blocks = backward_tiles<decltype(type), columns.value>(shape, call, most_blocks, stream);
        });
    if (!tiles) {
      with_type(shape.dtype,
                [&](auto type) { blocks = backward_any<decltype(type)>(shape, call, most_blocks, stream); });
    }
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  if (!normed) return cudaSuccess;
  const PartialSums sums = {gradients.partial, 0, 1, 1, blocks, 2 * shape.width, shape.width,
                            shape.weight_dtype};
  return adaln_sum_partials(sums, dq_weight, dk_weight, stream);
}

}  // namespace pavdit::cuda
