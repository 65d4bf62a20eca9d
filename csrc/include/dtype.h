#pragma once

namespace pavdit {

// The types that kernels read and write; sums are always float32.
enum class DType { kFloat32, kBFloat16, kFloat16 };

}  // namespace pavdit
