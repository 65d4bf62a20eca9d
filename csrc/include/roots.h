// The roots of unity that an FFT needs, for the CPU registrations.
#pragma once

#include <cmath>
#include <cstdint>
#include <mutex>
#include <vector>

namespace pavdit {

// [n_fft, 2]: cosine and sine of -2 pi k / n_fft, rounded once. Made at the first call for a size and kept: a
// power of two up to 2^15, so all of them are half a megabyte.
inline const float* roots_of_unity(int64_t n_fft) {
  constexpr int kSizes = 16;
  static std::once_flag made[kSizes];
  static std::vector<float> tables[kSizes];
  int power = 0;
  while (int64_t{1} << power < n_fft) ++power;
  std::call_once(made[power], [&] {
    const double step = -2.0 * 3.14159265358979323846 / double(n_fft);
    tables[power].reserve(size_t(2 * n_fft));
    for (int64_t k = 0; k < n_fft; ++k) {
      tables[power].push_back(float(std::cos(step * double(k))));
      tables[power].push_back(float(std::sin(step * double(k))));
    }
  });
  return tables[power].data();
}

}  // namespace pavdit
