// What a build for one instruction set and dtype offers to the dispatch.
#pragma once

#include "abi.h"

namespace gatv2 {

struct PassTable {
  int64_t (*forward)(const Arguments&);
  int64_t (*backward)(const Arguments&);
};

#define GATV2_DECLARE(isa)                    \
  extern const PassTable passes_##isa##_float32; \
  extern const PassTable passes_##isa##_float64; \
  extern const PassTable passes_##isa##_bfloat16; \
  extern const PassTable passes_##isa##_float16;

GATV2_DECLARE(baseline)
GATV2_DECLARE(avx2)
GATV2_DECLARE(avx512)
#undef GATV2_DECLARE

}  // namespace gatv2
