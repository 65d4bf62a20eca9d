// block_attention's problems for CUDA kernels: where the rows of a problem lie in every tensor, and how the
// warps of a thread block share them.
#pragma once

#include "block_attention.h"
#include "divide.cuh"
#include "qk_norm.cuh"

namespace pavdit::cuda {

constexpr int kBlockMaxTiles = kBlockMaxKeys / kTileRows;
constexpr int kBlockMaxWarps = 8;  // of a thread block: its 256 threads may then have 255 registers each
constexpr int kBlockMinWarps = 4;  // small problems share a thread block up to here

enum BlockTensor { kQ, kK, kV, kOut, kDq, kDk, kDv, kBlockTensors };  // kOut: out, or its gradient

// Everything that a kernel is told. Pointers without a type; their shapes stand in block_attention.h.
struct BlockCall {
  BlockRows<void*> rows[2][kBlockTensors];  // [direction]
  BlockRows<const bool*> valid;
  QKNorm norm;
  float* partial;                                            // [thread blocks, 2, E]
  Divider heads, directions, counts[3], columns, grid_rows;  // blocks along T, H, W; bw, bh
  int block[3];
  int tokens, width;
  int warps;       // of a problem
  uint32_t count;  // of problems, below 2^31
  float scale;
  bool whole;  // float32 rows may be read four columns at a time
};

// The first token of a problem's block.
struct Place {
  uint32_t head, direction;
  int64_t batch, t, h, w;

  __device__ __forceinline__ Place(const BlockCall& call, uint32_t problem) {
    const auto digit = [&](const Divider& by) {
      const uint32_t next = by.quotient(problem), rest = problem - next * by.divisor;
      problem = next;
      return rest;
    };
    head = digit(call.heads);
    direction = digit(call.directions);
    w = int64_t(digit(call.counts[2])) * call.block[2];
    h = int64_t(digit(call.counts[1])) * call.block[1];
    t = int64_t(digit(call.counts[0])) * call.block[0];
    batch = problem;
  }

  template <typename Pointer>
  __device__ __forceinline__ int64_t offset(const BlockCall& call, const BlockRows<Pointer>& rows,
                                            int token) const {
    const uint32_t line = call.columns.quotient(token), frame = call.grid_rows.quotient(line);
    const int64_t column = token - line * call.columns.divisor, row = line - frame * call.grid_rows.divisor;
    return batch * rows.grid[0] + (t + frame) * rows.grid[1] + (h + row) * rows.grid[2] +
           (w + column) * rows.grid[3] + head * rows.head;
  }
};

// Rows g and g + 8 of a tile of 16 tokens.
struct TileRows {
  int token[2];  // 0 where there is no row
  bool there[2];

  __device__ __forceinline__ TileRows(const BlockCall& call, int tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      token[half] = kTileRows * tile + lane_row() + 8 * half;
      there[half] = token[half] < call.tokens;
      if (!there[half]) token[half] = 0;
    }
  }

  // The same without the rows whose bit is 0.
  __device__ __forceinline__ TileRows seen(unsigned bits) const {
    TileRows rows = *this;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows.there[half] = rows.there[half] && bits >> (lane_row() + 8 * half) & 1;
    }
    return rows;
  }

  template <typename T>
  __device__ __forceinline__ void pointers(const BlockCall& call, const Place& place, BlockTensor tensor,
                                           T* (&pointer)[2]) const {
    const BlockRows<void*>& rows = call.rows[place.direction][tensor];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      pointer[half] =
          there[half] ? static_cast<T*>(rows.data) + place.offset(call, rows, token[half]) : nullptr;
    }
  }
};

// Bit j: key j of the tile is there and may be seen. The whole warp calls it.
__device__ __forceinline__ unsigned seen_keys(const BlockCall& call, const Place& place, int tile) {
  const int token = kTileRows * tile + int(threadIdx.x) % kTileRows;
  bool seen = token < call.tokens;
  if (seen && call.valid.data != nullptr) {
    BlockRows<const bool*> rows = call.valid;
    seen = rows.data[place.offset(call, rows, token)];
  }
  return __ballot_sync(kAllLanes, seen) & 0xffffu;
}

// ---- tiles in shared memory ----

// Two tensors of a problem, [tiles * 16, columns] each. The chunks of odd rows are exchanged in pairs where
// rows are a multiple of 128 bytes apart, so that the 16-byte accesses of 8 lanes meet 32 different banks.
template <typename T, int kChunks>
struct Stage {
  static constexpr int kColumns = kChunks * kChunkColumns;
  T* rows;

  static __device__ __forceinline__ int place(int tile, int half, int chunk) {
    const int row = kTileRows * tile + lane_row() + 8 * half;
    return row * kColumns + lane_column(kChunks % 2 == 0 ? chunk ^ (row & 1) : chunk);
  }

  __device__ __forceinline__ void put(int tile, const Tile<T, kChunks>& from) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const uint32_t* v = from.pair[c][half];
        *reinterpret_cast<uint4*>(rows + place(tile, half, c)) = make_uint4(v[0], v[1], v[2], v[3]);
      }
    }
  }

  __device__ __forceinline__ void get(int tile, Tile<T, kChunks>& to) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const uint4 pack = *reinterpret_cast<const uint4*>(rows + place(tile, half, c));
        uint32_t* v = to.pair[c][half];
        v[0] = pack.x, v[1] = pack.y, v[2] = pack.z, v[3] = pack.w;
      }
    }
  }
};

// ---- on the host ----

inline BlockCall block_call(const BlockShape& shape, const BlockInputs* in) {
  BlockCall call{};
  const auto plain = [](const BlockRows<const void*>& rows) {
    BlockRows<void*> same{const_cast<void*>(rows.data), {}, rows.head, rows.along};
    for (int axis = 0; axis < 4; ++axis) same.grid[axis] = rows.grid[axis];
    return same;
  };
  for (int64_t d = 0; d < shape.directions; ++d) {
    call.rows[d][kQ] = plain(in[d].q);
    call.rows[d][kK] = plain(in[d].k);
    call.rows[d][kV] = plain(in[d].v);
  }
  call.valid = in[0].valid;
  const int64_t tokens = shape.tokens();
  call.norm = {in[0].q_weight,     in[0].k_weight,
               in[0].rope,         in[0].rope == nullptr ? nullptr : in[0].rope + tokens * (shape.width / 2),
               shape.weight_dtype, kBlockNormEps};
  call.heads = Divider(shape.heads);
  call.directions = Divider(shape.directions);
  for (int axis = 0; axis < 3; ++axis) {
    call.counts[axis] = Divider(shape.counts[axis + 1]);
    call.block[axis] = int(shape.block[axis]);
  }
  call.columns = Divider(shape.block[2]);
  call.grid_rows = Divider(shape.block[1]);
  call.tokens = int(tokens), call.width = int(shape.width);
  const int tiles = int((tokens + kTileRows - 1) / kTileRows);
  call.warps = tiles < kBlockMaxWarps ? tiles : kBlockMaxWarps;
  call.count = uint32_t(shape.problems());
  call.scale = 1.0f / sqrtf(float(shape.width));
  return call;
}

}  // namespace pavdit::cuda
