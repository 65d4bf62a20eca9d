// axis_attention in tiles of 16 rows (tile.cuh): up to 16 keys several problems share a tile (packed),
// beyond that a warp has 16 queries of one problem and walks over its keys.
#pragma once

#include "attention.cuh"
#include "axis_problems.cuh"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kWarps = 4;  // of a block: more only lengthen the tail
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
__device__ __forceinline__ TileRows tile_rows(const Divider& length, int problems, int tile, int first_row) {
  TileRows rows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + 8 * half;
    const int divisor = int(length.divisor);
    rows.problem[half] = kPacked ? int(length.quotient(row)) : 0;
    rows.token[half] = kPacked ? row - rows.problem[half] * divisor : kTileRows * tile + row;
    rows.there[half] = kPacked ? rows.problem[half] < problems : rows.token[half] < divisor;
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
    const TileRows rows = tile_rows<kPacked>(call.key_rows, count, tile, int(threadIdx.x) % kTileRows);
    bool seen = rows.there[0];
    if (call.valid != nullptr) {
      const bool* valid[2];
      pointers(call.problems, kValid, call.valid, rows, valid);
      seen = seen && *valid[0];
    }
    return __ballot_sync(kAllLanes, seen) & 0xffffu;
  }
};

// The bits of `seen` that are keys of the problems of rows g and g + 8 of the queries.
template <bool kPacked>
__device__ __forceinline__ void seen_by(unsigned seen, const TileRows& queries, int keys,
                                        unsigned (&bits)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    bits[half] = queries.there[half] ? seen : 0;
    if (kPacked && queries.there[half]) bits[half] &= ((1u << keys) - 1u) << (queries.problem[half] * keys);
  }
}

__device__ __forceinline__ void hide(unsigned seen, TileRows& keys) {
#pragma unroll
  for (int half = 0; half < 2; ++half) keys.there[half] = seen >> (lane_row() + 8 * half) & 1;
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
  const TileRows query_rows = tile_rows<kPacked>(call.query_rows, problems.count, query_tile, lane_row());
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
    TileRows key_rows = tile_rows<kPacked>(call.key_rows, problems.count, tile, lane_row());
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

}  // namespace
}  // namespace pavdit::cuda
