// Where the rows of axis_attention's problems lie, for its CPU kernels, and which of them are seen: the
// arrays that a position and a head pick from a strided tensor, read to float32 and written back. Internal
// linkage for the reason that vec.h gives.
#pragma once

#include "attention.h"
#include "axis_attention.h"
#include "rows.h"
#include "vec.h"

namespace pavdit {
namespace {

// The tokens that may be seen, in order. What is hidden is never read.
struct Seen {
  bool all;
  int64_t count;
  int64_t token[kAxisMaxLength];  // unless all

  explicit Seen(int64_t tokens) : all(true), count(tokens) {}

  Seen(int64_t tokens, const bool* valid, int64_t along) : all(valid == nullptr), count(all ? tokens : 0) {
    for (int64_t j = 0; j < tokens && !all; ++j) {
      if (valid[j * along]) token[count++] = j;
    }
  }

  int64_t operator[](int64_t j) const { return all ? j : token[j]; }
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

struct Position {
  int64_t index[kAxisMaxLeading];

  Position(const AxisShape& shape, int64_t position) {
    for (int axis = shape.others - 1; axis >= 0; --axis) {
      index[axis] = position % shape.sizes[axis];
      position /= shape.sizes[axis];
    }
  }

  template <typename T, typename Pointer>
  T* first(const AxisShape& shape, const AxisRows<Pointer>& rows) const {
    if (rows.data == nullptr) return nullptr;
    int64_t offset = 0;
    for (int axis = 0; axis < shape.others; ++axis) offset += index[axis] * rows.others[axis];
    return static_cast<T*>(rows.data) + offset;
  }
};

// The rows of one operand at one position, for all heads.
template <typename T>
struct Heads {
  T* first;
  int64_t head, along;
  const Seen& seen;

  template <typename Pointer>
  Heads(const AxisShape& shape, const AxisRows<Pointer>& rows, const Position& at, const Seen& tokens)
      : first(at.first<T>(shape, rows)), head(rows.head), along(rows.along), seen(tokens) {}

  Tokens<T> operator[](int64_t index) const { return {first + index * head, along, seen}; }
};

// Calls body(position, first head, end of heads) for problems [begin, end).
template <typename Body>
inline void over_positions(const AxisShape& shape, int64_t begin, int64_t end, Body body) {
  for (int64_t problem = begin; problem < end;) {
    const int64_t position = problem / shape.heads, head = problem % shape.heads;
    const int64_t heads = end - problem < shape.heads - head ? end - problem : shape.heads - head;
    body(Position(shape, position), head, head + heads);
    problem += heads;
  }
}

template <typename T>
__attribute__((noinline)) void copy_rows(const Tokens<const T>& tokens, int64_t width, const Preparation& how,
                                         float* buffer) {
  for (int64_t i = 0; i < tokens.seen.count; ++i, buffer += row_scratch(width)) {
    load_row(tokens[i], width, buffer);
    prepare(buffer, width, how, tokens.seen[i]);
  }
}

// As float32 in `buffer`, or in place where nothing is to be done to them.
template <typename T>
inline __attribute__((always_inline)) Rows read_rows(const Tokens<const T>& tokens, int64_t width,
                                                     const Preparation& how, float* buffer) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (tokens.whole(width) && !how.any()) return {tokens.first, tokens.along};
  }
  copy_rows(tokens, width, how, buffer);
  return {buffer, row_scratch(width)};
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
inline void write_rows(const Result& result, const Tokens<T>& tokens, int64_t width) {
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

}  // namespace
}  // namespace pavdit
