// Attention of a few tokens on tensor cores, without shared memory: a warp holds 16 rows of q, k and v in
// registers, each loaded once by 16-byte accesses. 16-bit types, widths that are multiples of 8.
//
// Why tensor cores for so little arithmetic: a tile of 16 rows x 64 columns moves 8 KB (q, k, v and out in 16
// bits) for 65,536 flops (scores and output, 16 x 16 keys: shorter problems share a tile and waste the rest).
// At 4.3 TB/s that is 34 TFLOP/s, half of an H200's float32 peak, before softmax and conversions; as mma it
// is 16 instructions a tile. So the op stays bound by memory. A warp keeps 6 KB of loads in flight, 16 warps
// a multiprocessor 96 KB; 23 KB would cover 700 ns of latency at full bandwidth.
//
// The layout, used for everything: in chunk c of 32 columns, lane 4 g + t holds columns 32 c + 8 t .. + 7 of
// rows g and g + 8, as four registers of two neighbours. A sum of products does not care for the order of its
// terms, so
//
//   - over columns (scores), these registers are the A fragment and the B fragment of mma as they are: the
//     same columns in both, in the same strange order;
//   - over rows (weights times values), the values' B fragment is each register transposed as an 8 x 8
//   matrix,
//     and the result comes out in this very layout, ready for 16-byte stores. The weights' A fragment is the
//     scores' D fragment, rounded.
//
// Whatever is not there (a row beyond the end, a hidden key, columns beyond the width) is zero in a tile and
// is never read from memory.
#pragma once

#include "mma.cuh"
#include "reduce.cuh"

namespace pavdit::cuda {

constexpr int kTileRows = 16;
constexpr int kChunkColumns = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.44269504088896340736f;

__device__ __forceinline__ int lane_row() {
  return int(threadIdx.x) % kWarp / 4;  // and 8 more
}
__device__ __forceinline__ int lane_column(int chunk) {
  return kChunkColumns * chunk + int(threadIdx.x) % 4 * 8;
}
__device__ __forceinline__ float quad_sum(float v) {  // over the four lanes of a row
  v += __shfl_xor_sync(kAllLanes, v, 1);
  return v + __shfl_xor_sync(kAllLanes, v, 2);
}
__device__ __forceinline__ float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, 1));
  return fmaxf(v, __shfl_xor_sync(kAllLanes, v, 2));
}

// ---- 16 rows, in 16 bits and in float32 ----

template <typename T, int kChunks>
struct Tile {
  uint32_t pair[kChunks][2][4];  // [chunk][row g, row g + 8][two columns]
};

template <int kChunks>
struct Sums {
  float v[kChunks][2][8];
};

// rows: where row g and row g + 8 begin, null for zeros; 16-byte aligned.
template <typename T, int kChunks>
__device__ __forceinline__ void load_tile(const T* const (&rows)[2], int width, Tile<T, kChunks>& tile) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = lane_column(c);
      uint4 pack = make_uint4(0, 0, 0, 0);
      if (rows[half] != nullptr && column < width) {
        pack = *reinterpret_cast<const uint4*>(rows[half] + column);
      }
      tile.pair[c][half][0] = pack.x;
      tile.pair[c][half][1] = pack.y;
      tile.pair[c][half][2] = pack.z;
      tile.pair[c][half][3] = pack.w;
    }
  }
}

// sums * factor[row], rounded, to rows as above; null: not written.
template <typename T, int kChunks>
__device__ __forceinline__ void store_tile(const Sums<kChunks>& sums, const float (&factor)[2],
                                           T* const (&rows)[2], int width) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = lane_column(c);
      const float* v = sums.v[c][half];
      if (rows[half] != nullptr && column < width) {
        *reinterpret_cast<uint4*>(rows[half] + column) =
            make_uint4(pack_pair<T>(v[0] * factor[half], v[1] * factor[half]),
                       pack_pair<T>(v[2] * factor[half], v[3] * factor[half]),
                       pack_pair<T>(v[4] * factor[half], v[5] * factor[half]),
                       pack_pair<T>(v[6] * factor[half], v[7] * factor[half]));
      }
    }
  }
}

// ---- products ----

// 16 x 16 numbers as two D fragments: columns 0..7, then 8..15.
struct Square {
  float v[2][4];
};

// Calls f(n, i, half, column) for the lane's entries v[n][i] of a square: their row is g + 8 half.
template <typename F>
__device__ __forceinline__ void each_entry(F f) {
  const int t = int(threadIdx.x) % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) f(n, i, i / 2, 8 * n + 2 * t + i % 2);
  }
}

// a b^T: entry (i, j) is row i of a times row j of b.
template <typename T, int kChunks>
__device__ __forceinline__ Square scores(const Tile<T, kChunks>& a, const Tile<T, kChunks>& b) {
  Square square{};
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const uint32_t left[4] = {a.pair[c][0][i], a.pair[c][1][i], a.pair[c][0][i + 1], a.pair[c][1][i + 1]};
#pragma unroll
      for (int n = 0; n < 2; ++n) mma<T>(square.v[n], left, b.pair[c][n][i], b.pair[c][n][i + 1]);
    }
  }
  return square;
}

// A square rounded to T, as the left factor of a product.
struct Weights {
  uint32_t a[4];
};

template <typename T>
__device__ __forceinline__ Weights rounded(const Square& s) {
  return {{pack_pair<T>(s.v[0][0], s.v[0][1]), pack_pair<T>(s.v[0][2], s.v[0][3]),
           pack_pair<T>(s.v[1][0], s.v[1][1]), pack_pair<T>(s.v[1][2], s.v[1][3])}};
}

__device__ __forceinline__ Weights transposed(const Weights& w) {
  return {{transpose_8x8(w.a[0]), transpose_8x8(w.a[2]), transpose_8x8(w.a[1]), transpose_8x8(w.a[3])}};
}

// sums += weights rows: row i gets the sum over j of weights (i, j) times row j.
template <typename T, int kChunks>
__device__ __forceinline__ void add_product(const Weights& weights, const Tile<T, kChunks>& rows,
                                            Sums<kChunks>& sums) {
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float* const upper = &sums.v[c][0][2 * i];
      float* const lower = &sums.v[c][1][2 * i];
      float d[4] = {upper[0], upper[1], lower[0], lower[1]};
      mma<T>(d, weights.a, transpose_8x8(rows.pair[c][0][i]), transpose_8x8(rows.pair[c][1][i]));
      upper[0] = d[0], upper[1] = d[1], lower[0] = d[2], lower[1] = d[3];
    }
  }
}

// As add_product, from zero, where rows and sums belong to several problems and the weights between problems
// are 0: a NaN or an infinity then stays in its problem, though 0 times it is NaN. problem_of_row,
// problem_of_sum: of rows g and g + 8.
template <typename T, int kChunks>
__device__ __forceinline__ void product_apart(const Weights& weights, const Tile<T, kChunks>& rows,
                                              const int (&problem_of_row)[2], const int (&problem_of_sum)[2],
                                              int problems, Sums<kChunks>& sums) {
  sums = Sums<kChunks>{};
  add_product(weights, rows, sums);
  float probe = 0.0f;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) probe += 0.0f * sums.v[c][0][i] + 0.0f * sums.v[c][1][i];
  }
  if (problems == 1 || !__any_sync(kAllLanes, probe != 0.0f)) return;
#pragma unroll 1
  for (int problem = 0; problem < problems; ++problem) {
    Tile<T, kChunks> own;
    Sums<kChunks> apart{};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        own.pair[c][i / 4][i % 4] = problem_of_row[i / 4] == problem ? rows.pair[c][i / 4][i % 4] : 0;
      }
    }
    add_product(weights, own, apart);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        if (problem_of_sum[i / 8] == problem) sums.v[c][i / 8][i % 8] = apart.v[c][i / 8][i % 8];
      }
    }
  }
}

// ---- softmax over tiles of keys, one after the other ----

// Of rows g and g + 8. `sum` is over this lane's columns until `finished`.
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};

  // Scores to weights relative to the highest score so far; `seen`: bit j of row half is set where key j
  // counts. Returns what earlier weights, and their products, are to be multiplied by; `scale` is that of
  // the scores times log2(e).
  __device__ __forceinline__ float2 next(Square& square, const unsigned (&seen)[2], float scale) {
    float now[2] = {top[0], top[1]};
    each_entry([&](int n, int i, int half, int column) {
      float& v = square.v[n][i];
      v = seen[half] >> column & 1 ? v * scale : -INFINITY;
      now[half] = fmaxf(now[half], v);
    });
    float shrink[2], base[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      now[half] = quad_max(now[half]);
      base[half] = now[half] == -INFINITY ? 0.0f : now[half];  // nothing seen yet: weights are 0, not NaN
      shrink[half] = exp2f(top[half] - base[half]);
      sum[half] *= shrink[half];
      top[half] = now[half];
    }
    each_entry([&](int n, int i, int half, int) {
      square.v[n][i] = exp2f(square.v[n][i] - base[half]);
      sum[half] += square.v[n][i];
    });
    return make_float2(shrink[0], shrink[1]);
  }

  // 1 / sum, 0 where no key was seen.
  __device__ __forceinline__ void finish(float (&share)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] = quad_sum(sum[half]);
      share[half] = sum[half] == 0.0f ? 0.0f : 1.0f / sum[half];
    }
  }

  // log2 of the sum of exp2(scores), after `finish`: exp2(score - this) is a weight. Infinite where no key
  // was seen, so that all weights are 0.
  __device__ __forceinline__ float log_sum(int half) const {
    return sum[half] == 0.0f ? INFINITY : top[half] + log2f(sum[half]);
  }
};

template <int kChunks>
__device__ __forceinline__ void shrink_sums(Sums<kChunks>& sums, float2 by) {
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sums.v[c][0][i] *= by.x;
      sums.v[c][1][i] *= by.y;
    }
  }
}

// ---- RMS norm and rotation of rows ----

// What q or k goes through before attention.
struct Preparation {
  const float* weight;   // [columns of all chunks], in shared memory; null: no norm
  const float* cosines;  // [tokens, width / 2], 16-byte aligned; null: no rotation
  const float* sines;
  float eps;

  // Runs f(pair number in the chunk, cosine, sine) over the lane's four pairs of a row.
  template <typename F>
  __device__ __forceinline__ void each_angle(int token, int column, int width, F f) const {
    const int64_t at = int64_t(token) * (width / 2) + column / 2;
    const float4 cosine = *reinterpret_cast<const float4*>(cosines + at);
    const float4 sine = *reinterpret_cast<const float4*>(sines + at);
    f(0, cosine.x, sine.x);
    f(1, cosine.y, sine.y);
    f(2, cosine.z, sine.z);
    f(3, cosine.w, sine.w);
  }
};

// 1 / sqrt(mean(x^2) + eps) of rows g and g + 8.
template <typename T, int kChunks>
__device__ __forceinline__ float2 reciprocal_rms(const Tile<T, kChunks>& x, int width, float eps) {
  float squares[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = unpack_pair<T>(x.pair[c][half][i]);
        squares[half] += v.x * v.x + v.y * v.y;
      }
    }
    squares[half] = quad_sum(squares[half]);
  }
  return make_float2(rsqrtf(squares[0] / float(width) + eps), rsqrtf(squares[1] / float(width) + eps));
}

// In place; tokens: of row g and row g + 8, any valid one where the row is zero.
template <typename T, int kChunks>
__device__ __forceinline__ void prepare(const Preparation& how, const int (&tokens)[2], int width,
                                        Tile<T, kChunks>& x) {
  if (how.weight == nullptr && how.cosines == nullptr) return;
  const float2 rstd = how.weight == nullptr ? make_float2(1.0f, 1.0f) : reciprocal_rms(x, width, how.eps);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = lane_column(c);
    if (column >= width) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = unpack_pair<T>(x.pair[c][half][i]);
        v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
      }
      if (how.weight != nullptr) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] *= (half == 0 ? rstd.x : rstd.y) * how.weight[column + i];
      }
      if (how.cosines != nullptr) {
        how.each_angle(tokens[half], column, width, [&](int i, float cosine, float sine) {
          const float first = v[2 * i], second = v[2 * i + 1];
          v[2 * i] = first * cosine - second * sine;
          v[2 * i + 1] = first * sine + second * cosine;
        });
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) x.pair[c][half][i] = pack_pair<T>(v[2 * i], v[2 * i + 1]);
    }
  }
}

// Sums v over the eight rows g: the lane keeps number g of its eight columns.
__device__ __forceinline__ float sum_over_rows(float (&v)[8]) {
  const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = 4; step > 0; step /= 2) {  // row bits 4, 2, 1 are lane bits 16, 8, 4
    const bool high = lane & (4 * step);
#pragma unroll
    for (int i = 0; i < step; ++i) {
      const float kept = high ? v[i + step] : v[i], given = high ? v[i] : v[i + step];
      v[i] = kept + __shfl_xor_sync(kAllLanes, given, 4 * step);
    }
  }
  return v[0];
}

// The gradient of `prepare`, in place in grad; x: the tile before it. Adds to dweight, of which the lane
// keeps column lane_column(c) + g of chunk c.
template <typename T, int kChunks>
__device__ __forceinline__ void prepare_backward(const Preparation& how, const int (&tokens)[2], int width,
                                                 const Tile<T, kChunks>& x, Sums<kChunks>& grad,
                                                 float (&dweight)[kChunks]) {
  if (how.cosines != nullptr) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = lane_column(c);
      if (column >= width) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* v = grad.v[c][half];
        how.each_angle(tokens[half], column, width, [&](int i, float cosine, float sine) {
          const float first = v[2 * i], second = v[2 * i + 1];
          v[2 * i] = first * cosine + second * sine;
          v[2 * i + 1] = second * cosine - first * sine;
        });
      }
    }
  }
  if (how.weight == nullptr) return;
  const float2 rstd = reciprocal_rms(x, width, how.eps);
  float mean[2] = {};  // of h xhat
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = lane_column(c);
    float share[8] = {};
    if (column < width) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float2 pair = unpack_pair<T>(x.pair[c][half][i / 2]);
          const float xhat = (i % 2 == 0 ? pair.x : pair.y) * (half == 0 ? rstd.x : rstd.y);
          share[i] += grad.v[c][half][i] * xhat;
          grad.v[c][half][i] *= how.weight[column + i];
          mean[half] += grad.v[c][half][i] * xhat;
        }
      }
    }
    dweight[c] += sum_over_rows(share);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    mean[half] = quad_sum(mean[half]) / float(width);
    const float of_row = half == 0 ? rstd.x : rstd.y;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float2 pair = unpack_pair<T>(x.pair[c][half][i / 2]);
        const float xhat = (i % 2 == 0 ? pair.x : pair.y) * of_row;
        grad.v[c][half][i] = of_row * (grad.v[c][half][i] - xhat * mean[half]);
      }
    }
  }
}

}  // namespace pavdit::cuda
