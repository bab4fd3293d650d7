// Work over consecutive ranges, a thread for each. One range opens no parallel region.
#pragma once

#include <stdint.h>
#include <stdlib.h>

namespace gatv2 {

template <class Body>
void for_ranges(int64_t ranges, const Body& body) {
#if defined(_OPENMP)
  if (ranges > 1) {
#pragma omp parallel for num_threads((int)ranges) schedule(static, 1)
    for (int64_t k = 0; k < ranges; ++k) body(k);
    return;
  }
#endif
  for (int64_t k = 0; k < ranges; ++k) body(k);
}

// Memory of malloc or calloc, until the end of the block.
struct Free {
  void* p;
  ~Free() { free(p); }
};

inline int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }

}  // namespace gatv2
