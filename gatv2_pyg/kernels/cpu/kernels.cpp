// One dtype of one instruction set: compiled for each pair, see CMakeLists.txt.
#include "backward.h"
#include "forward.h"
#include "table.h"

#define GATV2_CONCAT_(a, b, c) a##b##_##c
#define GATV2_CONCAT(a, b, c) GATV2_CONCAT_(a, b, c)

namespace gatv2 {

const PassTable GATV2_CONCAT(passes_, GATV2_ISA, GATV2_DTYPE) = {
    [](const Arguments& args) { return GATV2_ISA::Forward<GATV2_ISA::GATV2_DTYPE>(args).run(); },
    [](const Arguments& args) { return GATV2_ISA::Backward<GATV2_ISA::GATV2_DTYPE>(args).run(); },
};

}  // namespace gatv2
