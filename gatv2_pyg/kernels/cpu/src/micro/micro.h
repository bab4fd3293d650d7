// The micro-kernels: one segment of up to eight vectors over a tile, the edges of one row or of
// several short ones. A table of them for each shape of a segment.
#pragma once

#include "micro/scores.h"
#include "micro/sums.h"

GATV2_BEGIN

// A segment's micro-kernels; of [2] the second are those with edge features.
template <class T>
struct MicroTable {
  using A = Acc<T>;
  // [Direction][TileRows]
  void (*score[2][2][2])(const Tile<T>&, const Segment&, const Weights<A>&, A* s, A* d);
  void (*dot)(const A* x, const A* grad, const Segment&, const Weights<A>&, A* d);
  void (*accumulate_forward)(const Tile<T>&, const Segment&, const Weights<A>&, const A* p,
                             const A* scale, A* acc);
  void (*accumulate_by_destination[2])(const Tile<T>&, const Segment&, const Weights<A>&,
                                       const A* ds, A* slope_sum, A* leaky_sum);
  void (*accumulate_by_source)(const Tile<T>&, const Segment&, const Weights<A>&, A* grad_sum,
                               A* slope_sum);
  // Whole short rows.
  void (*forward_rows)(const Tile<T>&, const Segment&, const Weights<A>&, const A* alpha,
                       const ForwardOut<A>&);
  void (*destination_rows[2])(const Tile<T>&, const Segment&, const Weights<A>&, const A* ds,
                              const RowsOut<T>&, A* leaky_sum);
  void (*source_rows)(const Tile<T>&, const Segment&, const Weights<A>&, const RowsOut<T>&);
  void (*source_rows_wide)(const Tile<T>&, const Segment&, const Weights<A>&, const RowsOut<A>&);
};

// M adds up rows, S scores them.
template <class T, class M, class S>
const MicroTable<T>* table_of() {
  using A = Acc<T>;
  constexpr TileRows one = S::kOneRowAs, several = kShortRows;
  static constexpr MicroTable<T> table = {
      {{{S::template score<kForward, false, one>, S::template score<kForward, true, one>},
        {S::template score<kForward, false, several>, S::template score<kForward, true, several>}},
       {{S::template score<kByDestination, false, one>,
         S::template score<kByDestination, true, one>},
        {S::template score<kByDestination, false, several>,
         S::template score<kByDestination, true, several>}}},
      S::dot,
      M::accumulate_forward,
      {M::template accumulate_by_destination<false>, M::template accumulate_by_destination<true>},
      M::accumulate_by_source,
      M::forward_rows,
      {M::template destination_rows<false>, M::template destination_rows<true>},
      M::template source_rows<T>,
      M::template source_rows<A>};
  return &table;
}
template <class T, int HB, int CV, bool Ragged, int P = 1>
const MicroTable<T>* micro_table() {
  return table_of<T, MicroSums<T, HB, CV, Ragged, P>, MicroScores<T, HB, CV, Ragged, P>>();
}

// The most heads a segment may have. Several at once pay where a reduction takes many vectors; the
// rest is kept small to build. With four lanes a reduction takes four heads.
template <class T>
constexpr int kMostHeads = Simd<Acc<T>>::W * sizeof(Acc<T>) == 16
                               ? (Simd<Acc<T>>::W == 4 ? 4 : 1)
                               : (Simd<Acc<T>>::W >= (sizeof(T) == 4 ? 8 : 16) ? 8 : 1);

// Heads that share vectors, P to each; of several segments the vectors are 4, 2 and 1.
template <class T, int P>
const MicroTable<T>* find_shared(const Segment& s) {
  constexpr int W = Simd<Acc<T>>::W, S = W / P;
  const bool full = s.tail == W;
  if constexpr (S >= 4) {
    if (s.heads == 4 * P)
      return full ? micro_table<T, 4 * P, 1, false, P>() : micro_table<T, 4 * P, 1, true, P>();
    if (full)
      return s.heads == 2 * P ? micro_table<T, 2 * P, 1, false, P>()
                              : micro_table<T, P, 1, false, P>();
  }
  return s.heads == 2 * P ? micro_table<T, 2 * P, 1, true, P>() : micro_table<T, P, 1, true, P>();
}

template <class T>
const MicroTable<T>* find_micro(const Segment& s) {
  constexpr int W = Simd<Acc<T>>::W;
  if constexpr (W >= 4)
    if (s.sharing == 2) return find_shared<T, 2>(s);
  if constexpr (W >= 8)
    if (s.sharing == 4) return find_shared<T, 4>(s);
  if constexpr (W >= 16)
    if (s.sharing == 8) return find_shared<T, 8>(s);
  const bool ragged = s.tail != W;
  if constexpr (kMostHeads<T> == 8)
    if (s.heads == 8) return ragged ? micro_table<T, 8, 1, true>() : micro_table<T, 8, 1, false>();
  if constexpr (kMostHeads<T> >= 4) {
    if (ragged) switch (s.heads * 16 + s.vectors) {
        case 32 + 1: return micro_table<T, 2, 1, true>();
        case 32 + 2: return micro_table<T, 2, 2, true>();
        case 32 + 3: return micro_table<T, 2, 3, true>();
        case 64 + 1: return micro_table<T, 4, 1, true>();
        case 64 + 2: return micro_table<T, 4, 2, true>();
      }
  }
  if (ragged) switch (s.vectors) {
      case 1: return micro_table<T, 1, 1, true>();
      case 2: return micro_table<T, 1, 2, true>();
      default: return micro_table<T, 1, 3, true>();
    }
  if constexpr (kMostHeads<T> >= 4) {
    switch (s.heads * 16 + s.vectors) {
      case 32 + 1: return micro_table<T, 2, 1, false>();
      case 32 + 2: return micro_table<T, 2, 2, false>();
      case 32 + 3: return micro_table<T, 2, 3, false>();
      case 32 + 4: return micro_table<T, 2, 4, false>();
      case 64 + 1: return micro_table<T, 4, 1, false>();
      case 64 + 2: return micro_table<T, 4, 2, false>();
    }
  }
  switch (s.vectors) {
    case 1: return micro_table<T, 1, 1, false>();
    case 2: return micro_table<T, 1, 2, false>();
    case 3: return micro_table<T, 1, 3, false>();
    case 4: return micro_table<T, 1, 4, false>();
    default: return micro_table<T, 1, 8, false>();
  }
}

GATV2_END
