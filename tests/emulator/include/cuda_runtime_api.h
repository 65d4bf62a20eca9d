// Stands in for CUDA's header on the host.
#pragma once

#include "cuda_runtime.h"
