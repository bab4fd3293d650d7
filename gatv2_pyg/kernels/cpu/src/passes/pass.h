// What the three passes share: the plan of a row, att, edge weights, and a block of scratch per
// thread.
#pragma once

#include "layout/parallel.h"
#include "micro/flat.h"
#include "micro/interleaved.h"
#include "simd/philox.h"
#include "tiles/bias.h"
#include "tiles/edge_features.h"
#include "tiles/short_rows.h"
#include "tiles/softmax.h"

GATV2_BEGIN

template <class T>
struct Context {
  using A = Acc<T>;
  const Arguments& args;
  Plan<A> plan;
  ScoreLayout<A> scores;
  Dropout<A> dropout;
  EdgeWeight<T> weight;
  ScoreBias<A> bias;
  A slope;
  int group;  // edges a micro-kernel takes at once, at most
  int64_t threads;
  Buffer fixed;  // att, dst_bias, then the edge weight
  A* att;
  A* dst_bias;  // padded; null where there is none
  Buffer tables;
  const MicroTable<T>** micro;  // of each segment

  Context(const Arguments& a, Direction direction, bool interleaved = false)
      : args(a),
        plan((int)a.heads, (int)a.channels, kMostHeads<T>, interleaved),
        scores(plan.head_stride, plan.heads),
        dropout(a.dropout, a.seed, a.element),
        bias(a, direction == kByDestination),
        slope((A)a.negative_slope),
        group(1),
        threads(a.threads),
        fixed(sizeof(A) * ((a.dst_bias ? 2 : 1) * room(plan) +
                           (a.edge_dim ? EdgeWeight<T>::elements(plan, a.edge_dim) : 0))),
        att(fixed.get<A>()),
        dst_bias(a.dst_bias ? att + room(plan) : nullptr),
        tables(sizeof(micro) * (plan.num_segments + 1)),
        micro(tables.get<const MicroTable<T>*>()) {
    if (!ok()) return;
    plan.pad(att, static_cast<const A*>(a.att));
    if (dst_bias) plan.pad(dst_bias, static_cast<const A*>(a.dst_bias));
    if (a.edge_dim) weight.fill(plan, a, att + (dst_bias ? 2 : 1) * room(plan));
    for (int k = 0; k < plan.num_segments; ++k) {
      const Segment& segment = plan.segments()[k];
      // Heads in quarters of vectors that are taken together read no edges past a tile's.
      if (plan.flat && !plan.flat_heads.quarters())
        group = plan.W / plan.head_stride;
      else if (!plan.flat || segment.heads == 1)
        group = max_of(group, plan.W / segment.heads);
      micro[k] = interleaved ? find_interleaved<T>(segment)
                 : plan.flat ? find_flat<T>(segment, plan.flat_heads.quarters(), plan.head_stride)
                             : find_micro<T>(segment);
    }
  }
  bool ok() const { return plan.ok() && fixed && tables && bias.ok(); }
  bool edges() const { return args.edge_dim > 0; }
  // Threads worth waking for so many edges.
  int64_t threads_for(int64_t edges) const { return edges * plan.row < 32768 ? 1 : threads; }
  Weights<A> weights() const {
    return {att, slope, plan.head_stride, plan.padded_row, &plan.flat_heads};
  }
  // The longest row that is taken together with others by destination. Where rows come from memory
  // short ones together hide it better; else a row alone is faster from one tile on, for its own
  // vectors stay in registers.
  int64_t short_row() const {
    if (plan.interleaved) return -1;
    return args.num_src * plan.row * (int64_t)sizeof(T) > kInCaches ? kBatch : kTile;
  }
  // A packed row in padded form: itself where the two are the same, else copied to `memory`.
  const A* padded(A* memory, const T* row) const {
    if constexpr (sizeof(T) == sizeof(A))
      if (plan.packed_is_padded()) return row;
    plan.pad(memory, row);
    return memory;
  }
  // x_dst[i] in padded form, likewise; with its bias a copy.
  const A* own(A* memory, const T* row) const {
    if (!dst_bias) return padded(memory, row);
    if (plan.interleaved) {
      plan.interleave(memory, row);
      for (int k = 0; k < plan.padded_row; k += plan.W)
        store(memory + k, load(memory + k) + load(dst_bias + k));
    } else {
      plan.each_vector([&](const typename Plan<A>::Place& at) GATV2_LAMBDA_INLINE {
        store(memory + at.padded, plan.get(row + at.packed, at) + load(dst_bias + at.padded));
      });
    }
    return memory;
  }
  // Rows that are not gathered but follow those at hand.
  template <class U>
  GATV2_INLINE void prefetch_rows(const U* rows, int64_t count) const {
    const char* p = reinterpret_cast<const char*>(rows);
    for (int64_t k = 0; k < (int64_t)sizeof(U) * plan.row * count; k += 64) prefetch(p + k);
  }
  template <class U>
  GATV2_INLINE void prefetch_row(const U* row) const {
    prefetch_rows(row, 1);
  }
  // Whether the rows of a result are better stored past the caches: it is larger than they are.
  template <class U>
  bool past_caches(const U* result, int64_t rows) const {
    return plan.packed_is_padded() && rows * plan.row * (int64_t)sizeof(U) >= kPastCaches &&
           (uintptr_t)result % kVectorBytes == 0;
  }
  // out = value * scale[h], to a packed row; scale may be null where rows are not interleaved.
  template <class U>
  void put_row(U* out, const A* value, const A* scale, bool past) const {
    if (plan.interleaved) return plan.separate(out, value, scale);
    plan.each_vector([&](const typename Plan<A>::Place& at) GATV2_LAMBDA_INLINE {
      auto x = load(value + at.padded);
      if (scale) x *= plan.by_head(scale, at);
      if (past)
        store_past_caches(out + at.packed, x);
      else
        plan.put(out + at.packed, x, at);
    });
  }
  // Calls f(micro-kernels, segment) for all segments of a row.
  template <class F>
  GATV2_INLINE void each_segment(const F& f) const {
    const Segment* s = plan.segments();
    for (int k = 0; k < plan.num_segments; ++k) f(micro[k], s[k]);
  }

 private:
  static size_t room(const Plan<A>& plan) { return (plan.padded_row + 63) / 64 * 64; }
};

// Hands out parts of a thread's scratch; with no memory behind it, measures how much that takes.
template <class A>
class Carver {
 public:
  explicit Carver(A* memory) : memory_(memory) {}
  A* take(size_t n) {
    A* const p = memory_ ? memory_ + used_ : nullptr;
    used_ += (n + 31) / 32 * 32;
    return p;
  }
  size_t used() const { return used_; }

 private:
  A* memory_;
  size_t used_ = 0;
};

// One thread's tile, its scores, and the row's own vectors.
template <class T>
struct Worker {
  using A = Acc<T>;
  Tile<T> tile;
  Weights<A> common;
  EdgeWindow<T> window;
  EdgeGradients<T> staged;
  int64_t ids[kBatch];
  A *own, *grad;             // padded rows: of each row of a batch
  A *sum_a, *sum_b, *total;  // padded rows
  A *s, *d;                  // [kBatchSlots][head_stride], or of all edges of a row
  A* keep;                   // [kBatchSlots][head_stride]
  uint8_t* masks;            // of a tile that leaves no records
  // Of each row of a batch: [kBatch][head_stride].
  A* shifts;       // what exp takes its scores less than
  A* row_sum;      // of exp, then its inverse
  A* lse_of_rows;  // forward
  A* row_delta;    // backward: D of (5)
  // Of each of its edges: [kBatchSlots][head_stride].
  A *alpha, *products;
  // Spreads: a number of each head in every lane of the head, or of each lane before it is folded.
  A* max;         // forward: the running maximum
  A* weights;     // sum of exp(s - max), or of exp(s - lse) in backward
  A* scale;       // what sums still lack
  A* lse;         // backward
  A* delta;       // D of (5)
  A* norm;        // with edge gradients, which need it at once: 1 / sum of exp(s - lse)
  A* residual;    // sum of ds
  A* correction;  // what records subtract: the residual, scaled

  // `longest`: edges of a row that s and d have room for.
  void carve(const Context<T>& c, int64_t longest, Carver<A>& memory) {
    const size_t row_size = c.plan.padded_row;
    const size_t edges = (longest + kTile - 1) / kTile * kTile + kMaxLanes;
    const size_t tile_size = (size_t)kBatchSlots * c.plan.head_stride + kMaxLanes;
    const size_t copy_size = c.plan.packed_is_padded() && sizeof(T) == sizeof(A) ? 0 : row_size;
    A** const rows[] = {&sum_a, &sum_b, &total};
    A** const batches[] = {&shifts, &row_sum, &lse_of_rows, &row_delta, &alpha, &products};
    A** const spreads[] = {&max, &weights, &scale, &lse, &delta, &norm, &residual, &correction};
    own = memory.take(kBatch * (c.dst_bias ? row_size : copy_size));
    grad = memory.take(kBatch * copy_size);
    for (A** p : rows) *p = memory.take(row_size);
    for (A** p : batches) *p = memory.take(tile_size);
    const size_t row_of_edges = max_of(tile_size, edges * c.plan.head_stride);
    s = memory.take(row_of_edges);
    d = memory.take(row_of_edges);
    keep = memory.take(tile_size);
    masks = reinterpret_cast<uint8_t*>(memory.take(kBatch * row_size / sizeof(A)));
    for (A** p : spreads) *p = memory.take(c.scores.spread_size());
    A* const w = memory.take(c.edges() ? EdgeWindow<T>::elements(c.plan, c.args.edge_dim) : 0);
    A* const g = memory.take(c.edges() ? EdgeGradients<T>::elements(c.plan, c.args.edge_dim) : 0);
    if (w && c.edges()) {
      window.attach(c.plan, c.weight, w);
      staged.attach(c.plan, c.weight, g);
    }
  }
};

template <class T>
class Workers {
  using A = Acc<T>;

 public:
  Workers(const Context<T>& c, int64_t count, int64_t longest = 0)
      : count_(count), size_(measure(c, longest)), memory_(bytes()) {
    if (!memory_) return;
    memset(memory_.get<char>(), 0, bytes());
    for (int64_t k = 0; k < count_; ++k) {
      Worker<T>& w = (*this)[k];
      w = Worker<T>();
      Carver<A> carver(reinterpret_cast<A*>(memory_.get<char>() + k * size_ + header()));
      w.carve(c, longest, carver);
      w.common = c.weights();
    }
  }
  bool ok() const { return (bool)memory_; }
  Worker<T>& operator[](int64_t k) const {
    return *reinterpret_cast<Worker<T>*>(memory_.get<char>() + k * size_);
  }

 private:
  static size_t header() { return (sizeof(Worker<T>) + 127) / 128 * 128; }
  static size_t measure(const Context<T>& c, int64_t longest) {
    Carver<A> carver(nullptr);
    Worker<T> w;
    w.carve(c, longest, carver);
    return header() + (carver.used() * sizeof(A) + 127) / 128 * 128 + 128;
  }
  size_t bytes() const { return size_ * count_; }
  int64_t count_;
  size_t size_;
  Buffer memory_;
};

// The tile of edges [begin, begin + n) of a row whose other ends are rows of `base`; `follows`: the
// tile before was of the same row.
template <class T>
GATV2_INLINE void read_tile(const Context<T>& c, Worker<T>& w, const Rows& rows, int64_t begin,
                            int n, bool follows, const T* base, bool need_ids) {
  w.tile.n = n;
  fill_slots(w.tile.rows, w.tile.next_rows, rows.idx, rows.num_edges, Slots(n, c.group), begin,
             kTile, follows, base, c.plan.gathered);
  w.tile.position = begin;
  if (need_ids || c.bias.by_id())
    for (int k = 0; k < n; ++k) w.ids[k] = rows.id(begin + k);
  if (c.bias.by_id()) c.bias.prefetch_edges(rows, begin + n, kTile);
  if (c.edges()) w.tile.projected = w.window.at(rows, begin, n);
}
// The row's own vectors, for all slots of its tiles.
template <class T>
GATV2_INLINE void open_tiles(const Acc<T>** of_slots, const Acc<T>* own) {
  for (int k = 0; k < kTileSlots; ++k) of_slots[k] = own;
}

// The tile of all edges of short rows.
template <class T>
GATV2_INLINE void read_batch(const Context<T>& c, Worker<T>& w, const Rows& rows, int64_t first_row,
                             int64_t end_row, const T* base, bool need_ids) {
  Tile<T>& t = w.tile;
  begin_batch(t, rows, first_row, end_row);
  if (t.n == 0) return;
  const int64_t begin = rows.ptr[first_row];
  fill_slots(t.rows, t.next_rows, rows.idx, rows.num_edges, Slots(t.n, c.group), begin, kBatch,
             t.next_begin == begin, base, c.plan.gathered);
  t.next_begin = begin + t.n;
  t.position = begin;
  if (need_ids || c.bias.by_id())
    for (int k = 0; k < t.n; ++k) w.ids[k] = rows.id(begin + k);
  if (c.bias.by_id()) c.bias.prefetch_edges(rows, begin + t.n, t.n);
  if (c.edges()) t.projected = w.window.at(rows, begin, t.n);
}
// The rows' vectors for the slots of their edges: at(row of the tile) is where one lies, padded.
template <class T, class F>
GATV2_INLINE void fill_rows(const Context<T>& c, const Tile<T>& t, const Acc<T>** of_slots,
                            const F& at) {
  for (int r = 0; r < t.num_rows; ++r)
    fill_row(of_slots + t.begin[r], t.begin[r + 1] - t.begin[r], at(r));
  Slots(t.n, c.group).repeat_last(of_slots);
}
// x_dst of the rows, which lie at `from`.
template <class T>
GATV2_INLINE void read_own(const Context<T>& c, Worker<T>& w, const T* from) {
  fill_rows(c, w.tile, w.tile.own, [&](int r) GATV2_LAMBDA_INLINE {
    return c.own(w.own + r * c.plan.padded_row, from + r * c.plan.row);
  });
  c.prefetch_rows(from + w.tile.num_rows * c.plan.row, w.tile.num_rows);
}
// The same of grad_out, with a stride of its own.
template <class T>
GATV2_INLINE void read_grad(const Context<T>& c, Worker<T>& w, const T* from, int64_t stride) {
  fill_rows(c, w.tile, w.tile.grad, [&](int r) GATV2_LAMBDA_INLINE {
    return c.padded(w.grad + r * c.plan.padded_row, from + r * stride);
  });
  if (stride) c.prefetch_rows(from + w.tile.num_rows * stride, w.tile.num_rows);
}

template <Direction D, TileRows R, class T>
GATV2_INLINE void score_tile(const Context<T>& c, Worker<T>& w, Acc<T>* s, Acc<T>* d) {
  c.each_segment([&](const MicroTable<T>* m, const Segment& seg) GATV2_LAMBDA_INLINE {
    m->score[D][R][c.edges()](w.tile, seg, w.common, s, d);
  });
  if (c.bias) c.bias.add(c.scores, c.plan.heads, w.ids, w.tile.position, w.tile.n, s);
}

GATV2_END
