// Compiled once per instruction set, into the namespace PAVDIT_ISA (baseline, avx2, avx512, avx512bf16); the
// table at the end is all that leaves this file. The equations stand in multiscale_temporal_attention.h.
//
// A problem's rows are read once into scratch, in float32, and averaged there; the attention of each rate is
// attention.h's. Its gradients are spread over their frames and summed in scratch, and rounded once.
#include "multiscale_temporal_attention.h"

#include "attention.h"

namespace pavdit::cpu::PAVDIT_ISA {
namespace {

constexpr int64_t kCacheLine = 64;  // bytes

// The scratch of one task, cut up. `parts` and `gradients` hold q, k, v at all rates, one rate after the
// other.
struct Workspace {
  int64_t stride;         // of a row
  int64_t first[kRates];  // row of a part at which a rate begins
  float* parts[3];        // [7/4 T, stride]
  float* gradients[3];    // [7/4 T, stride]
  float* result;          // [T, stride]
  AttentionScratch attention;

  Workspace(const MultiscaleShape& shape, float* scratch)
      : stride(row_scratch(shape.width)),
        first{0, shape.frames, shape.frames + shape.frames / 2},
        attention(scratch, shape.frames, shape.width) {
    float* rows = scratch + attention_scratch(shape.frames, shape.width);
    const auto take = [&](int64_t count) {
      float* taken = rows;
      rows += count * stride;
      return taken;
    };
    for (float*& part : parts) part = take(multiscale_rows(shape.frames));
    for (float*& part : gradients) part = take(multiscale_rows(shape.frames));
    result = take(shape.frames);
  }

  Rows rows(float* const (&of)[3], int part, int rate) const {
    return {of[part] + first[rate] * stride, stride};
  }
  Result results(float* const (&of)[3], int part, int rate) const {
    return {of[part] + first[rate] * stride, stride};
  }
};

// Where a problem's rows lie in memory.
struct Place {
  int64_t batch, position, head;

  Place(const MultiscaleShape& shape, int64_t problem)
      : batch(problem / (shape.heads * shape.positions)),
        position(problem / shape.heads % shape.positions),
        head(problem % shape.heads) {}

  template <typename T, typename Pointer>
  T* first(const MultiscaleRows<Pointer>& rows) const {
    return static_cast<T*>(rows.data) + batch * rows.batch + position * rows.position + head * rows.head;
  }
};

// A row of the next rate is the mean of two of this one; the rates lie one behind the other.
void pool(float* rows, int64_t frames, int64_t stride) {
  float* mean = rows + frames * stride;
  for (int64_t count = frames / 2 + frames / 4; count > 0; --count, rows += 2 * stride, mean += stride) {
    for (int64_t i = 0; i < stride; i += kLanes) {
      store(mean + i, 0.5f * (load<Floats>(rows + i) + load<Floats>(rows + stride + i)));
    }
  }
}

// The gradient of `pool`, in place: half of a mean's gradient goes to each of its two rows.
void spread(float* rows, int64_t frames, int64_t stride) {
  const int64_t means = frames / 2 + frames / 4;
  const float* mean = rows + (frames + means - 1) * stride;
  float* pair = rows + 2 * (means - 1) * stride;
  for (int64_t count = means; count > 0; --count, mean -= stride, pair -= 2 * stride) {
    for (int64_t i = 0; i < stride; i += kLanes) {
      const Floats share = 0.5f * load<Floats>(mean + i);
      store(pair + i, load<Floats>(pair + i) + share);
      store(pair + stride + i, load<Floats>(pair + stride + i) + share);
    }
  }
}

// Asks for the rows of a problem in advance: they lie so far apart that the processor does not foresee them.
// Always inline: gcc drops the call of a function that only prefetches.
template <bool kWrite, typename T, typename Pointer>
inline __attribute__((always_inline)) void fetch(const Place& at, const MultiscaleRows<Pointer>& rows,
                                                 int64_t count, int64_t width) {
  if (rows.data == nullptr) return;
  T* row = at.first<T>(rows);
  for (int64_t t = 0; t < count; ++t, row += rows.frame) {
    for (int64_t i = 0; i < width; i += kCacheLine / int64_t(sizeof(T))) {
      __builtin_prefetch(row + i, kWrite, 2);  // to L2: one problem more than L1 holds
    }
  }
}

template <typename T>
void read_parts(const MultiscaleShape& shape, const MultiscaleInputs& in, const Place& at,
                const Workspace& work) {
  for (int part = 0; part < 3; ++part) {
    const T* source = at.first<const T>(in.parts[part]);
    for (int64_t t = 0; t < shape.frames; ++t) {
      load_row(source + t * in.parts[part].frame, shape.width, work.parts[part] + t * work.stride);
    }
    pool(work.parts[part], shape.frames, work.stride);
  }
}

template <typename T>
void forward(const MultiscaleShape& shape, const MultiscaleInputs& in, const MultiscaleOutputs& out,
             float* scratch, int64_t begin, int64_t end) {
  const Workspace work(shape, scratch);
  const bool in_place = sizeof(T) == sizeof(float) && whole_rows(shape.width);
  const float scale = 1.0f / __builtin_sqrtf(float(shape.width));
  for (int64_t index = begin; index < end; ++index) {
    const Place at(shape, index), next(shape, index + 1 < end ? index + 1 : index);
    read_parts<T>(shape, in, at, work);
    for (const auto& rows : in.parts) fetch<false, const T>(next, rows, shape.frames, shape.width);
    for (int rate = 0; rate < kRates; ++rate) {
      fetch<true, T>(at, out.rates[rate], shape.frames >> rate, shape.width);
    }
    for (int rate = 0; rate < kRates; ++rate) {
      const int64_t frames = shape.frames >> rate;
      T* target = at.first<T>(out.rates[rate]);
      Result result{work.result, work.stride};
      if constexpr (sizeof(T) == sizeof(float)) {
        if (in_place) result = {target, out.rates[rate].frame};
      }
      attend({frames, frames, shape.width, scale}, work.rows(work.parts, 0, rate),
             work.rows(work.parts, 1, rate), work.rows(work.parts, 2, rate), result, work.attention);
      for (int64_t t = 0; t < frames && !in_place; ++t) {
        store_row(work.result + t * work.stride, shape.width, target + t * out.rates[rate].frame);
      }
    }
  }
}

template <typename T>
void backward(const MultiscaleShape& shape, const MultiscaleInputs& in, const MultiscaleGradients& gradients,
              float* scratch, int64_t begin, int64_t end) {
  const Workspace work(shape, scratch);
  const float scale = 1.0f / __builtin_sqrtf(float(shape.width));
  for (int64_t index = begin; index < end; ++index) {
    const Place at(shape, index), next(shape, index + 1 < end ? index + 1 : index);
    read_parts<T>(shape, in, at, work);
    for (const auto& rows : in.parts) fetch<false, const T>(next, rows, shape.frames, shape.width);
    for (const auto& rows : gradients.parts) fetch<true, T>(at, rows, shape.frames, shape.width);
    for (int rate = 0; rate < kRates; ++rate) {
      const int64_t frames = shape.frames >> rate;
      fetch<false, const T>(next, gradients.rates[rate], frames, shape.width);
      const MultiscaleRows<const void*>& grad = gradients.rates[rate];
      if (grad.data == nullptr) {
        for (int part = 0; part < 3; ++part) {
          zero_row(frames * work.stride, work.results(work.gradients, part, rate).data);
        }
        continue;
      }
      const T* source = at.first<const T>(grad);
      for (int64_t t = 0; t < frames; ++t) {
        load_row(source + t * grad.frame, shape.width, work.result + t * work.stride);
      }
      attend_backward({frames, frames, shape.width, scale}, work.rows(work.parts, 0, rate),
                      work.rows(work.parts, 1, rate), work.rows(work.parts, 2, rate),
                      {work.result, work.stride}, work.results(work.gradients, 0, rate),
                      work.results(work.gradients, 1, rate), work.results(work.gradients, 2, rate),
                      work.attention);
    }
    for (int part = 0; part < 3; ++part) {
      spread(work.gradients[part], shape.frames, work.stride);
      T* target = at.first<T>(gradients.parts[part]);
      for (int64_t t = 0; t < shape.frames; ++t) {
        store_row(work.gradients[part] + t * work.stride, shape.width,
                  target + t * gradients.parts[part].frame);
      }
    }
  }
}

// ---- from pointers without a type to the templates above ----

void forward_any(const MultiscaleShape& shape, const MultiscaleInputs& in, const MultiscaleOutputs& out,
                 float* scratch, int64_t begin, int64_t end) {
  with_type(shape.dtype, [&](auto type) { forward<decltype(type)>(shape, in, out, scratch, begin, end); });
}

void backward_any(const MultiscaleShape& shape, const MultiscaleInputs& in,
                  const MultiscaleGradients& gradients, float* scratch, int64_t begin, int64_t end) {
  with_type(shape.dtype,
            [&](auto type) { backward<decltype(type)>(shape, in, gradients, scratch, begin, end); });
}

}  // namespace

const MultiscaleTemporalAttention multiscale_temporal_attention = {forward_any, backward_any};

}  // namespace pavdit::cpu::PAVDIT_ISA
