// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in axis_attention.h.
//
// A problem is worked on in float32. Scores lie as [key][query]: a vector holds one key's scores for several
// queries, so the softmax needs no sum across lanes. Every sum of products, forward and backward, is then the
// one function `product`.
#include "axis_attention.h"

#include "product.h"
#include "vec.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

constexpr int64_t padded(int64_t count, int64_t lanes) {
  return (count + lanes - 1) / lanes * lanes;
}

// ---- where things lie ----

// Float32 rows in memory or in scratch, whole vectors wide.
struct Rows {
  const float* data;
  int64_t stride;
};

// The scratch of one task, cut up; `width` is E in whole vectors, `lanes` the queries in whole narrow ones.
struct Workspace {
  int64_t width, lanes;
  float *q, *k, *v, *grad;     // [tokens, width]
  float* turned;               // [width, lanes]: q or grad transposed
  float *weights, *dweights;   // [keys, lanes]: p, and dp or ds
  float* result;               // [tokens, width]
  float *cosines, *sines;      // [tokens, width]
  float *q_weight, *k_weight;  // [width]

  Workspace(const AxisShape& shape, float* scratch)
      : width(padded(shape.width, kLanes)), lanes(padded(shape.queries, kNarrow)) {
    const int64_t tokens = shape.keys, rows = tokens * width;
    const auto take = [&](int64_t count) {
      float* taken = scratch;
      scratch += padded(count, 16);
      return taken;
    };
    q = take(rows), k = take(rows), v = take(rows), grad = take(rows), result = take(rows);
    turned = take(lanes * width);
    weights = take(tokens * lanes), dweights = take(tokens * lanes);
    cosines = take(rows), sines = take(rows), q_weight = take(width), k_weight = take(width);
  }
};

// What a row goes through before attention; null for no norm, no rotation.
struct Preparation {
  const float* weight;
  const float* cosines;
  const float* sines;
};

struct Position {
  int64_t index[kAxisMaxLeading];

  Position(const AxisShape& shape, int64_t position) {
    for (int axis = shape.others - 1; axis >= 0; --axis) {
      index[axis] = position % shape.sizes[axis];
      position /= shape.sizes[axis];
    }
  }

  template <typename T, typename Pointer>
  T* first(const AxisShape& shape, const AxisRows<Pointer>& rows, int64_t head) const {
    int64_t offset = head * rows.head;
    for (int axis = 0; axis < shape.others; ++axis) offset += index[axis] * rows.others[axis];
    return static_cast<T*>(rows.data) + offset;
  }
};

// The tokens that may be seen, in order. What is hidden is never read.
struct Seen {
  bool all;
  int64_t count;
  int64_t token[kAxisMaxLength];  // unless all

  Seen(const AxisShape& shape, const AxisInputs& in, const Position& position) {
    all = in.valid.data == nullptr;
    count = shape.keys;
    if (all) return;
    const bool* valid = position.first<const bool>(shape, in.valid, 0);
    count = 0;
    for (int64_t j = 0; j < shape.keys; ++j) {
      if (valid[j * in.valid.along]) token[count++] = j;
    }
  }

  int64_t operator[](int64_t j) const { return all ? j : token[j]; }
};

// ---- one row ----

template <typename T>
void load_row(const T* source, int64_t width, float* row) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(row + i, load<Floats>(source + i));
  if (i < width) {
    T rest[kLanes] = {};
    __builtin_memcpy(rest, source + i, (width - i) * sizeof(T));
    store(row + i, load<Floats>(rest));
  }
}

template <typename T>
void store_row(const float* row, int64_t width, T* target) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(target + i, load<Floats>(row + i));
  if (i < width) {
    T rest[kLanes];
    store(rest, load<Floats>(row + i));
    __builtin_memcpy(target + i, rest, (width - i) * sizeof(T));
  }
}

template <typename T>
void zero_row(int64_t width, T* target) {
  for (int64_t i = 0; i < width; ++i) store(target + i, 0.0f);
}

// (x0, x1, x2, x3, ...) to (x1, x0, x3, x2, ...)
inline Floats swap_pairs(Floats v) {
  using Pairs = uint64_t __attribute__((vector_size(sizeof(Floats))));
  const Pairs pairs = bit_cast<Pairs>(v);
  return bit_cast<Floats>(Pairs((pairs << 32) | (pairs >> 32)));
}

// Over a padded row, whose rest is 0.
inline float reciprocal_rms(const float* row, int64_t padded_width, int64_t width) {
  Sum squares;
  over_columns(padded_width, [&](auto v, int slot, int64_t i) {
    const auto value = load<decltype(v)>(row + i);
    squares.add(slot, value * value);
  });
  return 1.0f / __builtin_sqrtf(squares.total() / float(width) + kAxisNormEps);
}

void prepare(float* row, const Workspace& work, int64_t width, const Preparation& how, int64_t token) {
  if (how.weight != nullptr) {
    const float rstd = reciprocal_rms(row, work.width, width);
    for (int64_t i = 0; i < work.width; i += kLanes) {
      store(row + i, load<Floats>(row + i) * rstd * load<Floats>(how.weight + i));
    }
  }
  if (how.cosines != nullptr) {
    for (int64_t i = 0; i < work.width; i += kLanes) {
      const Floats value = load<Floats>(row + i);
      store(row + i, value * load<Floats>(how.cosines + token * work.width + i) +
                         swap_pairs(value) * load<Floats>(how.sines + token * work.width + i));
    }
  }
}

// The gradient of `prepare`, in place in `grad`; adds the row's share to dweight. x: the row as it was read.
void prepare_backward(float* grad, const float* x, const Workspace& work, int64_t width,
                      const Preparation& how, int64_t token, float* dweight) {
  if (how.cosines != nullptr) {
    for (int64_t i = 0; i < work.width; i += kLanes) {
      const Floats value = load<Floats>(grad + i);
      store(grad + i, value * load<Floats>(how.cosines + token * work.width + i) -
                          swap_pairs(value) * load<Floats>(how.sines + token * work.width + i));
    }
  }
  if (how.weight == nullptr) return;
  const float rstd = reciprocal_rms(x, work.width, width);
  Sum sum;
  for (int64_t i = 0; i < work.width; i += kLanes) {
    const Floats y = load<Floats>(grad + i), xhat = load<Floats>(x + i) * rstd;
    const Floats h = y * load<Floats>(how.weight + i);
    store(dweight + i, load<Floats>(dweight + i) + y * xhat);
    store(grad + i, h);
    sum.add(0, h * xhat);
  }
  const float mean = sum.total() / float(width);
  for (int64_t i = 0; i < work.width; i += kLanes) {
    store(grad + i, rstd * (load<Floats>(grad + i) - load<Floats>(x + i) * rstd * mean));
  }
}

// ---- the rows of a problem ----

// As float32 in `buffer`, or in place where nothing is to be done to them.
template <typename T>
Rows read_rows(const T* source, int64_t along, const Seen* seen, int64_t count, const AxisShape& shape,
               const Workspace& work, const Preparation& how, float* buffer) {
  const bool all = seen == nullptr || seen->all;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (all && how.weight == nullptr && how.cosines == nullptr && shape.width == work.width) {
      return {source, along};
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = all ? i : (*seen)[i];
    float* row = buffer + i * work.width;
    load_row(source + token * along, shape.width, row);
    prepare(row, work, shape.width, how, token);
  }
  return {buffer, work.width};
}

// result[j][i] = rows[j] . columns[i], in `out` [count, lanes]. `turned` is overwritten.
void dots(Rows rows, int64_t count, Rows columns, const AxisShape& shape, const Workspace& work, float* out) {
  if (shape.queries == 1) {  // to transpose would cost more than the products
    for (int64_t j = 0; j < count; ++j) {
      Sum sum;
      for (int64_t i = 0; i < work.width; i += kLanes) {
        sum.add(0, load<Floats>(rows.data + j * rows.stride + i) * load<Floats>(columns.data + i));
      }
      write(out + j * work.lanes, Narrow{} + sum.total());
    }
    return;
  }
  transpose(columns.data, columns.stride, shape.queries, shape.width, work.turned, work.lanes);
  product({rows.data, rows.stride, 1}, {work.turned, work.lanes}, {out, work.lanes}, count, shape.width,
          work.lanes);
}

// Where a product goes: to memory at once where rows are float32 and whole vectors, else to scratch.
template <typename T>
Result result_rows(T* target, int64_t along, const Seen* seen, const AxisShape& shape,
                   const Workspace& work) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if ((seen == nullptr || seen->all) && shape.width == work.width) return {target, along};
  }
  return {work.result, work.width};
}

// The rest of the way.
template <typename T>
void write_rows(Result result, T* target, int64_t along, const Seen* seen, int64_t count,
                const AxisShape& shape) {
  if (static_cast<const void*>(result.data) == target) return;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = seen == nullptr ? i : (*seen)[i];
    store_row(result.data + i * result.row, shape.width, target + token * along);
  }
}

// Calls body(V{}, query) for all queries, a whole vector at a time.
template <typename Body>
inline void over_queries(const Workspace& work, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= work.lanes; i += kLanes) body(Floats{}, i);
  for (; i < work.lanes; i += kNarrow) body(Narrow{}, i);
}

// Scores to weights.
void softmax(const Workspace& work, int64_t keys, float scale) {
  over_queries(work, [&](auto zero, int64_t i) {
    using V = decltype(zero);
    float* column = work.weights + i;
    V top = zero - __builtin_inff(), sum = zero;
    for (int64_t j = 0; j < keys; ++j) {
      const V score = read<V>(column + j * work.lanes);
      top = score > top ? score : top;
    }
    for (int64_t j = 0; j < keys; ++j) {
      const V weight = exp_of_negative((read<V>(column + j * work.lanes) - top) * scale);
      write(column + j * work.lanes, weight);
      sum += weight;
    }
    const V share = 1.0f / sum;
    for (int64_t j = 0; j < keys; ++j) {
      write(column + j * work.lanes, read<V>(column + j * work.lanes) * share);
    }
  });
}

// dp to ds.
void softmax_backward(const Workspace& work, int64_t keys, float scale) {
  over_queries(work, [&](auto zero, int64_t i) {
    using V = decltype(zero);
    V mean = zero;
    for (int64_t j = 0; j < keys; ++j) {
      mean += read<V>(work.weights + j * work.lanes + i) * read<V>(work.dweights + j * work.lanes + i);
    }
    for (int64_t j = 0; j < keys; ++j) {
      float* dweight = work.dweights + j * work.lanes + i;
      write(dweight, read<V>(work.weights + j * work.lanes + i) * (read<V>(dweight) - mean) * scale);
    }
  });
}

// ---- tasks ----

void read_weight(const AxisShape& shape, const void* weight, const Workspace& work, float* row) {
  for (int64_t i = shape.width; i < work.width; ++i) row[i] = 0.0f;
  switch (shape.weight_dtype) {
    case DType::kFloat32:
      return load_row(static_cast<const float*>(weight), shape.width, row);
    case DType::kBFloat16:
      return load_row(static_cast<const BFloat16*>(weight), shape.width, row);
    case DType::kFloat16:
      return load_row(static_cast<const Float16*>(weight), shape.width, row);
  }
}

// cosines = (c0, c0, c1, c1, ...), sines = (-s0, s0, -s1, s1, ...), so that a pair turns without a shuffle of
// its own.
void read_rope(const AxisShape& shape, const float* rope, const Workspace& work) {
  const int64_t half = shape.width / 2;
  for (int64_t token = 0; token < shape.keys; ++token) {
    float *cosines = work.cosines + token * work.width, *sines = work.sines + token * work.width;
    for (int64_t i = 0; i < work.width; ++i) {
      const float* pair = rope + token * half + i / 2;
      cosines[i] = i < 2 * half ? pair[0] : 0.0f;
      sines[i] = i >= 2 * half ? 0.0f : i % 2 == 0 ? -pair[shape.keys * half] : pair[shape.keys * half];
    }
  }
}

struct Preparations {
  Preparation q{}, k{}, none{};

  Preparations(const AxisShape& shape, const AxisInputs& in, const Workspace& work) {
    if (in.q_weight != nullptr) {
      read_weight(shape, in.q_weight, work, work.q_weight);
      read_weight(shape, in.k_weight, work, work.k_weight);
      q.weight = work.q_weight, k.weight = work.k_weight;
    }
    if (in.rope != nullptr) {
      read_rope(shape, in.rope, work);
      q.cosines = k.cosines = work.cosines, q.sines = k.sines = work.sines;
    }
  }
};

template <typename T>
void forward(const AxisShape& shape, const AxisInputs& in, AxisRows<void*> out, float* scratch, int64_t begin,
             int64_t end) {
  const Workspace work(shape, scratch);
  const Preparations how(shape, in, work);
  const float scale = 1.0f / __builtin_sqrtf(float(shape.width));
  for (int64_t problem = begin; problem < end; ++problem) {
    const int64_t head = problem % shape.heads;
    const Position at(shape, problem / shape.heads);
    const Seen seen(shape, in, at);
    const Rows q = read_rows(at.first<const T>(shape, in.q, head), in.q.along, nullptr, shape.queries, shape,
                             work, how.q, work.q);
    const Rows k = read_rows(at.first<const T>(shape, in.k, head), in.k.along, &seen, seen.count, shape, work,
                             how.k, work.k);
    const Rows v = read_rows(at.first<const T>(shape, in.v, head), in.v.along, &seen, seen.count, shape, work,
                             how.none, work.v);
    dots(k, seen.count, q, shape, work, work.weights);
    softmax(work, seen.count, scale);
    T* target = at.first<T>(shape, out, head);
    const Result result = result_rows(target, out.along, nullptr, shape, work);
    product({work.weights, 1, work.lanes}, {v.data, v.stride}, result, shape.queries, seen.count, work.width);
    write_rows(result, target, out.along, nullptr, shape.queries, shape);
  }
}

// The gradient of one of q, k, v: a product, back through norm and rotation, to memory.
template <typename T>
void write_gradient(Left a, Rows b, int64_t terms, const T* source, int64_t source_along, T* target,
                    int64_t target_along, const Seen* seen, int64_t count, const AxisShape& shape,
                    const Workspace& work, const Preparation& how, float* dweight) {
  const Result result = result_rows(target, target_along, seen, shape, work);
  product(a, {b.data, b.stride}, result, count, terms, work.width);
  for (int64_t i = 0; i < count && (how.weight != nullptr || how.cosines != nullptr); ++i) {
    const int64_t token = seen == nullptr ? i : (*seen)[i];
    if (how.weight != nullptr) load_row(source + token * source_along, shape.width, work.turned);
    prepare_backward(result.data + i * result.row, work.turned, work, shape.width, how, token, dweight);
  }
  write_rows(result, target, target_along, seen, count, shape);
}

template <typename T>
void backward_problem(const AxisShape& shape, const AxisInputs& in, const AxisGradients& gradients,
                      const Workspace& work, const Preparations& how, int64_t problem, float* dq_weight,
                      float* dk_weight) {
  const float scale = 1.0f / __builtin_sqrtf(float(shape.width));
  const int64_t head = problem % shape.heads;
  const Position at(shape, problem / shape.heads);
  const Seen seen(shape, in, at);
  const T* q_source = at.first<const T>(shape, in.q, head);
  const T* k_source = at.first<const T>(shape, in.k, head);
  const Rows q = read_rows(q_source, in.q.along, nullptr, shape.queries, shape, work, how.q, work.q);
  const Rows k = read_rows(k_source, in.k.along, &seen, seen.count, shape, work, how.k, work.k);
  const Rows v = read_rows(at.first<const T>(shape, in.v, head), in.v.along, &seen, seen.count, shape, work,
                           how.none, work.v);
  const Rows grad = read_rows(at.first<const T>(shape, gradients.out, head), gradients.out.along, nullptr,
                              shape.queries, shape, work, how.none, work.grad);
  dots(k, seen.count, q, shape, work, work.weights);
  softmax(work, seen.count, scale);
  dots(v, seen.count, grad, shape, work, work.dweights);
  softmax_backward(work, seen.count, scale);

  T* dq = at.first<T>(shape, gradients.q, head);
  T* dk = at.first<T>(shape, gradients.k, head);
  T* dv = at.first<T>(shape, gradients.v, head);
  write_gradient({work.dweights, 1, work.lanes}, k, seen.count, q_source, in.q.along, dq, gradients.q.along,
                 nullptr, shape.queries, shape, work, how.q, dq_weight);
  write_gradient({work.dweights, work.lanes, 1}, q, shape.queries, k_source, in.k.along, dk,
                 gradients.k.along, &seen, seen.count, shape, work, how.k, dk_weight);
  write_gradient({work.weights, work.lanes, 1}, grad, shape.queries, k_source, in.v.along, dv,
                 gradients.v.along, &seen, seen.count, shape, work, how.none, nullptr);
  for (int64_t token = 0, j = 0; token < shape.keys && !seen.all; ++token) {
    if (j < seen.count && seen[j] == token) {
      ++j;
    } else {
      zero_row(shape.width, dk + token * gradients.k.along);
      zero_row(shape.width, dv + token * gradients.v.along);
    }
  }
}

template <typename T>
void backward(const AxisShape& shape, const AxisInputs& in, const AxisGradients& gradients, float* scratch,
              int64_t begin, int64_t end) {
  const Workspace work(shape, scratch);
  const Preparations how(shape, in, work);
  float sums[2][kAxisMaxWidth];
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    if (how.q.weight != nullptr) __builtin_memset(sums, 0, sizeof(sums));
    const int64_t first = chunk * kAxisProblemsPerChunk;
    const int64_t rest = shape.problems() - first;
    const int64_t last = first + (rest < kAxisProblemsPerChunk ? rest : kAxisProblemsPerChunk);
    for (int64_t problem = first; problem < last; ++problem) {
      backward_problem<T>(shape, in, gradients, work, how, problem, sums[0], sums[1]);
    }
    if (how.q.weight == nullptr) continue;
    for (int which = 0; which < 2; ++which) {
      store_row(sums[which], shape.width, gradients.partial + (2 * chunk + which) * shape.width);
    }
  }
}

// Compensated (Kahan), because many thousands of chunks may be added up one by one.
template <typename T>
void sum_partials(const AxisShape& shape, const float* partial, T* dq_weight, T* dk_weight, float* scratch) {
  const int64_t width = shape.width;
  float *sums = scratch, *lost = scratch + 2 * width;
  over_columns(4 * width, [&](auto zero, int, int64_t i) { store(scratch + i, zero); });
  for (int64_t chunk = 0; chunk < axis_chunks(shape); ++chunk, partial += 2 * width) {
    over_columns(2 * width, [&](auto v, int, int64_t i) {
      using V = decltype(v);
      const V sum = load<V>(sums + i), term = load<V>(partial + i) - load<V>(lost + i);
      const V next = sum + term;
      store(lost + i, (next - sum) - term);
      store(sums + i, next);
    });
  }
  store_row(sums, width, dq_weight);
  store_row(sums + width, width, dk_weight);
}

// ---- from pointers without a type to the templates above ----

template <typename Run>
void with_type(DType dtype, Run run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kBFloat16:
      return run(BFloat16{});
    case DType::kFloat16:
      return run(Float16{});
  }
}

void forward_any(const AxisShape& shape, const AxisInputs& in, AxisRows<void*> out, float* scratch,
                 int64_t begin, int64_t end) {
  with_type(shape.dtype, [&](auto type) { forward<decltype(type)>(shape, in, out, scratch, begin, end); });
}

void backward_any(const AxisShape& shape, const AxisInputs& in, const AxisGradients& gradients,
                  float* scratch, int64_t begin, int64_t end) {
  with_type(shape.dtype,
            [&](auto type) { backward<decltype(type)>(shape, in, gradients, scratch, begin, end); });
}

void sum_partials_any(const AxisShape& shape, const float* partial, void* dq_weight, void* dk_weight,
                      float* scratch) {
  with_type(shape.weight_dtype, [&](auto type) {
    using T = decltype(type);
    sum_partials(shape, partial, static_cast<T*>(dq_weight), static_cast<T*>(dk_weight), scratch);
  });
}

}  // namespace

const AxisAttention axis_attention = {forward_any, backward_any, sum_partials_any};

}  // namespace pavdit::cpu::PAVDIT_ISA
