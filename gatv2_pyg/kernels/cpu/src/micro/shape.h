// The shape of a micro-kernel, and its access to a segment of a packed row.
#pragma once

#include "layout/plan.h"
#include "layout/tile.h"

GATV2_BEGIN

// A segment of HB heads: of CV vectors each, or P to a vector of W / P lanes each (then CV is 1).
// Or CV vectors of a flat row, of a unit of up to `Flat` heads; these have no scores here (see
// flat.h).
template <class T, int HB, int CV, bool Ragged, int P = 1, int Flat = 0>
struct MicroShape {
  using A = Acc<T>;
  using V = typename Simd<A>::V;
  static constexpr int W = Simd<A>::W;
  static constexpr int S = W / P;   // lanes of a head in a vector
  static constexpr int U = HB / P;  // what is reduced apart: heads, or vectors of heads
  static constexpr int N = U * CV;  // vectors
  // Whether half of a row is prefetched with the scores, half with the sums: the scores of several
  // heads take time enough.
  static constexpr bool kSpread = U < 4;

  // Vector v of the segment in a packed row. Where that is ragged the last vector of each head is
  // partial, or with P every vector, and its heads lie apart.
  struct Access {
    LanesInUse tail;
    HeadLanes lanes;
    int64_t step;                      // from head to head, or vector to vector
    const typename Simd<A>::I* heads;  // of flat rows: see FlatHeads::lanes
    GATV2_INLINE Access(const Segment& s, const Weights<A>& r)
        : tail(s.tail),
          lanes(S, s.channels),
          step(P > 1 ? P * s.channels : s.channels),
          heads(Flat > 0 ? r.flat->lanes(s.padded / W) : nullptr) {}
    static constexpr bool partial(int v) { return Ragged && (P > 1 || v % CV == CV - 1); }
    GATV2_INLINE int64_t at(int v) const {
      return Ragged && U > 1 ? v / CV * step + v % CV * W : (int64_t)v * W;
    }
    template <class E>
    GATV2_INLINE V get(const E* p, int v) const {
      const V x = partial(v) ? load(p + at(v), tail) : load(p + at(v));
      return P > 1 && Ragged ? expand(x, lanes) : x;
    }
    template <class E>
    GATV2_INLINE void put(E* p, int v, V x, bool past_caches) const {
      if (partial(v))
        store(p + at(v), P > 1 ? compress(x, lanes) : x, tail);
      else if (!Ragged && past_caches)
        store_past_caches(p + at(v), x);
      else
        store(p + at(v), x);
    }
    // The number of vector v's heads in their lanes, from [head].
    GATV2_INLINE V by_head(const A* of_heads, int v) const {
      if constexpr (Flat > 0)
        return permute(load_repeated<Flat>(of_heads), heads[v]);
      else if constexpr (P > 1)
        return spread_runs<S>(of_heads + v * P);
      else
        return broadcast<V>(of_heads[v / CV]);
    }
  };

  // The cache line that vector v begins, if it begins one.
  static GATV2_INLINE void prefetch_vector(const T* p, int v) {
    if (v * W * sizeof(T) % 64 == 0) prefetch(p + v * W);
  }
};

GATV2_END
