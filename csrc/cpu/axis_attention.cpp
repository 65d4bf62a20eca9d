// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in axis_attention.h, the arithmetic of
// one problem in include/attention.h, where its rows lie in include/axis_problems.h.
#include "axis_attention.h"

#include "attention.h"
#include "axis_problems.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

// The scratch of one task, cut up; rows in it are row_scratch(E) long.
struct Workspace {
  int64_t rows;                   // floats of one problem in each of the next seven
  float *q, *k, *v, *grad;        // [at once, tokens, row]: what was read
  float *first, *second, *third;  // out, or dq, dk, dv
  float *cosines, *sines;         // [tokens, row]
  float *q_weight, *k_weight;     // [row]
  float* x;                       // [row]
  AttentionScratch attention;

  Workspace(const AxisShape& shape, float* scratch) : attention(scratch, shape.keys, shape.width) {
    const int64_t row = row_scratch(shape.width);
    rows = shape.keys * row;
    scratch += attention_scratch(shape.keys, shape.width);
    const auto take = [&](int64_t count) {
      float* taken = scratch;
      scratch += count;
      return taken;
    };
    const int64_t all = problems_at_once(shape.queries, shape.keys) * rows;
    q = take(all), k = take(all), v = take(all), grad = take(all);
    first = take(all), second = take(all), third = take(all);
    cosines = take(rows), sines = take(rows);
    q_weight = take(row), k_weight = take(row), x = take(row);
  }
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

template <typename T>
void forward(const AxisShape& shape, const AxisInputs& in, AxisRows<void*> out, float* scratch, int64_t begin,
             int64_t end) {
  const Workspace work(shape, scratch);
  const Preparations how(shape, in, work);
  const Seen queries(shape.queries);
  const float scale = 1.0f / __builtin_sqrtf(float(shape.width));
  const int64_t at_once = problems_at_once(shape.queries, shape.keys);
  over_positions(shape, begin, end, [&](const Position& at, int64_t first_head, int64_t end_head) {
    const Seen keys(shape.keys, at.first<const bool>(shape, in.valid), in.valid.along);
    const Heads<const T> q_heads(shape, in.q, at, queries), k_heads(shape, in.k, at, keys);
    const Heads<const T> v_heads(shape, in.v, at, keys);
    const Heads<T> out_heads(shape, out, at, queries);
    for (int64_t head = first_head; head < end_head; head += at_once) {
      const int64_t count = end_head - head < at_once ? end_head - head : at_once;
      Operands of[kAtOnce];
      for (int64_t n = 0; n < count; ++n) {
        of[n] = {read_rows(q_heads[head + n], shape.width, how.q, work.q + n * work.rows),
                 read_rows(k_heads[head + n], shape.width, how.k, work.k + n * work.rows),
                 read_rows(v_heads[head + n], shape.width, how.none, work.v + n * work.rows),
                 result_rows(out_heads[head + n], shape.width, how.none, work.first + n * work.rows)};
      }
      attend({shape.queries, keys.count, shape.width, scale}, of, count, work.attention);
      for (int64_t n = 0; n < count; ++n) write_rows(of[n].out, out_heads[head + n], shape.width);
    }
  });
}

template <typename T>
void backward_position(const AxisShape& shape, const AxisInputs& in, const AxisGradients& gradients,
                       const Workspace& work, const Preparations& how, const Position& at, int64_t first_head,
                       int64_t end_head, float* dq_weight, float* dk_weight) {
  const float scale = 1.0f / __builtin_sqrtf(float(shape.width));
  const int64_t width = shape.width;
  const Seen queries(shape.queries), keys(shape.keys, at.first<const bool>(shape, in.valid), in.valid.along);
  const Heads<const T> q_heads(shape, in.q, at, queries), k_heads(shape, in.k, at, keys);
  const Heads<const T> v_heads(shape, in.v, at, keys), grad_heads(shape, gradients.out, at, queries);
  const Heads<T> dq_heads(shape, gradients.q, at, queries), dk_heads(shape, gradients.k, at, keys);
  const Heads<T> dv_heads(shape, gradients.v, at, keys);
  for (int64_t head = first_head; head < end_head; ++head) {
    const Rows q = read_rows(q_heads[head], width, how.q, work.q);
    const Rows k = read_rows(k_heads[head], width, how.k, work.k);
    const Rows v = read_rows(v_heads[head], width, how.none, work.v);
    const Rows grad = read_rows(grad_heads[head], width, how.none, work.grad);
    const Result dq = result_rows(dq_heads[head], width, how.q, work.first);
    const Result dk = result_rows(dk_heads[head], width, how.k, work.second);
    const Result dv = result_rows(dv_heads[head], width, how.none, work.third);
    attend_backward({shape.queries, keys.count, width, scale}, q, k, v, grad, dq, dk, dv, work.attention);
    write_gradient(dq, dq_heads[head], q_heads[head], width, how.q, work.x, dq_weight);
    write_gradient(dk, dk_heads[head], k_heads[head], width, how.k, work.x, dk_weight);
    write_rows(dv, dv_heads[head], width);
    zero_hidden_rows(dk_heads[head], shape.keys, width);
    zero_hidden_rows(dv_heads[head], shape.keys, width);
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
    over_positions(shape, first, last, [&](const Position& at, int64_t first_head, int64_t end_head) {
      backward_position<T>(shape, in, gradients, work, how, at, first_head, end_head, sums[0], sums[1]);
    });
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
