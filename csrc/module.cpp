// pavdit._C: facts about the build and the processor, for `pavdit doctor`. Knows neither torch nor CUDA.
#include <pybind11/pybind11.h>

#include "build_info.h"
#include "capability.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about this build of pavdit";
  m.attr("cuda_archs") = PAVDIT_CUDA_ARCHS;  // empty: built without CUDA
  m.attr("cuda_version") = PAVDIT_CUDA_VERSION;
  m.attr("torch_built_with") = PAVDIT_TORCH_BUILT_WITH;
  m.attr("torch_target") = PAVDIT_TORCH_TARGET;
  m.attr("compiler") = PAVDIT_COMPILER;
  m.def(
      "cpu_capability", [] { return pavdit::cpu::name(pavdit::cpu::capability()); },
      "The instruction set that the CPU kernels use: baseline, avx2 or avx512.");
}
