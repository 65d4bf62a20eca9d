// The equations and the cost stand in block_attention.h, the layout of tiles in attention.cuh.
//
// Two paths. Tiles: 16-bit types whose rows begin at multiples of 16 bytes. A thread block has one problem,
// or a few small ones; its warps first bring the keys, normed and rotated once, and the values into shared
// memory (64 KB for 256 tokens of 64), then every warp takes 16 queries and walks over the keys. Why tensor
// cores: a problem of N tokens moves 8 N E bytes forward for 4 N^2 E flops, N / 2 flops a byte; at 4.3 TB/s
// that is 138 TFLOP/s for 64 tokens and 550 for 256, of 790 that an H200 has, and of 67 without tensor cores.
// Any: everything else, in float32 arithmetic (block_any.cuh). The widest tiles take 132 KB of shared memory,
// which sm_80, sm_90 and sm_100 have.
#include <algorithm>

#include "adaln_modulate.h"
#include "block_any_kernels.cuh"
#include "block_tiles.cuh"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

// ---- launches ----

constexpr int64_t kMaxProblems = 2147483647;  // they are numbered in 32 bits

// Whether every row of the first `tensors` tensors begins at a multiple of 16 bytes and ends at one.
bool whole_rows(const BlockShape& shape, const BlockCall& call, int tensors) {
  const int64_t elements = shape.dtype == DType::kFloat32 ? kPack<float> : kPack<__half>;
  bool whole = shape.width % elements == 0;
  for (int64_t d = 0; d < shape.directions; ++d) {
    for (int tensor = 0; tensor < tensors; ++tensor) {
      const BlockRows<void*>& rows = call.rows[d][tensor];
      whole = whole && aligned(rows.data) && rows.head % elements == 0;
      for (int64_t stride : rows.grid) whole = whole && stride % elements == 0;
    }
  }
  return whole;
}

// Calls run(T{}, chunks) where tiles serve, up to this many chunks; false elsewhere.
template <int kMostChunks, typename Run>
bool with_tiles(const BlockShape& shape, const BlockCall& call, Run run) {
  if (!call.whole || (call.norm.cosines != nullptr && !aligned(call.norm.cosines))) return false;
  if (shape.width > kMostChunks * kChunkColumns) return false;
  const auto by_width = [&](auto type) {
    if (shape.width <= 64) {
      run(type, std::integral_constant<int, 2>{});
    } else if (shape.width <= 96) {
      run(type, std::integral_constant<int, 3>{});
    } else if constexpr (kMostChunks >= 4) {
      run(type, std::integral_constant<int, 4>{});
    }
    return true;
  };
  if (shape.dtype == DType::kBFloat16) return by_width(__nv_bfloat16{});
  if (shape.dtype == DType::kFloat16) return by_width(__half{});
  return false;
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

int64_t problems_per_block(const BlockCall& call) {
  return std::max(kBlockMinWarps / call.warps, 1);
}

int64_t rounds_of(const BlockShape& shape, const BlockCall& call) {
  const int64_t each = problems_per_block(call);
  return (shape.problems() + each - 1) / each;
}

// Launches a kernel that may need more shared memory than is given unasked.
template <typename Kernel, typename... Arguments>
cudaError_t run(Kernel* kernel, int64_t blocks, int64_t threads, size_t shared, cudaStream_t stream,
                const BlockCall& call, const Arguments&... arguments) {
  constexpr size_t kUnasked = 48 * 1024;
  if (shared > kUnasked) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
    if (error != cudaSuccess) return error;
  }
  launch(kernel, blocks, threads, shared, stream, call, arguments...);
  return cudaGetLastError();
}

// For the tiles of a thread block's problems and `rows` rows of float32.
template <typename T, int kChunks>
size_t tile_bytes(const BlockCall& call, int rows) {
  const int64_t tiles = (call.tokens + kTileRows - 1) / kTileRows * problems_per_block(call);
  return kChunks * kChunkColumns * (rows * sizeof(float) + 2 * tiles * kTileRows * sizeof(T));
}

}  // namespace

cudaError_t block_attention_forward(const BlockShape& shape, const BlockInputs* in,
                                    const BlockRows<void*>* out, cudaStream_t stream) {
  if (shape.problems() == 0) return cudaSuccess;
  if (shape.problems() > kMaxProblems) return cudaErrorInvalidValue;
  BlockCall call = block_call(shape, in);
  for (int64_t d = 0; d < shape.directions; ++d) call.rows[d][kOut] = out[d];
  call.whole = whole_rows(shape, call, kOut + 1);
  cudaError_t error = cudaSuccess;
  const bool tiles = with_tiles<4>(shape, call, [&](auto type, auto chunks) {
    using T = decltype(type);
    const int64_t each = problems_per_block(call);
    error = run(block_attention_fwd_kernel<T, chunks.value>, rounds_of(shape, call),
                each * call.warps * kWarp, tile_bytes<T, chunks.value>(call, 2), stream, call, int(each));
  });
  if (tiles) return error;
  const int64_t query_tiles = (call.tokens + kAnyRows - 1) / kAnyRows;
  if (shape.problems() > kMaxProblems / query_tiles) return cudaErrorInvalidValue;
  with_type(shape.dtype, [&](auto type) {
    error = run(block_attention_any_fwd_kernel<decltype(type)>, shape.problems() * query_tiles, kAnyThreads,
                AnyShared::bytes(call.width, 3), stream, call, Divider(query_tiles));
  });
  return error;
}

// Enough thread blocks to fill any device a few times over.
int64_t block_chunks(const BlockShape& shape) {
  return std::min<int64_t>(shape.problems(), 1024);
}

cudaError_t block_attention_backward(const BlockShape& shape, const BlockInputs* in,
                                     const BlockGradients* gradients, void* dq_weight, void* dk_weight,
                                     cudaStream_t stream) {
  const bool normed = in[0].q_weight != nullptr;
  const int64_t chunks = normed ? block_chunks(shape) : kMaxProblems;
  if (shape.problems() > kMaxProblems) return cudaErrorInvalidValue;
  if (shape.problems() > 0) {
    BlockCall call = block_call(shape, in);
    for (int64_t d = 0; d < shape.directions; ++d) {
      const BlockGradients& to = gradients[d];
      BlockRows<void*> grad{const_cast<void*>(to.out.data), {}, to.out.head, to.out.along};
      for (int axis = 0; axis < 4; ++axis) grad.grid[axis] = to.out.grid[axis];
      call.rows[d][kOut] = grad;
      call.rows[d][kDq] = to.q, call.rows[d][kDk] = to.k, call.rows[d][kDv] = to.v;
    }
    call.partial = normed ? gradients[0].partial : nullptr;
    call.whole = whole_rows(shape, call, kBlockTensors);
    if (normed) {
      const cudaError_t error =
          cudaMemsetAsync(call.partial, 0, chunks * 2 * shape.width * sizeof(float), stream);
      if (error != cudaSuccess) return error;
    }
    cudaError_t error = cudaSuccess;
    // The widest tiles would spill; no model of ours has heads beyond 96.
    const bool tiles = with_tiles<3>(shape, call, [&](auto type, auto columns) {
      using T = decltype(type);
      const int64_t rounds = rounds_of(shape, call), each = problems_per_block(call);
      error = run(block_attention_bwd_kernel<T, columns.value>, std::min(rounds, chunks),
                  each * call.warps * kWarp, tile_bytes<T, columns.value>(call, 4), stream, call, int(each),
                  uint32_t(rounds));
    });
    if (!tiles) {
      with_type(shape.dtype, [&](auto type) {
        error = run(block_attention_any_bwd_kernel<decltype(type)>, std::min(shape.problems(), chunks),
                    kAnyThreads, AnyShared::bytes(call.width, 4), stream, call);
      });
    }
    if (error != cudaSuccess) return error;
  }
  if (!normed) return cudaSuccess;
  const PartialSums sums = {gradients[0].partial, 0, 1, 1, chunks, 2 * shape.width, shape.width,
                            shape.weight_dtype};
  return adaln_sum_partials(sums, dq_weight, dk_weight, stream);
}

}  // namespace pavdit::cuda
