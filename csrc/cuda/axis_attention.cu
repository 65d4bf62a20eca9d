// The equations and the cost stand in axis_attention.h, the layout of rows and why tensor cores serve in
// attention.cuh.
//
// Two paths. Tiles: 16-bit types whose rows are aligned; up to 16 keys several problems share a tile of 16
// rows (packed), beyond that a warp has 16 queries of one problem and walks over its keys. Any: everything
// else, in float32 (axis_any.cuh).
#include <algorithm>

#include "adaln_modulate.h"
#include "attention.cuh"
#include "axis_problems.cuh"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kWarps = 4;  // of a forward block: more only lengthen the tail
constexpr int kMaxTiles = (kAxisMaxLength + kTileRows - 1) / kTileRows;
constexpr int kMaxWarps = kMaxTiles > kWarps ? kMaxTiles : kWarps;

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

  // Packed: tile `index` of problems_per_tile problems. Else: problem `index`, which must exist.
  __device__ __forceinline__ void find(const AxisProblems& problems, uint32_t index, int problems_per_tile) {
    const uint32_t first = kPacked ? index * problems_per_tile : index;
    count = kPacked ? min(problems_per_tile, int(problems.count - first)) : 1;
    const int own = kPacked ? min(int(threadIdx.x) % kTileRows, count - 1) : 0;
    problems.offsets(first + own, offset);
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

  const uint32_t problem = kPacked ? index : query_tiles.quotient(index);
  const int query_tile = kPacked ? 0 : int(index - problem * query_tiles.divisor);
  WarpProblems<kPacked> problems;
  problems.find(call.problems, problem, problems_per_tile);
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

// ---- backward ----

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

// Several problems of up to 16 keys per warp; everything stays in registers.
template <typename T, int kChunks>
__global__ __launch_bounds__(kWarps* kWarp) void axis_attention_packed_bwd_kernel(
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
    const TileRows query_rows = tile_rows<true>(call.queries, problems.count, 0, lane_row());
    const TileRows key_rows = tile_rows<true>(call.keys, problems.count, 0, lane_row());
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
      weights.v[n][i] *= share[half];
      if (bits[half] >> column & 1) mean[half] += weights.v[n][i] * dweights.v[n][i];
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
      const TileRows query_rows = tile_rows<false>(call.queries, 1, own_tile, lane_row());
      Tile<T, kChunks> q, grad;
      tile_of(kQ, call.q, query_rows, from, q);
      tile_of(kOut, call.grad, query_rows, unused, grad);
      prepare(how.q, query_rows.token, width, q);
      // Calls f(k, scores, dp, bits) for every tile of keys.
      const auto over_keys = [&](auto f) {
#pragma unroll 1
        for (int tile = 0; tile < key_tiles; ++tile) {
          const unsigned seen = problems.seen_keys(call, tile);
          TileRows key_rows = tile_rows<false>(call.keys, 1, tile, lane_row());
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
      const TileRows key_rows = tile_rows<false>(call.keys, 1, own_tile, lane_row());
      TileRows seen_rows = key_rows;
      hide(problems.seen_keys(call, own_tile), seen_rows);
      Sums<kChunks> dk{}, dv{};
#pragma unroll 1
      for (int tile = 0; tile < query_tiles; ++tile) {
        const TileRows query_rows = tile_rows<false>(call.queries, 1, tile, lane_row());
        Tile<T, kChunks> rows, queries;
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
        Tile<T, kChunks> grad;
        tile_of(kV, call.v, seen_rows, unused, rows);
        tile_of(kOut, call.grad, query_rows, unused, grad);
        Square dweights = scores(rows, grad);
        add_product(rounded<T>(weights), grad, dv);
        each_entry([&](int n, int i, int half, int column) {
          const float ds = weights.v[n][i] * (dweights.v[n][i] - stat[column].y);
          dweights.v[n][i] = seen_rows.there[half] && kTileRows * tile + column < call.queries ? ds : 0.0f;
        });
        add_product(rounded<T>(dweights), queries, dk);
      }
      problems.pointers(call.problems, kDv, static_cast<T*>(call.dv), key_rows, target);
      store_tile(dv, {1.0f, 1.0f}, target, width);
      problems.pointers(call.problems, kDk, static_cast<T*>(call.dk), key_rows, target);
      write_gradient(dk, call.scale, how.k, key_rows, from, width, target, dk_weight);
    }
    __syncthreads();  // stats are free again
  }
  if (call.partial != nullptr) write_partial(call, dq_weight, dk_weight, shared + 2 * kColumns);
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

template <typename T, int kChunks>
void backward_tiles(const AxisShape& shape, const AxisCall& call, int64_t most_blocks, cudaStream_t stream) {
  const size_t shared = call.q_weight == nullptr ? 0 : 4 * kChunks * kChunkColumns * sizeof(float);
  if (shape.keys <= kTileRows) {
    const int64_t problems_per_tile = kTileRows / shape.keys;
    const int64_t tiles = (shape.problems() + problems_per_tile - 1) / problems_per_tile;
    launch(axis_attention_packed_bwd_kernel<T, kChunks>, std::min((tiles + kWarps - 1) / kWarps, most_blocks),
           kWarps * kWarp, shared, stream, call, int(problems_per_tile), uint32_t(tiles));
  } else {
    const int64_t key_tiles = (shape.keys + kTileRows - 1) / kTileRows;
    const int64_t problems_per_block = std::max<int64_t>(kWarps / key_tiles, 1);
    const int64_t rounds = (shape.problems() + problems_per_block - 1) / problems_per_block;
    launch(axis_attention_long_bwd_kernel<T, kChunks>, std::min(rounds, most_blocks),
           problems_per_block * key_tiles * kWarp, shared, stream, call, int(key_tiles), uint32_t(rounds));
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

// Enough blocks to fill any device a few times over.
int64_t axis_chunks(const AxisShape& shape) {
  return std::min<int64_t>(shape.problems(), 1024);
}

cudaError_t axis_attention_backward(const AxisShape& shape, const AxisInputs& in,
                                    const AxisGradients& gradients, void* dq_weight, void* dk_weight,
                                    cudaStream_t stream) {
  const bool normed = in.q_weight != nullptr;
  const int64_t chunks = normed ? axis_chunks(shape) : 2147483647;
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
    if (normed) cudaMemsetAsync(call.partial, 0, chunks * 2 * shape.width * sizeof(float), stream);
    const bool tiles =
        tileable(call) && aligned_rows(call.problems, kOut, call.grad, 8) &&
        aligned_rows(call.problems, kDq, call.dq, 8) && aligned_rows(call.problems, kDk, call.dk, 8) &&
        aligned_rows(call.problems, kDv, call.dv, 8) && with_tiles(shape, [&](auto type, auto columns) {
          backward_tiles<decltype(type), columns.value>(shape, call, chunks, stream);
        });
    if (!tiles) return cudaErrorInvalidValue;
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  if (!normed) return cudaSuccess;
  const PartialSums sums = {gradients.partial, 0, 1, 1, chunks, 2 * shape.width, shape.width,
                            shape.weight_dtype};
  return adaln_sum_partials(sums, dq_weight, dk_weight, stream);
}

}  // namespace pavdit::cuda
