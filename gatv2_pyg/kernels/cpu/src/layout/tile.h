// A tile: the edges that a micro-kernel takes at once, of one row or of several short ones.
#pragma once

#include "layout/flat.h"

GATV2_BEGIN

constexpr int kTile = 16;   // edges of a long row's tile
constexpr int kBatch = 64;  // edges, and rows, of a tile of short rows at most
constexpr int kMaxLanes = 16;
constexpr int kTileSlots = kTile + kMaxLanes;
constexpr int kBatchSlots = kBatch + kMaxLanes;

enum Direction { kForward, kByDestination };  // the passes that need scores
enum TileRows { kOneRow, kShortRows };        // the rows whose edges are a tile

// Edges of one row, or of consecutive short rows. Slots past n repeat the last edge.
template <class T>
struct Tile {
  int n;
  int64_t position;                 // of the first edge
  const T* rows[kBatchSlots];       // x_src by destination, grad_out by source
  const T* next_rows[kBatchSlots];  // to prefetch
  const Acc<T>* own[kBatchSlots];   // padded: by destination, x_dst of the edge's row
  const Acc<T>* grad[kBatchSlots];  // padded: backward by destination, grad_out of that row
  const Acc<T>* projected;          // W_edge edge_attr[e], padded rows; null without edge features
  Acc<T>* slopes;                   // ds_e LeakyReLU'(z_e) goes there, padded rows; may be null
  uint8_t* masks;                   // by destination: where z is above 0, [n] rows of mask_row
  int64_t mask_row;
  const Acc<T>* records[kBatchSlots];  // by source: see records.h
  const Acc<T>* next_records[kBatchSlots];
  const uint8_t* record_masks[kBatchSlots];
  const uint8_t* next_record_masks[kBatchSlots];
  int64_t next_begin;  // of short rows: the position whose edges are to prefetch
  // Of short rows: the edges of row r are [begin[r], begin[r + 1]).
  int num_rows;
  int begin[kBatch + 1 + kMaxLanes];  // past the last row the end
};

// What every edge is scored with.
template <class A>
struct Weights {
  const A* att;  // padded
  A slope;
  int head_stride;
  int padded_row;
  const FlatHeads<A>* flat;
};

// Where rows of out go, packed; `biased` gets them with `bias`, which is padded. One of the two may
// be null.
template <class A>
struct ForwardOut {
  A* plain;
  A* biased;
  const A* bias;
  int64_t row;  // elements
  bool past_caches;
};

// Where whole rows go: packed rows of E, those of a tile one after the other.
template <class E>
struct RowsOut {
  E* first;
  int64_t row;      // elements
  bool accumulate;  // to what is there
  bool past_caches;
  Acc<E>* sum = nullptr;  // padded; what is written is added to it; may be null
};

GATV2_END
