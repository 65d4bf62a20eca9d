// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in axis_attention.h, the arithmetic of
// one problem in include/attention.h; here is where its rows lie and which of them are seen.
#include "axis_attention.h"

#include "attention.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

// The scratch of one task, cut up; rows in it are row_scratch(E) long.
struct Workspace {
  float *q, *k, *v, *grad;        // [tokens, row]: what was read
  float *first, *second, *third;  // [tokens, row]: out, or dq, dk, dv
  float *cosines, *sines;         // [tokens, row]
  float *q_weight, *k_weight;     // [row]
  float* x;                       // [row]
  AttentionScratch attention;

  Workspace(const AxisShape& shape, float* scratch) : attention(scratch, shape.keys, shape.width) {
    const int64_t row = row_scratch(shape.width), rows = shape.keys * row;
    scratch += attention_scratch(shape.keys, shape.width);
    const auto take = [&](int64_t count) {
      float* taken = scratch;
      scratch += count;
      return taken;
    };
    q = take(rows), k = take(rows), v = take(rows), grad = take(rows);
    first = take(rows), second = take(rows), third = take(rows);
    cosines = take(rows), sines = take(rows);
    q_weight = take(row), k_weight = take(row), x = take(row);
  }
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

  explicit Seen(int64_t tokens) : all(true), count(tokens) {}

  Seen(const AxisShape& shape, const AxisInputs& in, const Position& position) : Seen(shape.keys) {
    if (in.valid.data == nullptr) return;
    const bool* valid = position.first<const bool>(shape, in.valid, 0);
    all = false;
    count = 0;
    for (int64_t j = 0; j < shape.keys; ++j) {
      if (valid[j * in.valid.along]) token[count++] = j;
    }
  }

  int64_t operator[](int64_t j) const { return all ? j : token[j]; }
};

struct Preparations {
  Preparation q{}, k{}, none{};

  Preparations(const AxisShape& shape, const AxisInputs& in, const Workspace& work) {
    q.eps = k.eps = kAxisNormEps;
    if (in.q_weight != nullptr) {
      load_weight(shape.weight_dtype, in.q_weight, shape.width, work.q_weight);
      load_weight(shape.weight_dtype, in.k_weight, shape.width, work.k_weight);
      q.weight = work.q_weight, k.weight = work.k_weight;
    }
    if (in.rope != nullptr) {
      load_rope(in.rope, shape.keys, shape.width, work.cosines, work.sines);
      q.cosines = k.cosines = work.cosines, q.sines = k.sines = work.sines;
    }
  }
};

// Rows of one problem in memory.
template <typename T>
struct Tokens {
  T* first;
  int64_t along;
  const Seen& seen;

  T* operator[](int64_t i) const { return first + seen[i] * along; }
  bool whole(int64_t width) const { return sizeof(T) == sizeof(float) && seen.all && whole_rows(width); }
};

// As float32 in `buffer`, or in place where nothing is to be done to them.
template <typename T>
Rows read_rows(const Tokens<const T>& tokens, int64_t width, const Preparation& how, float* buffer) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (tokens.whole(width) && !how.any()) return {tokens.first, tokens.along};
  }
  const int64_t stride = row_scratch(width);
  for (int64_t i = 0; i < tokens.seen.count; ++i) {
    load_row(tokens[i], width, buffer + i * stride);
    prepare(buffer + i * stride, width, how, tokens.seen[i]);
  }
  return {buffer, stride};
}

// Where a result goes: to memory at once, or to `buffer` where write_rows has work left.
template <typename T>
Result result_rows(const Tokens<T>& tokens, int64_t width, const Preparation& how, float* buffer) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (tokens.whole(width) && !how.any()) return {tokens.first, tokens.along};
  }
  return {buffer, row_scratch(width)};
}

template <typename T>
void write_rows(Result result, const Tokens<T>& tokens, int64_t width) {
  if (static_cast<const void*>(result.data) == tokens.first) return;
  for (int64_t i = 0; i < tokens.seen.count; ++i) store_row(result.data + i * result.row, width, tokens[i]);
}

// The same for a gradient, back through what `read_rows` did to `source`. x: scratch for a row.
template <typename T>
void write_gradient(Result result, const Tokens<T>& tokens, const Tokens<const T>& source, int64_t width,
                    const Preparation& how, float* x, float* dweight) {
  for (int64_t i = 0; i < tokens.seen.count && how.any(); ++i) {
    if (how.weight != nullptr) load_row(source[i], width, x);
    prepare_backward(result.data + i * result.row, x, width, how, tokens.seen[i], dweight);
  }
  write_rows(result, tokens, width);
}

template <typename T>
void zero_hidden_rows(const Tokens<T>& tokens, int64_t count, int64_t width) {
  for (int64_t token = 0, j = 0; token < count && !tokens.seen.all; ++token) {
    if (j < tokens.seen.count && tokens.seen[j] == token) {
      ++j;
    } else {
      zero_row(width, tokens.first + token * tokens.along);
    }
  }
}

template <typename T>
void forward(const AxisShape& shape, const AxisInputs& in, AxisRows<void*> out, float* scratch, int64_t begin,
             int64_t end) {
  const Workspace work(shape, scratch);
  const Preparations how(shape, in, work);
  const Seen queries(shape.queries);
  const float scale = 1.0f / __builtin_sqrtf(float(shape.width));
  for (int64_t index = begin; index < end; ++index) {
    const int64_t head = index % shape.heads;
    const Position at(shape, index / shape.heads);
    const Seen keys(shape, in, at);
    const Tokens<const T> q_tokens{at.first<const T>(shape, in.q, head), in.q.along, queries};
    const Tokens<const T> k_tokens{at.first<const T>(shape, in.k, head), in.k.along, keys};
    const Tokens<const T> v_tokens{at.first<const T>(shape, in.v, head), in.v.along, keys};
    const Tokens<T> out_tokens{at.first<T>(shape, out, head), out.along, queries};
    const Rows q = read_rows(q_tokens, shape.width, how.q, work.q);
    const Rows k = read_rows(k_tokens, shape.width, how.k, work.k);
    const Rows v = read_rows(v_tokens, shape.width, how.none, work.v);
    const Result result = result_rows(out_tokens, shape.width, how.none, work.first);
    attend({shape.queries, keys.count, shape.width, scale}, q, k, v, result, work.attention);
    write_rows(result, out_tokens, shape.width);
  }
}

template <typename T>
void backward_problem(const AxisShape& shape, const AxisInputs& in, const AxisGradients& gradients,
                      const Workspace& work, const Preparations& how, int64_t index, float* dq_weight,
                      float* dk_weight) {
  const float scale = 1.0f / __builtin_sqrtf(float(shape.width));
  const int64_t head = index % shape.heads, width = shape.width;
  const Position at(shape, index / shape.heads);
  const Seen queries(shape.queries), keys(shape, in, at);
  const Tokens<const T> q_tokens{at.first<const T>(shape, in.q, head), in.q.along, queries};
  const Tokens<const T> k_tokens{at.first<const T>(shape, in.k, head), in.k.along, keys};
  const Tokens<const T> v_tokens{at.first<const T>(shape, in.v, head), in.v.along, keys};
  const Tokens<const T> grad_tokens{at.first<const T>(shape, gradients.out, head), gradients.out.along,
                                    queries};
  const Tokens<T> dq_tokens{at.first<T>(shape, gradients.q, head), gradients.q.along, queries};
  const Tokens<T> dk_tokens{at.first<T>(shape, gradients.k, head), gradients.k.along, keys};
  const Tokens<T> dv_tokens{at.first<T>(shape, gradients.v, head), gradients.v.along, keys};
  const Rows q = read_rows(q_tokens, width, how.q, work.q);
  const Rows k = read_rows(k_tokens, width, how.k, work.k);
  const Rows v = read_rows(v_tokens, width, how.none, work.v);
  const Rows grad = read_rows(grad_tokens, width, how.none, work.grad);
  const Result dq = result_rows(dq_tokens, width, how.q, work.first);
  const Result dk = result_rows(dk_tokens, width, how.k, work.second);
  const Result dv = result_rows(dv_tokens, width, how.none, work.third);
  attend_backward({shape.queries, keys.count, width, scale}, q, k, v, grad, dq, dk, dv, work.attention);
  write_gradient(dq, dq_tokens, q_tokens, width, how.q, work.x, dq_weight);
  write_gradient(dk, dk_tokens, k_tokens, width, how.k, work.x, dk_weight);
  write_rows(dv, dv_tokens, width);
  zero_hidden_rows(dk_tokens, shape.keys, width);
  zero_hidden_rows(dv_tokens, shape.keys, width);
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
    for (int64_t index = first; index < last; ++index) {
      backward_problem<T>(shape, in, gradients, work, how, index, sums[0], sums[1]);
    }
    if (how.q.weight == nullptr) continue;
    for (int which = 0; which < 2; ++which) {
      store_row(sums[which], shape.width, gradients.partial + (2 * chunk + which) * shape.width);
    }
  }
}

// ---- from pointers without a type to the templates above ----

void forward_any(const AxisShape& shape, const AxisInputs& in, AxisRows<void*> out, float* scratch,
                 int64_t begin, int64_t end) {
  with_type(shape.dtype, [&](auto type) { forward<decltype(type)>(shape, in, out, scratch, begin, end); });
}

void backward_any(const AxisShape& shape, const AxisInputs& in, const AxisGradients& gradients,
                  float* scratch, int64_t begin, int64_t end) {
  with_type(shape.dtype,
            [&](auto type) { backward<decltype(type)>(shape, in, gradients, scratch, begin, end); });
}

void sum_weight_gradients(const AxisShape& shape, const float* partial, void* dq_weight, void* dk_weight,
                          float* scratch) {
  sum_partials(partial, axis_chunks(shape), shape.width, shape.weight_dtype, dq_weight, dk_weight, scratch);
}

}  // namespace

const AxisAttention axis_attention = {forward_any, backward_any, sum_weight_gradients};

}  // namespace pavdit::cpu::PAVDIT_ISA
