// The parallel loop.
#pragma once

#include "simd/simd.h"

GATV2_BEGIN

// Calls body(item, thread) for every item. Which thread takes an item is left open, so a body must
// write what belongs to the item alone. One thread opens no parallel region: a forked child can
// not use the OpenMP pool of its parent.
template <class Body>
void parallel_for(int64_t items, int64_t threads, const Body& body) {
#if defined(_OPENMP)
  if (threads > 1 && items > 1) {
    int64_t next = 0, workers = 0;
#pragma omp parallel num_threads((int)min_of(threads, items))
    {
      const int64_t worker = __atomic_fetch_add(&workers, 1, __ATOMIC_RELAXED);
      for (;;) {
        const int64_t item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (item >= items) break;
        body(item, worker);
      }
      fence_stores();
    }
    return;
  }
#endif
  (void)threads;
  for (int64_t item = 0; item < items; ++item) body(item, 0);
  fence_stores();
}

GATV2_END
