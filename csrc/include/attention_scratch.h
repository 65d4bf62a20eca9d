// How much float32 working memory the CPU attention kernels need; the same for every instruction set, because
// the registrations allocate before one is chosen.
#pragma once

#include <cstdint>

namespace pavdit {

constexpr int64_t kScratchLanes = 16;  // of the widest vector: what lies in scratch starts and ends on one
constexpr int64_t kQueryTile = 32;     // queries at once: the scores of 256 keys then take 32 KiB
constexpr int64_t kFew = 16;           // tokens up to which short_attention.h has the scores
constexpr int64_t kAtOnce = 4;  // short problems at once: their softmaxes, long chains, run beside each other

constexpr int64_t padded(int64_t count, int64_t lanes) {
  return (count + lanes - 1) / lanes * lanes;
}

// One row of `width` elements in scratch.
constexpr int64_t row_scratch(int64_t width) {
  return padded(width, kScratchLanes);
}

// How many problems of this size `attend` is best given in one call.
constexpr int64_t problems_at_once(int64_t queries, int64_t keys) {
  return queries > kFew || keys > 8 ? 1 : keys > 4 ? kAtOnce / 2 : kAtOnce;
}

// What attend and attend_backward need beside the rows, for up to `keys` keys.
constexpr int64_t attention_scratch(int64_t keys, int64_t width) {
  return kQueryTile * (row_scratch(width) + 2 * keys);
}

}  // namespace pavdit
