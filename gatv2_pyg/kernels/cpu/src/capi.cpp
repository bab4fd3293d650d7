// The functions the launcher calls, and the choice of instruction set.
#include "group.h"
#include "table.h"

#define GATV2_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace gatv2;

#define GATV2_TABLES(isa)                                                       \
  {                                                                             \
    &passes_##isa##_float32, &passes_##isa##_float64, &passes_##isa##_bfloat16, \
        &passes_##isa##_float16                                                 \
  }

#if defined(GATV2_X86)
const PassTable* const kTables[][4] = {GATV2_TABLES(baseline), GATV2_TABLES(avx2),
                                       GATV2_TABLES(avx512)};
#else
const PassTable* const kTables[][4] = {GATV2_TABLES(baseline)};
#endif

const PassTable& table(const Arguments& args, int64_t isa) { return *kTables[isa][args.dtype]; }

}  // namespace

GATV2_EXPORT int64_t gatv2_abi_version() { return kAbiVersion; }

// Instruction sets are numbered 0: baseline, 1: AVX2 with FMA and F16C, 2: AVX-512 F, BW, DQ, VL.
// Returns the largest number this build has and this processor runs.
GATV2_EXPORT int64_t gatv2_best_isa() {
#if defined(GATV2_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (!avx2) return 0;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? 2 : 1;
#else
  return 0;
#endif
}

GATV2_EXPORT int64_t gatv2_has_openmp() {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}

GATV2_EXPORT void gatv2_philox(uint32_t* words, int64_t isa) {
  kTables[isa][kFloat32]->philox(words);
}
GATV2_EXPORT void gatv2_dropout(float* keep, const int64_t* ids, int64_t n, int64_t heads, double p,
                                int64_t seed, int64_t isa) {
  kTables[isa][kFloat32]->dropout(keep, ids, n, heads, p, seed);
}

// Each returns a gatv2::Status.
GATV2_EXPORT int64_t gatv2_forward(const Arguments* args, int64_t isa) {
  return table(*args, isa).forward(*args);
}
GATV2_EXPORT int64_t gatv2_backward(const Arguments* args, int64_t isa) {
  return table(*args, isa).backward(*args);
}
GATV2_EXPORT int64_t gatv2_group_by_dst(const GroupArguments* args, GroupResult* result) {
  return group_by_dst(*args, *result);
}
GATV2_EXPORT int64_t gatv2_transpose(const TransposeArguments* args, int64_t* largest) {
  return transpose(*args, *largest);
}
