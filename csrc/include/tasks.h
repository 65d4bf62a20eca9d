// What the CPU registrations in csrc/ops_cpu share: how work is cut for the threads, and a task's memory.
#pragma once

#include <cstdint>
#include <new>

namespace pavdit {

constexpr int64_t kElementsPerTask = 32768;  // below this a second thread costs more than it brings

inline int64_t rows_per_task(int64_t elements_per_row) {
  return elements_per_row > 0 ? kElementsPerTask / elements_per_row + 1 : kElementsPerTask;
}

// Float32 working memory of one task, aligned to a cache line.
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<float*>(::operator new(count * sizeof(float), kLine))) {}
  ~Scratch() { ::operator delete(data_, kLine); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() { return data_; }

 private:
  static constexpr std::align_val_t kLine{64};
  float* data_;
};

}  // namespace pavdit
