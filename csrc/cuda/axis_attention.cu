// The equations and the cost stand in axis_attention.h, the layout of rows and why tensor cores serve in
// attention.cuh.
//
// Two paths. Tiles: 16-bit types whose rows are aligned; up to 16 keys several problems share a tile of 16
// rows (packed), beyond that a warp has 16 queries of one problem and walks over its keys. Any: everything
// else, in float32 (axis_any.cuh).
#include "attention.cuh"
#include "axis_problems.cuh"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kWarps = 4;  // of a forward block: more only lengthen the tail
constexpr int kMaxTiles = (kAxisMaxLength + kTileRows - 1) / kTileRows;

// ---- which rows a tile has ----

// Rows g and g + 8 of a tile, of one of q and its kin or of k and its kin.
struct TileRows {
  int problem[2];  // in the tile
  int token[2];    // 0 where there is no row
  bool there[2];
};

// Packed: of `problems` problems of `length` rows each. Else: rows from 16 * tile on of one problem.
template <bool kPacked>
__device__ __forceinline__ TileRows tile_rows(int length, int problems, int tile, int first_row) {
  TileRows rows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + 8 * half;
    rows.problem[half] = kPacked ? row / length : 0;
    rows.token[half] = kPacked ? row % length : kTileRows * tile + row;
    rows.there[half] = kPacked ? rows.problem[half] < problems : rows.token[half] < length;
    if (!rows.there[half]) rows.token[half] = 0;
  }
  return rows;
}

// A warp's problems: packed, lane p knows the offsets of problem p; else all lanes those of the one problem.
template <bool kPacked>
struct WarpProblems {
  int64_t offset[kAxisTensors];
  int count;

  template <typename T>
  __device__ __forceinline__ void pointers(const AxisProblems& problems, AxisTensor tensor, T* data,
                                           const TileRows& rows, T* (&pointer)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t first =
          kPacked ? __shfl_sync(kAllLanes, offset[tensor], rows.problem[half]) : offset[tensor];
      pointer[half] =
          rows.there[half] ? data + first + rows.token[half] * problems.rows[tensor].along : nullptr;
    }
  }

  // Bit j: key row j of the tile is there and may be seen.
  __device__ __forceinline__ unsigned seen_keys(const AxisCall& call, int tile) const {
    const TileRows rows = tile_rows<kPacked>(call.keys, count, tile, int(threadIdx.x) % kTileRows);
    const bool* valid[2];
    pointers(call.problems, kValid, call.valid, rows, valid);
    const bool seen = rows.there[0] && (call.valid == nullptr || *valid[0]);
    return __ballot_sync(kAllLanes, seen) & 0xffffu;
  }
};

// The bits of `seen` that are keys of the problems of rows g and g + 8 of the queries.
template <bool kPacked>
__device__ __forceinline__ void seen_by(unsigned seen, const TileRows& queries, int keys,
                                        unsigned (&bits)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const unsigned own = kPacked ? ((1u << keys) - 1u) << (queries.problem[half] * keys) : 0xffffu;
    bits[half] = queries.there[half] ? seen & own : 0;
  }
}

__device__ __forceinline__ void hide(unsigned seen, TileRows& keys) {
#pragma unroll
  for (int half = 0; half < 2; ++half) keys.there[half] = seen >> (lane_row() + 8 * half) & 1;
}

// ---- norm weights, in float32 in shared memory ----

__device__ __forceinline__ float weight_at(const void* weight, DType dtype, int i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(weight)[i];
    case DType::kBFloat16:
      return to_float(static_cast<const __nv_bfloat16*>(weight)[i]);
    default:
      return to_float(static_cast<const __half*>(weight)[i]);
  }
}

struct Preparations {
  Preparation q, k;
};

// shared: [2, columns], of which width are filled. All threads call it.
__device__ __forceinline__ Preparations preparations(const AxisCall& call, int columns, float* shared) {
  const bool normed = call.q_weight != nullptr;
  if (normed) {
    for (int i = threadIdx.x; i < call.width; i += blockDim.x) {
      shared[i] = weight_at(call.q_weight, call.weight_dtype, i);
      shared[columns + i] = weight_at(call.k_weight, call.weight_dtype, i);
    }
    __syncthreads();
  }
  return {{normed ? shared : nullptr, call.cosines, call.sines, kAxisNormEps},
          {normed ? shared + columns : nullptr, call.cosines, call.sines, kAxisNormEps}};
}

// ---- forward ----

template <typename T, int kChunks, bool kPacked>
__global__ __launch_bounds__(kWarps* kWarp) void axis_attention_fwd_kernel(
    const __grid_constant__ AxisCall call, const int problems_per_tile, const Divider query_tiles,
    const uint32_t tiles) {
  const Preparations how = preparations(call, kChunks * kChunkColumns, dynamic_shared<float>());
  const uint32_t index = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (index >= tiles) return;

  WarpProblems<kPacked> problems;
  uint32_t first;
  int query_tile = 0;
  if constexpr (kPacked) {
    first = index * problems_per_tile;
    problems.count = min(problems_per_tile, int(call.problems.count - first));
  } else {
    first = query_tiles.quotient(index);
    query_tile = int(index - first * query_tiles.divisor);
    problems.count = 1;
  }
  const int own = kPacked ? min(int(threadIdx.x) % kTileRows, problems.count - 1) : 0;
  call.problems.offsets(first + own, problems.offset);

  const TileRows query_rows = tile_rows<kPacked>(call.queries, problems.count, query_tile, lane_row());
  const T* q_rows[2];
  problems.pointers(call.problems, kQ, static_cast<const T*>(call.q), query_rows, q_rows);
  Tile<T, kChunks> q;
  load_tile(q_rows, call.width, q);

  const float scale = call.scale * kLog2E;
  Softmax softmax;
  Sums<kChunks> out{};
  const int key_tiles = kPacked ? 1 : (call.keys + kTileRows - 1) / kTileRows;
#pragma unroll 1
  for (int tile = 0; tile < key_tiles; ++tile) {
    const unsigned seen = problems.seen_keys(call, tile);
    TileRows key_rows = tile_rows<kPacked>(call.keys, problems.count, tile, lane_row());
    hide(seen, key_rows);
    const T *k_rows[2], *v_rows[2];
    problems.pointers(call.problems, kK, static_cast<const T*>(call.k), key_rows, k_rows);
    problems.pointers(call.problems, kV, static_cast<const T*>(call.v), key_rows, v_rows);
    Tile<T, kChunks> k, v;
    load_tile(k_rows, call.width, k);
    load_tile(v_rows, call.width, v);
    if (tile == 0) prepare(how.q, query_rows.token, call.width, q);
    prepare(how.k, key_rows.token, call.width, k);
    unsigned bits[2];
    seen_by<kPacked>(seen, query_rows, call.keys, bits);
    Square weights = scores(q, k);
    const float2 shrink = softmax.next(weights, bits, scale);
    if constexpr (kPacked) {
      product_apart(rounded<T>(weights), v, key_rows.problem, query_rows.problem, problems.count, out);
    } else {
      shrink_sums(out, shrink);
      add_product(rounded<T>(weights), v, out);
    }
  }
  float share[2];
  softmax.finish(share);
  T* out_rows[2];
  problems.pointers(call.problems, kOut, static_cast<T*>(call.out), query_rows, out_rows);
  store_tile(out, share, out_rows, call.width);
}

// ---- launches ----

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

// Calls run(T{}, chunks) for the types and widths that the tiles take; false if they do not.
template <typename Run>
bool with_tiles(const AxisShape& shape, Run run) {
  const auto by_width = [&](auto type) {
    if (shape.width <= 64) {
      run(type, std::integral_constant<int, 2>{});
    } else if (shape.width <= 96) {
      run(type, std::integral_constant<int, 3>{});
    } else {
      run(type, std::integral_constant<int, 4>{});
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
                     with_tiles(shape, [&](auto type, auto chunks) {
                       forward_tiles<decltype(type), chunks.value>(shape, call, stream);
                     });
  if (!tiles) return cudaErrorInvalidValue;
  return cudaGetLastError();
}

}  // namespace pavdit::cuda
namespace pavdit::cuda {
int64_t axis_chunks(const AxisShape& shape) {
  return 1;
}
cudaError_t axis_attention_backward(const AxisShape& shape, const AxisInputs& in,
                                    const AxisGradients& gradients, void* dq_weight, void* dk_weight,
                                    cudaStream_t stream) {
  return cudaErrorInvalidValue;
}
}  // namespace pavdit::cuda
