#include "emulator.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

// Saves the registers that a call keeps, changes the stack, restores.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulator {

Dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;
constexpr size_t kStackBytes = 256 << 10, kPage = 4096, kSharedBytes = 228 << 10;

enum class State { kReady, kAtCollective, kAtBarrier, kDone };

struct Fiber {
  void* stack_pointer;
  State state;
  Collective at;
  unsigned round;  // collectives so far: two sets of slots, used in turn
};

Fiber fibers[kMaxThreads];
Fiber* current;
void* scheduler_stack;
unsigned char slots[kMaxThreads / kWarp][2][kWarp][kSlotBytes];
const std::function<void()>* running;
unsigned char* shared_end;
size_t shared_size;
std::string fault;
unsigned long launches;

void suspend(State state) {
  Fiber* self = current;
  self->state = state;
  emulator_switch(&self->stack_pointer, scheduler_stack);
}

void fiber_main() {
  (*running)();
  suspend(State::kDone);
}

unsigned char* pages(size_t bytes) {
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  return static_cast<unsigned char*>(memory);
}

void start(unsigned thread) {
  static unsigned char* const stacks = pages(kMaxThreads * kStackBytes);
  // As after a call: the stack pointer is 8 off a multiple of 16 when fiber_main begins.
  auto* top = reinterpret_cast<uint64_t*>(stacks + (thread + 1) * kStackBytes) - 2;
  top[0] = reinterpret_cast<uint64_t>(&fiber_main);
  top[1] = 0;
  std::memset(top - 6, 0, 6 * sizeof(uint64_t));
  fibers[thread] = {top - 6, State::kReady, {}, 0};
}

void resume(unsigned thread) {
  thread_index = {thread, 0, 0};
  current = &fibers[thread];
  emulator_switch(&scheduler_stack, current->stack_pointer);
}

// Runs a warp until every lane is at the barrier or done; false on a fault.
bool run_warp(unsigned first, bool backwards) {
  for (;;) {
    unsigned waiting = 0;
    for (unsigned i = 0; i < kWarp; ++i) {
      const unsigned thread = first + (backwards ? kWarp - 1 - i : i);
      if (fibers[thread].state == State::kReady) resume(thread);
      waiting += fibers[thread].state == State::kAtCollective;
    }
    if (waiting == 0) return true;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (waiting != kWarp || fibers[first + lane].at != fibers[first].at) {
        fault = "block " + std::to_string(block_index.x) + ", warp " + std::to_string(first / kWarp) +
                ": want all 32 lanes at one collective, got " + std::to_string(waiting) + " at collective " +
                std::to_string(int(fibers[first + lane].at));
        return false;
      }
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) fibers[first + lane].state = State::kReady;
  }
}

bool run_block(bool backwards) {
  std::memset(shared_end - shared_size, 0xff, shared_size);  // NaN in every type
  for (unsigned thread = 0; thread < block_size.x; ++thread) start(thread);
  const unsigned warps = block_size.x / kWarp;
  for (;;) {
    for (unsigned i = 0; i < warps; ++i) {
      if (!run_warp((backwards ? warps - 1 - i : i) * kWarp, backwards)) return false;
    }
    bool done = true;
    for (unsigned thread = 0; thread < block_size.x; ++thread) {
      if (fibers[thread].state == State::kDone) continue;
      fibers[thread].state = State::kReady;  // all others are at the barrier, so it opens
      done = false;
    }
    if (done) return true;
  }
}

}  // namespace

Slots exchange(Collective what, const void* mine, size_t bytes) {
  if (bytes > kSlotBytes) std::abort();
  const unsigned thread = thread_index.x;
  auto& round = slots[thread / kWarp][fibers[thread].round++ % 2];
  std::memcpy(round[thread % kWarp], mine, bytes);
  fibers[thread].at = what;
  suspend(State::kAtCollective);
  return round;
}

void barrier() {
  suspend(State::kAtBarrier);
}

void* dynamic_shared() {
  return shared_end - shared_size;
}

extern "C" unsigned long emulator_launches() {
  return launches;
}

void launch(unsigned blocks, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
  if (blocks == 0 || threads == 0 || threads > kMaxThreads || threads % kWarp != 0 ||
      shared_bytes > kSharedBytes) {
    fault = "want 1.. blocks of whole warps up to 1024 threads and at most 228 KB of shared memory, got " +
            std::to_string(blocks) + " x " + std::to_string(threads) + ", " + std::to_string(shared_bytes) +
            " B";
    return;
  }
  static unsigned char* const shared = [] {
    unsigned char* memory = pages(kSharedBytes + kPage);
    mprotect(memory + kSharedBytes, kPage, PROT_NONE);
    return memory;
  }();
  shared_end = shared + kSharedBytes;
  shared_size = (shared_bytes + 15) / 16 * 16;
  running = &kernel;
  ++launches;
  grid_size = {blocks, 1, 1};
  block_size = {threads, 1, 1};
  for (unsigned block = 0; block < blocks && fault.empty(); ++block) {
    block_index = {block, 0, 0};
    run_block(block % 2 == 1);
  }
}

const char* take_fault() {
  static std::string last;
  last = fault;
  fault.clear();
  return last.c_str();
}

}  // namespace emulator
