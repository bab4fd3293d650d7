// A tile: the edges of a row that a micro-kernel takes at once, and the row's own vectors.
#pragma once

#include "simd/simd.h"

GATV2_BEGIN

constexpr int kTile = 16;
constexpr int kAhead = 16;  // edges between a row's prefetch and its use
constexpr int kMaxLanes = 16;
constexpr int kTileSlots = kTile + kMaxLanes;

// Edges of one row. Slots past n repeat the last edge.
template <class T>
struct Tile {
  int n;
  const T* rows[kTileSlots];       // x_src by destination, grad_out by source
  const T* next_rows[kTileSlots];  // to prefetch
  const Acc<T>* projected;         // W_edge edge_attr[e], padded rows; null without edge features
  uint8_t* masks;                  // by destination: where z is above 0, [n] rows of mask_row
  int64_t mask_row;
  const Acc<T>* records[kTileSlots];  // by source: see records.h
  const Acc<T>* next_records[kTileSlots];
  const uint8_t* record_masks[kTileSlots];
  const uint8_t* next_record_masks[kTileSlots];
};

template <class A>
struct RowData {
  const A* own;   // padded: the row's own x
  const A* att;   // padded
  const A* grad;  // padded: by destination, grad_out of the row
  A slope;
  int head_stride;
  int padded_row;
};

GATV2_END
