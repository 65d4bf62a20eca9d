// Runs CUDA kernels on the host, one fiber per thread of a block, so that their arithmetic is tested where
// there is no device. Slow and small on purpose: what it promises is CUDA's order of things and no more.
//
// - Lanes run one after the other up to the next collective of the warp, warps up to the next barrier of the
//   block; in every other block both go backwards. A missing __syncwarp or __syncthreads thus shows as a
//   wrong result in one of the two.
// - Dynamic shared memory is NaN before each block and ends where a page without access begins.
// - A collective that not all 32 lanes reach, or with another collective, ends the launch with an error.
// Of memory in the device's sense (caches, races between blocks, alignment traps) it knows nothing.
#pragma once

#include <cstddef>
#include <functional>

namespace emulator {

struct Dim3 {
  unsigned x, y, z;
};

extern Dim3 thread_index, block_index, block_size, grid_size;

enum class Collective { kShuffle, kVote, kSyncWarp, kMma, kTranspose };

constexpr size_t kSlotBytes = 64;  // what one lane may bring to a collective

using Slots = const unsigned char (*)[kSlotBytes];

// Brings `bytes` bytes of each lane together; returns those of all 32 lanes, until the lane's next
// collective.
Slots exchange(Collective what, const void* mine, size_t bytes);

void barrier();  // __syncthreads

void* dynamic_shared();

void launch(unsigned blocks, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel);

// The fault of the last launch, "" for none; resets it.
const char* take_fault();

}  // namespace emulator
