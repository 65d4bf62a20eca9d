// The kernels of block_attention on tensor cores, for 16-bit types whose rows begin at multiples of 16 bytes.
// A thread block has one problem, or a few small ones; block_attention.cu says why.
#pragma once

#include "block_problems.cuh"
#include "launch.cuh"

namespace pavdit::cuda {
namespace {

constexpr int kTileThreads = kBlockMaxWarps * kWarp;
// Blocks per multiprocessor: left alone, ptxas spills a few registers to reach one more.
constexpr int kTileOccupancy = 1;

// What a warp does, and the shared memory of its problem.
template <typename T, int kChunks>
struct Team {
  int member;        // of call.warps
  int tiles;         // of 16 tokens
  int first_row;     // of the problem among the rows of the thread block
  uint32_t problem;  // in the thread block
  Stage<T, kChunks> a, b;

  __device__ __forceinline__ Team(const BlockCall& call, T* shared) {
    const int warp = int(threadIdx.x) / kWarp;
    problem = warp / call.warps;
    member = warp - int(problem) * call.warps;
    tiles = (call.tokens + kTileRows - 1) / kTileRows;
    first_row = int(problem) * tiles * kTileRows;
    const int elements = tiles * kTileRows * Stage<T, kChunks>::kColumns;
    a.rows = shared + 2 * problem * elements;
    b.rows = a.rows + elements;
  }
};

// Keys, prepared, and values to shared memory; hidden ones as zeros, their bits in `seen`.
template <typename T, int kChunks>
__device__ __forceinline__ void stage_keys(const BlockCall& call, const Place& place, const Preparation& how,
                                           const Team<T, kChunks>& team, unsigned* seen) {
#pragma unroll 1
  for (int tile = team.member; tile < team.tiles; tile += call.warps) {
    const unsigned bits = seen_keys(call, place, tile);
    if (threadIdx.x % kWarp == 0) seen[tile] = bits;
    const TileRows rows = TileRows(call, tile).seen(bits);
    const T *k_rows[2], *v_rows[2];
    rows.pointers(call, place, kK, k_rows);
    rows.pointers(call, place, kV, v_rows);
    Tile<T, kChunks> k, v;
    load_tile(k_rows, call.width, k);
    load_tile(v_rows, call.width, v);
    prepare(how, rows.token, call.width, k);
    team.a.put(tile, k);
    team.b.put(tile, v);
  }
}

template <typename T, int kChunks>
__global__ __launch_bounds__(kTileThreads, kTileOccupancy) void block_attention_fwd_kernel(
    const __grid_constant__ BlockCall call, const int problems_per_block) {
  __shared__ unsigned seen[kBlockMaxTiles];
  constexpr int kColumns = kChunks * kChunkColumns;
  float* weights = dynamic_shared<float>();  // [2, columns]
  const Preparations how = preparations(call.norm, call.width, kColumns, weights);
  const Team<T, kChunks> team(call, reinterpret_cast<T*>(weights + 2 * kColumns));
  unsigned* own_seen = seen + team.first_row / kTileRows;
  const uint32_t problem = blockIdx.x * problems_per_block + team.problem;
  const bool active = problem < call.count;
  const Place place(call, active ? problem : 0);
  if (active) stage_keys(call, place, how.k, team, own_seen);
  __syncthreads();
  if (!active) return;

  const float scale = call.scale * kLog2E;
#pragma unroll 1
  for (int tile = team.member; tile < team.tiles; tile += call.warps) {
    const TileRows rows(call, tile);
    const T* q_rows[2];
    rows.pointers(call, place, kQ, q_rows);
    Tile<T, kChunks> q;
    load_tile(q_rows, call.width, q);
    prepare(how.q, rows.token, call.width, q);
    Softmax softmax;
    Sums<kChunks> out{};
#pragma unroll 1
    for (int key_tile = 0; key_tile < team.tiles; ++key_tile) {
      const unsigned bits = own_seen[key_tile];
      Tile<T, kChunks> keys;
      team.a.get(key_tile, keys);
      Square square = scores(q, keys);
      team.b.get(key_tile, keys);
      shrink_sums(out, softmax.next(square, {bits, bits}, scale));
      add_product(rounded<T>(square), keys, out);
    }
    float share[2];
    softmax.finish(share);
    T* out_rows[2];
    rows.pointers(call, place, kOut, out_rows);
    store_tile(out, share, out_rows, call.width);
  }
}

// dv += p g and dk += ds q' / scale, of a tile of keys over all queries, which lie in shared memory.
template <bool kWithDv, bool kWithDk, typename T, int kChunks>
__device__ __forceinline__ void add_over_queries(const Team<T, kChunks>& team, const float2* stats,
                                                 const TileRows& keys, float scale, const Tile<T, kChunks>& k,
                                                 const Tile<T, kChunks>& v, Sums<kChunks>& dk,
                                                 Sums<kChunks>& dv) {
#pragma unroll 1
  for (int tile = 0; tile < team.tiles; ++tile) {
    Tile<T, kChunks> shared;
    team.a.get(tile, shared);
    Square square = scores(k, shared);  // [key][query]
    team.b.get(tile, shared);
    Square dsquare{};
    if constexpr (kWithDk) dsquare = scores(v, shared);
    each_entry([&](int n, int i, int half, int column) {
      const float2 stat = stats[kTileRows * tile + column];
      const float p = exp2f(square.v[n][i] * scale - stat.x);
      square.v[n][i] = keys.there[half] ? p : 0.0f;
      dsquare.v[n][i] = keys.there[half] ? p * (dsquare.v[n][i] - stat.y) : 0.0f;
    });
    if constexpr (kWithDv) add_product(rounded<T>(square), shared, dv);
    if constexpr (kWithDk) {
      team.a.get(tile, shared);
      add_product(rounded<T>(dsquare), shared, dk);
    }
  }
}

// Twice the same: first the keys and values are shared and a warp has 16 queries, for dq; then queries and
// gradients are shared and a warp has 16 keys, for dk and dv. So every sum is one warp's, in a fixed order.
template <typename T, int kChunks>
__global__ __launch_bounds__(kTileThreads, kTileOccupancy) void block_attention_bwd_kernel(
    const __grid_constant__ BlockCall call, const int problems_per_block, const uint32_t rounds) {
  __shared__ unsigned seen[kBlockMaxTiles];
  // Of every query: log2 of the sum of exp2(scores), and sum of p dp.
  __shared__ float2 stats[kBlockMaxKeys];
  constexpr int kColumns = kChunks * kChunkColumns;
  float* weights = dynamic_shared<float>();  // [2, columns], then their gradients
  const Preparations how = preparations(call.norm, call.width, kColumns, weights);
  const Team<T, kChunks> team(call, reinterpret_cast<T*>(weights + 4 * kColumns));
  unsigned* own_seen = seen + team.first_row / kTileRows;
  float2* own_stats = stats + team.first_row;
  float dq_weight[kChunks] = {}, dk_weight[kChunks] = {};
  const float scale = call.scale * kLog2E;
  const int width = call.width;
#pragma unroll 1
  for (uint32_t round = blockIdx.x; round < rounds; round += gridDim.x) {
    const uint32_t problem = round * problems_per_block + team.problem;
    const bool active = problem < call.count;
    const Place place(call, active ? problem : 0);
    const T* from[2];
    T* target[2];
    if (active) stage_keys(call, place, how.k, team, own_seen);
    __syncthreads();
#pragma unroll 1
    for (int tile = team.member; active && tile < team.tiles; tile += call.warps) {
      const TileRows rows(call, tile);
      Tile<T, kChunks> q, grad;
      rows.pointers(call, place, kOut, from);
      load_tile(from, width, grad);
      rows.pointers(call, place, kQ, from);
      load_tile(from, width, q);
      prepare(how.q, rows.token, width, q);
      // Calls f(keys, scores, dp, bits) for every tile of keys.
      const auto over_keys = [&](auto f) {
#pragma unroll 1
        for (int key_tile = 0; key_tile < team.tiles; ++key_tile) {
          Tile<T, kChunks> keys;
          team.b.get(key_tile, keys);
          Square dsquare = scores(grad, keys);
          team.a.get(key_tile, keys);
          Square square = scores(q, keys);
          f(keys, square, dsquare, own_seen[key_tile]);
        }
      };
      Softmax softmax;
      float mean[2] = {}, share[2], log_sum[2];
      over_keys([&](const auto&, Square& square, const Square& dsquare, unsigned bits) {
        const float2 shrink = softmax.next(square, {bits, bits}, scale);
        mean[0] *= shrink.x;
        mean[1] *= shrink.y;
        each_entry([&](int n, int i, int half, int) { mean[half] += square.v[n][i] * dsquare.v[n][i]; });
      });
      softmax.finish(share);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mean[half] = quad_sum(mean[half]) * share[half];
        log_sum[half] = softmax.log_sum(half);
        if (threadIdx.x % 4 == 0) {
          own_stats[kTileRows * tile + lane_row() + 8 * half] = make_float2(log_sum[half], mean[half]);
        }
      }
      Sums<kChunks> dq{};
      over_keys([&](const auto& keys, const Square& square, Square& dsquare, unsigned bits) {
        each_entry([&](int n, int i, int half, int column) {
          const float p = exp2f(square.v[n][i] * scale - log_sum[half]);
          dsquare.v[n][i] = bits >> column & 1 ? p * (dsquare.v[n][i] - mean[half]) : 0.0f;
        });
        add_product(rounded<T>(dsquare), keys, dq);
      });
      rows.pointers(call, place, kDq, target);
      rows.pointers(call, place, kQ, from);
      write_gradient(dq, call.scale, how.q, rows.token, from, width, target, dq_weight);
    }
    __syncthreads();

#pragma unroll 1
    for (int tile = team.member; active && tile < team.tiles; tile += call.warps) {
      const TileRows rows(call, tile);
      Tile<T, kChunks> q, grad;
      rows.pointers(call, place, kOut, from);
      load_tile(from, width, grad);
      rows.pointers(call, place, kQ, from);
      load_tile(from, width, q);
      prepare(how.q, rows.token, width, q);
      team.a.put(tile, q);
      team.b.put(tile, grad);
    }
    __syncthreads();
#pragma unroll 1
    for (int tile = team.member; active && tile < team.tiles; tile += call.warps) {
      const TileRows rows(call, tile), seen_rows = rows.seen(own_seen[tile]);
      // Wide rows leave registers for one of dk and dv at a time.
      constexpr bool kTogether = kChunks < 3;
      Tile<T, kChunks> k, v;
      Sums<kChunks> dk, dv;
      seen_rows.pointers(call, place, kK, from);
      load_tile(from, width, k);
      prepare(how.k, seen_rows.token, width, k);
      if constexpr (!kTogether) {
        dv = {};
        add_over_queries<true, false>(team, own_stats, seen_rows, scale, k, v, dk, dv);
        rows.pointers(call, place, kDv, target);
        store_tile(dv, {1.0f, 1.0f}, target, width);
      }
      const T* v_rows[2];
      seen_rows.pointers(call, place, kV, v_rows);
      load_tile(v_rows, width, v);
      dk = {};
      if constexpr (kTogether) dv = {};
      add_over_queries<kTogether, true>(team, own_stats, seen_rows, scale, k, v, dk, dv);
      if constexpr (kTogether) {
        rows.pointers(call, place, kDv, target);
        store_tile(dv, {1.0f, 1.0f}, target, width);
      }
      rows.pointers(call, place, kDk, target);
      seen_rows.pointers(call, place, kK, from);
      write_gradient(dk, call.scale, how.k, seen_rows.token, from, width, target, dk_weight);
    }
    __syncthreads();  // shared memory is free again
  }
  if (call.partial != nullptr) {
    write_partial(dq_weight, dk_weight, call.scale, width, weights + 2 * kColumns,
                  call.partial + int64_t(blockIdx.x) * 2 * width);
  }
}

}  // namespace
}  // namespace pavdit::cuda
