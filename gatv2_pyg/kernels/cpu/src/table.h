// What a build for one instruction set and dtype offers to the dispatch.
#pragma once

#include "abi.h"

namespace gatv2 {

struct PassTable {
  int64_t (*forward)(const Arguments&);
  int64_t (*backward)(const Arguments&);
  // For tests. words: counter and key in, the result in the first four; keep: [n, heads] in float.
  void (*philox)(uint32_t* words);
  void (*dropout)(float* keep, const int64_t* ids, int64_t n, int64_t heads, double p,
                  int64_t seed);
};

#define GATV2_DECLARE(isa)                        \
  extern const PassTable passes_##isa##_float32;  \
  extern const PassTable passes_##isa##_float64;  \
  extern const PassTable passes_##isa##_bfloat16; \
  extern const PassTable passes_##isa##_float16;

GATV2_DECLARE(baseline)
GATV2_DECLARE(avx2)
GATV2_DECLARE(avx512)
#undef GATV2_DECLARE

}  // namespace gatv2
