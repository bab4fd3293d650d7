// One dtype of one instruction set: compiled for each pair, see CMakeLists.txt.
#include "passes/batch.h"
#include "table.h"

#define GATV2_CONCAT_(a, b, c) a##b##_##c
#define GATV2_CONCAT(a, b, c) GATV2_CONCAT_(a, b, c)

namespace gatv2 {

const PassTable GATV2_CONCAT(passes_, GATV2_ISA, GATV2_DTYPE) = {
    [](const Arguments& args) { return GATV2_ISA::Batch<GATV2_ISA::GATV2_DTYPE>(args).forward(); },
    [](const Arguments& args) { return GATV2_ISA::Batch<GATV2_ISA::GATV2_DTYPE>(args).backward(); },
    [](uint32_t* words) { GATV2_ISA::philox_words(words); },
    [](float* keep, const int64_t* ids, int64_t n, int64_t heads, double p, int64_t seed) {
      GATV2_ISA::Dropout<float>(p, seed).fill(keep, (int)n, (int)heads, (int)heads, ids);
    },
};

}  // namespace gatv2
