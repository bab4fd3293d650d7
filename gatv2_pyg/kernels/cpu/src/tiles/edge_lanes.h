// The lanes of an edge or row in scores: head_stride of them, in blocks of W where there are more.
#pragma once

#include "simd/simd.h"

GATV2_BEGIN

template <class A, int HS>
struct EdgeLanes {
  typedef A V __attribute__((vector_size(sizeof(A) * HS)));
  static GATV2_INLINE V load(const A* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  static GATV2_INLINE void store(A* p, V v) { memcpy(p, &v, sizeof v); }
};
// Compilers keep vectors of one lane in memory.
template <class A>
struct EdgeLanes<A, 1> {
  typedef A V;
  static GATV2_INLINE V load(const A* p) { return *p; }
  static GATV2_INLINE void store(A* p, V v) { *p = v; }
};

GATV2_END
