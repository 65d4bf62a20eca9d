// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in block_attention.h, the arithmetic of
// one problem in include/attention.h; here is where its rows lie and which of them are seen.
#include "block_attention.h"

#include "attention.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

// The scratch of one task, cut up; rows in it are row_scratch(E) long.
struct Workspace {
  float *q, *k, *v, *grad;        // [tokens, row]: what was read
  float *first, *second, *third;  // [tokens, row]: out, or dq, dk, dv
  float *cosines, *sines;         // [tokens, row]
  float *q_weight, *k_weight;     // [row]
  float *dq_weight, *dk_weight;   // [row]: sums over a chunk
  float* x;                       // [row]
  AttentionScratch attention;

  Workspace(const BlockShape& shape, float* scratch) : attention(scratch, shape.tokens(), shape.width) {
    const int64_t row = row_scratch(shape.width), rows = shape.tokens() * row;
    scratch += attention_scratch(shape.tokens(), shape.width);
    const auto take = [&](int64_t count) {
      float* taken = scratch;
      scratch += count;
      return taken;
    };
    q = take(rows), k = take(rows), v = take(rows), grad = take(rows);
    first = take(rows), second = take(rows), third = take(rows);
    cosines = take(rows), sines = take(rows);
    q_weight = take(row), k_weight = take(row), dq_weight = take(row), dk_weight = take(row), x = take(row);
  }
};

// (t, h, w) inside a block of every token.
struct Coordinates {
  int16_t t[kBlockMaxKeys], h[kBlockMaxKeys], w[kBlockMaxKeys];

  explicit Coordinates(const BlockShape& shape) {
    const int64_t rows = shape.block[1], columns = shape.block[2];
    for (int64_t token = 0; token < shape.tokens(); ++token) {
      t[token] = int16_t(token / (rows * columns));
      h[token] = int16_t(token / columns % rows);
      w[token] = int16_t(token % columns);
    }
  }

  template <typename Pointer>
  int64_t offset(const BlockRows<Pointer>& rows, int64_t token) const {
    return t[token] * rows.grid[1] + h[token] * rows.grid[2] + w[token] * rows.grid[3];
  }
};

// Which block of which direction and which head. Heads count fastest: their rows are neighbours in memory.
struct Place {
  int64_t head, direction;
  int64_t first_token[4];

  Place(const BlockShape& shape, int64_t problem) {
    head = problem % shape.heads;
    problem /= shape.heads;
    direction = problem % shape.directions;
    problem /= shape.directions;
    for (int axis = 3; axis >= 0; --axis) {
      const int64_t size = axis == 0 ? 1 : shape.block[axis - 1];
      first_token[axis] = problem % shape.counts[axis] * size;
      problem /= shape.counts[axis];
    }
  }

  template <typename T, typename Pointer>
  T* first(const BlockRows<Pointer>& rows) const {
    int64_t offset = head * rows.head;
    for (int axis = 0; axis < 4; ++axis) offset += first_token[axis] * rows.grid[axis];
    return static_cast<T*>(rows.data) + offset;
  }
};

// The tokens that may be seen, in order. What is hidden is never read.
struct Seen {
  bool all = true;
  int64_t count;
  int16_t token[kBlockMaxKeys];  // unless all

  explicit Seen(int64_t tokens) : count(tokens) {}

  Seen(const BlockShape& shape, const BlockInputs& in, const Place& place, const Coordinates& at)
      : Seen(shape.tokens()) {
    if (in.valid.data == nullptr) return;
    const bool* valid = place.first<const bool>(in.valid);
    all = false;
    count = 0;
    for (int64_t j = 0; j < shape.tokens(); ++j) {
      if (valid[at.offset(in.valid, j)]) token[count++] = int16_t(j);
    }
  }

  int64_t operator[](int64_t j) const { return all ? j : token[j]; }
};

struct Preparations {
  Preparation q{}, k{}, none{};

  Preparations(const BlockShape& shape, const BlockInputs& in, const Workspace& work) {
    q.eps = k.eps = kBlockNormEps;
    if (in.q_weight != nullptr) {
      load_weight(shape.weight_dtype, in.q_weight, shape.width, work.q_weight);
      load_weight(shape.weight_dtype, in.k_weight, shape.width, work.k_weight);
      q.weight = work.q_weight, k.weight = work.k_weight;
    }
    if (in.rope != nullptr) {
      load_rope(in.rope, shape.tokens(), shape.width, work.cosines, work.sines);
      q.cosines = k.cosines = work.cosines, q.sines = k.sines = work.sines;
    }
  }
};

// Rows of one problem in memory.
template <typename T, typename Pointer>
struct Tokens {
  T* first;
  const BlockRows<Pointer>& rows;
  const Coordinates& at;
  const Seen& seen;

  T* operator[](int64_t i) const { return first + at.offset(rows, seen[i]); }

  // Whether they may serve or be written as float32 rows in place.
  bool in_place(int64_t width, const Preparation& how) const {
    return sizeof(T) == sizeof(float) && seen.all && rows.along != 0 && whole_rows(width) && !how.any();
  }
};

template <typename T, typename Pointer>
Tokens<T, Pointer> tokens_of(const BlockRows<Pointer>& rows, const Place& place, const Coordinates& at,
                             const Seen& seen) {
  return {place.first<T>(rows), rows, at, seen};
}

// The next head's row, which is needed once the arithmetic of this problem is done: the rows of a problem lie
// too far apart for the processor to guess them (15 % of the forward of 64 bfloat16 tokens).
template <typename T>
void fetch_ahead(const T* row, int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < width; i += kLine) __builtin_prefetch(row + i);
}

// As float32 in `buffer`, or in place where nothing is to be done to them.
template <typename T, typename Pointer>
Rows read_rows(const Tokens<T, Pointer>& tokens, int64_t width, const Preparation& how, float* buffer) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (tokens.in_place(width, how)) return {tokens.first, tokens.rows.along};
  }
  const int64_t stride = row_scratch(width);
  for (int64_t i = 0; i < tokens.seen.count; ++i) {
    const T* row = tokens[i];
    fetch_ahead(row + tokens.rows.head, width);
    load_row(row, width, buffer + i * stride);
    prepare(buffer + i * stride, width, how, tokens.seen[i]);
  }
  return {buffer, stride};
}

// Where a result goes: to memory at once, or to `buffer` where write_rows has work left.
template <typename T, typename Pointer>
Result result_rows(const Tokens<T, Pointer>& tokens, int64_t width, const Preparation& how, float* buffer) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (tokens.in_place(width, how)) return {tokens.first, tokens.rows.along};
  }
  return {buffer, row_scratch(width)};
}

template <typename T, typename Pointer>
void write_rows(Result result, const Tokens<T, Pointer>& tokens, int64_t width) {
  if (static_cast<const void*>(result.data) == tokens.first) return;
  for (int64_t i = 0; i < tokens.seen.count; ++i) store_row(result.data + i * result.row, width, tokens[i]);
}

// The same for a gradient, back through what `read_rows` did to `source`. x: scratch for a row.
template <typename T, typename Pointer, typename Source>
void write_gradient(Result result, const Tokens<T, Pointer>& tokens, const Source& source, int64_t width,
                    const Preparation& how, float* x, float* dweight) {
  for (int64_t i = 0; i < tokens.seen.count && how.any(); ++i) {
    if (how.weight != nullptr) load_row(source[i], width, x);
    prepare_backward(result.data + i * result.row, x, width, how, tokens.seen[i], dweight);
  }
  write_rows(result, tokens, width);
}

template <typename T, typename Pointer>
void zero_hidden_rows(const Tokens<T, Pointer>& tokens, int64_t count, int64_t width) {
  for (int64_t token = 0, j = 0; token < count && !tokens.seen.all; ++token) {
    if (j < tokens.seen.count && tokens.seen[j] == token) {
      ++j;
    } else {
      zero_row(width, tokens.first + tokens.at.offset(tokens.rows, token));
    }
  }
}

template <typename T>
void forward(const BlockShape& shape, const BlockInputs* inputs, const BlockRows<void*>* outs, float* scratch,
             int64_t begin, int64_t end) {
  const Workspace work(shape, scratch);
  const Preparations how(shape, inputs[0], work);
  const Coordinates at(shape);
  const Seen queries(shape.tokens());
  const int64_t width = shape.width;
  const float scale = 1.0f / __builtin_sqrtf(float(width));
  for (int64_t index = begin; index < end; ++index) {
    const Place place(shape, index);
    const BlockInputs& in = inputs[place.direction];
    const Seen keys(shape, in, place, at);
    const Rows q = read_rows(tokens_of<const T>(in.q, place, at, queries), width, how.q, work.q);
    const Rows k = read_rows(tokens_of<const T>(in.k, place, at, keys), width, how.k, work.k);
    const Rows v = read_rows(tokens_of<const T>(in.v, place, at, keys), width, how.none, work.v);
    const auto out = tokens_of<T>(outs[place.direction], place, at, queries);
    const Result result = result_rows(out, width, how.none, work.first);
    attend({shape.tokens(), keys.count, width, scale}, q, k, v, result, work.attention);
    write_rows(result, out, width);
  }
}

template <typename T>
void backward_problem(const BlockShape& shape, const BlockInputs& in, const BlockGradients& gradients,
                      const Workspace& work, const Preparations& how, const Place& place,
                      const Coordinates& at) {
  const int64_t width = shape.width;
  const float scale = 1.0f / __builtin_sqrtf(float(width));
  const Seen queries(shape.tokens()), keys(shape, in, place, at);
  const auto q_source = tokens_of<const T>(in.q, place, at, queries);
  const auto k_source = tokens_of<const T>(in.k, place, at, keys);
  const auto dq_tokens = tokens_of<T>(gradients.q, place, at, queries);
  const auto dk_tokens = tokens_of<T>(gradients.k, place, at, keys);
  const auto dv_tokens = tokens_of<T>(gradients.v, place, at, keys);
  const Rows q = read_rows(q_source, width, how.q, work.q);
  const Rows k = read_rows(k_source, width, how.k, work.k);
  const Rows v = read_rows(tokens_of<const T>(in.v, place, at, keys), width, how.none, work.v);
  const Rows grad =
      read_rows(tokens_of<const T>(gradients.out, place, at, queries), width, how.none, work.grad);
  const Result dq = result_rows(dq_tokens, width, how.q, work.first);
  const Result dk = result_rows(dk_tokens, width, how.k, work.second);
  const Result dv = result_rows(dv_tokens, width, how.none, work.third);
  attend_backward({shape.tokens(), keys.count, width, scale}, q, k, v, grad, dq, dk, dv, work.attention);
  write_gradient(dq, dq_tokens, q_source, width, how.q, work.x, work.dq_weight);
  write_gradient(dk, dk_tokens, k_source, width, how.k, work.x, work.dk_weight);
  write_rows(dv, dv_tokens, width);
  zero_hidden_rows(dk_tokens, shape.tokens(), width);
  zero_hidden_rows(dv_tokens, shape.tokens(), width);
}

template <typename T>
void backward(const BlockShape& shape, const BlockInputs* inputs, const BlockGradients* gradients,
              float* scratch, int64_t begin, int64_t end) {
  const Workspace work(shape, scratch);
  const Preparations how(shape, inputs[0], work);
  const Coordinates at(shape);
  const int64_t each = block_problems_per_chunk(shape), width = shape.width;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    zero_row(row_scratch(width), work.dq_weight);
    zero_row(row_scratch(width), work.dk_weight);
    const int64_t first = chunk * each, rest = shape.problems() - first;
    for (int64_t index = first; index < first + (rest < each ? rest : each); ++index) {
      const Place place(shape, index);
      backward_problem<T>(shape, inputs[place.direction], gradients[place.direction], work, how, place, at);
    }
    if (how.q.weight == nullptr) continue;
    float* partial = gradients[0].partial + 2 * chunk * width;
    store_row(work.dq_weight, width, partial);
    store_row(work.dk_weight, width, partial + width);
  }
}

// ---- from pointers without a type to the templates above ----

void forward_any(const BlockShape& shape, const BlockInputs* in, const BlockRows<void*>* out, float* scratch,
                 int64_t begin, int64_t end) {
  with_type(shape.dtype, [&](auto type) { forward<decltype(type)>(shape, in, out, scratch, begin, end); });
}

void backward_any(const BlockShape& shape, const BlockInputs* in, const BlockGradients* gradients,
                  float* scratch, int64_t begin, int64_t end) {
  with_type(shape.dtype,
            [&](auto type) { backward<decltype(type)>(shape, in, gradients, scratch, begin, end); });
}

void sum_weight_gradients(const BlockShape& shape, const float* partial, void* dq_weight, void* dk_weight,
                          float* scratch) {
  sum_partials(partial, block_chunks(shape), shape.width, shape.weight_dtype, dq_weight, dk_weight, scratch);
}

}  // namespace

const BlockAttention block_attention = {forward_any, backward_any, sum_weight_gradients};

}  // namespace pavdit::cpu::PAVDIT_ISA
