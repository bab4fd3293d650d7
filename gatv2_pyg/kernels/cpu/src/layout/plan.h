// The shape of a row: how its H heads of C channels are cut into segments of a few vectors that a
// micro-kernel keeps in registers.
//
// Rows of tensors are packed ([H, C]). What a kernel holds itself (a row of its own, sums,
// projected edge features) is padded: each head starts at a whole vector, lanes past C are 0.
// Narrow heads share vectors: each starts at a power of two that divides a vector. Flat rows are
// padded at their end alone (see flat.h). An interleaved plan pads to [C][head_stride] instead, the
// rows that are gathered too (see interleaved.h). Scores of a tile lie as [edge][head_stride], so
// that softmax runs over full vectors of (edge, head) and a lane always means the same head.
#pragma once

#include "layout/flat.h"
#include "simd/partial.h"

GATV2_BEGIN

struct Segment {
  int head;        // first head
  int heads;       // number of heads; where they share vectors a multiple of `sharing`
  int vectors;     // vectors of each head: 1, 2, 3, 4 or 8; of flat rows those of all its heads
  int sharing;     // heads to a vector
  int channels;    // of a head
  int offset;      // of its first element in a packed row
  int padded;      // the same in a padded row
  int tail;        // elements of the last vector, of every vector where heads share them
  bool continues;  // part of a head that an earlier segment began: scores add
};

template <class A>
class Plan {
  using V = typename Simd<A>::V;

 public:
  static constexpr int W = Simd<A>::W;
  int heads, channels;
  int head_stride;  // power of two up to W, or a multiple of W
  int sharing;      // heads to a vector
  int head_vectors, padded_channels, padded_row;
  bool interleaved;
  bool flat;
  FlatHeads<A> flat_heads;
  int num_segments = 0;
  int64_t row;       // elements of a packed row
  int64_t gathered;  // elements of a row that is gathered

  // most_heads: at most so many heads to a segment. Interleaved plans have at most W heads.
  Plan(int h, int c, int most_heads, bool interleave)
      : heads(h),
        channels(c),
        head_stride(stride_of(h)),
        sharing(interleave ? 1 : sharing_of(c, head_stride)),
        head_vectors((c + W - 1) / W),
        padded_channels(head_vectors * W / sharing),
        interleaved(interleave),
        flat(!interleave && FlatHeads<A>::pays(h, c, head_stride, row_apart() / W)),
        flat_heads(h, c, head_stride, flat),
        row((int64_t)h * c),
        storage_((size_t)2 * h * (head_vectors / 8 + 4) * sizeof(Segment)) {
    if (flat) {
      sharing = 1;
      padded_channels = c;
    }
    padded_row = ((interleaved ? c * head_stride : h * padded_channels) + W - 1) / W * W;
    gathered = interleaved ? padded_row : row;
    if (!storage_) return;
    if (interleaved)
      build_interleaved();
    else
      build(most_heads);
  }
  bool ok() const { return storage_ && flat_heads.ok(); }
  // Elements of a padded row whose heads begin in places of their own.
  int row_apart() const {
    const int sharing = sharing_of(channels, head_stride);
    return (heads + sharing - 1) / sharing * head_vectors * W;
  }
  const Segment* segments() const { return storage_.template get<Segment>(); }
  // A packed row of A is its own padded form.
  bool packed_is_padded() const {
    return !interleaved && padded_channels == channels && padded_row == row;
  }
  // The head of element k of a padded row.
  int head_of(int k) const {
    return interleaved ? k % head_stride : min_of(k / padded_channels, heads - 1);
  }

  // Rows whose heads are whole vectors and 2, 4 or 8: f(heads) runs, with their number as a
  // constant.
  template <class F>
  GATV2_INLINE bool with_constant_heads(const F& f) const {
    if (channels % W != 0) return false;
    switch (heads) {
      case 2: f(Int<2>()); return true;
      case 4: f(Int<4>()); return true;
      case 8: f(Int<8>()); return true;
      default: return false;
    }
  }

  // `to` holds elements of A, or (to be gathered) of T.
  template <class U, class T>
  void interleave(U* to, const T* from) const {
    if constexpr (sizeof(T) == sizeof(A)) {
      const bool done = with_constant_heads([&](auto n) GATV2_LAMBDA_INLINE {
        constexpr int N = decltype(n)::value;
        for (int c = 0; c < channels; c += W) {
          V v[N];
          GATV2_UNROLL
          for (int h = 0; h < N; ++h) v[h] = load(from + h * channels + c);
          zip_rows<A, N>(v);
          GATV2_UNROLL
          for (int k = 0; k < N; ++k) store(to + c * N + k * W, v[k]);
        }
      });
      if (done) return;
    }
    if (padded_row != row) memset(to, 0, sizeof(U) * padded_row);
    for (int h = 0; h < heads; ++h)
      for (int c = 0; c < channels; ++c, ++from)
        if constexpr (sizeof(U) == sizeof(T))
          to[c * head_stride + h] = *from;
        else
          to[c * head_stride + h] = to_float(*from);
  }
  // out[h][c] = value[c][h] * scale[h], the scale in every lane of its head.
  template <class U>
  void separate(U* out, const A* value, const A* scale) const {
    const bool done = with_constant_heads([&](auto n) GATV2_LAMBDA_INLINE {
      constexpr int N = decltype(n)::value;
      const V factor = load(scale);
      for (int c = 0; c < channels; c += W) {
        V v[N];
        GATV2_UNROLL
        for (int k = 0; k < N; ++k) v[k] = load(value + c * N + k * W) * factor;
        unzip_rows<A, N>(v);
        GATV2_UNROLL
        for (int h = 0; h < N; ++h) store(out + h * channels + c, v[h]);
      }
    });
    if (done) return;
    for (int h = 0; h < heads; ++h)
      for (int c = 0; c < channels; ++c, ++out)
        from_float(value[c * head_stride + h] * scale[h], *out);
  }
  template <class T>
  void pad(A* to, const T* from) const {
    if (interleaved) return interleave(to, from);
    if (flat || heads == 1) {
      int64_t k = 0;
      for (; k + W <= row; k += W) store(to + k, load(from + k));
      if (k < row) store(to + k, load(from + k, LanesInUse((int)(row - k))));
      return;
    }
    each_vector([&](const Place& at)
                    GATV2_LAMBDA_INLINE { store(to + at.padded, get(from + at.packed, at)); });
  }

  // A vector of a padded row that is not interleaved.
  struct Place {
    int64_t packed;  // its first element in a packed row
    int padded;      // the same in a padded row
    int head;        // its first head; of a flat row that of its unit
    int count;       // elements
  };
  template <class F>
  GATV2_INLINE void each_vector(const F& f) const {
    if (sharing > 1) {
      for (int h = 0; h < heads; h += sharing)
        f(Place{(int64_t)h * channels, h * padded_channels, h,
                min_of(sharing, heads - h) * channels});
      return;
    }
    if (flat) {
      for (int k = 0; k < padded_row; k += W)
        f(Place{k, k, flat_heads.first_head(k / channels), min_of(W, (int)row - k)});
      return;
    }
    for (int h = 0; h < heads; ++h)
      for (int v = 0; v < head_vectors; ++v)
        f(Place{(int64_t)h * channels + v * W, h * padded_channels + v * W, h,
                min_of(W, channels - v * W)});
  }
  // A vector of a packed row, in its padded form, and back.
  template <class T>
  GATV2_INLINE V get(const T* from, const Place& at) const {
    const V v = at.count == W ? load(from) : load(from, LanesInUse(at.count));
    return apart() ? expand(v, HeadLanes(padded_channels, channels)) : v;
  }
  template <class T>
  GATV2_INLINE void put(T* to, V v, const Place& at) const {
    if (at.count == W) return store(to, v);
    store(to, apart() ? compress(v, HeadLanes(padded_channels, channels)) : v,
          LanesInUse(at.count));
  }
  // Adds `count` packed rows to a padded one.
  template <class T>
  void add_rows(const T* rows, int64_t count, double* sum) const {
    each_vector([&](const Place& at) GATV2_LAMBDA_INLINE {
      const T* from = rows + at.packed;
      V total{};
      for (int64_t k = 0; k < count; ++k, from += row) total += get(from, at);
      add_doubles(sum + at.padded, total);
    });
  }
  // A padded row that is not interleaved, packed.
  void pack(A* to, const double* from) const {
    for (int h = 0; h < heads; ++h, from += padded_channels)
      for (int c = 0; c < channels; ++c) *to++ = (A)from[c];
  }
  // The numbers of a vector's heads in their lanes, from [head]; a whole vector is read.
  GATV2_INLINE V by_head(const A* of_heads, const Place& at) const {
    const A* const from = of_heads + at.head;
    if constexpr (FlatHeads<A>::kTaken)
      if (flat) return permute(load(from), *flat_heads.lanes(at.padded / W));
    if constexpr (W > 2) {
      if (sharing == 2) return spread_runs<W / 2>(from);
      if (W > 4 && sharing == 4) return spread_runs<(W > 4 ? W / 4 : 1)>(from);
      if (W > 8 && sharing == 8) return spread_runs<(W > 8 ? W / 8 : 1)>(from);
    }
    return broadcast<V>(*from);
  }

 private:
  static int stride_of(int heads) {
    int stride = 1;
    while (stride < heads && stride < W) stride *= 2;
    return heads > W ? (heads + W - 1) / W * W : stride;
  }
  // Heads have at least two lanes, and a vector no more of them than there are.
  static int sharing_of(int channels, int stride) {
    int sharing = 1;
    while (2 * sharing <= stride && 2 * sharing < W && 2 * sharing * channels <= W) sharing *= 2;
    return sharing;
  }
  // Whether heads that share a vector lie apart in it.
  bool apart() const { return sharing > 1 && padded_channels != channels; }

  void add(int head, int n, int vector, int vectors, int tail) {
    storage_.template get<Segment>()[num_segments++] = {head,
                                                        n,
                                                        vectors,
                                                        sharing,
                                                        channels,
                                                        head * channels + vector * W,
                                                        head * padded_channels + vector * W,
                                                        tail,
                                                        vector > 0};
  }
  void build_interleaved() {
    for (int v = 0, n = 8; v < padded_row / W; v += n) {
      while (n > padded_row / W - v) n /= 2;
      storage_.template get<Segment>()[num_segments++] = {0,     head_stride, n, 1,    channels,
                                                          v * W, v * W,       W, v > 0};
    }
  }
  // Up to four vectors at once, so many that a reduction takes whole edges.
  void build_shared() {
    const int most = min_of(4, padded_channels);
    for (int h = 0; h < heads;) {
      int n = most;
      while (n > 1 && n * sharing > heads - h) n /= 2;
      add(h, n * sharing, 0, 1, min_of(sharing, heads - h) * channels);
      h += n * sharing;
    }
  }
  void build_flat() {
    for (int h = 0, n; h < heads; h += n) {
      n = min_of(flat_heads.unit(), heads - h);
      const int rest = n * channels % W;
      storage_.template get<Segment>()[num_segments++] = {h,
                                                          n,
                                                          (n * channels + W - 1) / W,
                                                          1,
                                                          channels,
                                                          h * channels,
                                                          h * channels,
                                                          rest ? rest : W,
                                                          false};
    }
  }
  void build(int most_heads) {
    if (flat) return build_flat();
    if (sharing > 1) return build_shared();
    const bool full = channels % W == 0;
    if (head_vectors <= 3 || (full && (head_vectors == 4 || head_vectors == 8))) {
      int most = min_of(most_heads, min_of(W, 8 / head_vectors));
      for (int h = 0; h < heads;) {
        while (most > heads - h) most /= 2;
        add(h, most, 0, head_vectors, full ? W : channels % W);
        h += most;
      }
      return;
    }
    // Micro-kernels take 1, 2, 3, 4 or 8 vectors, and whose last is partial up to 3.
    for (int h = 0; h < heads; ++h)
      for (int v = 0, n; v < head_vectors; v += n) {
        const int left = head_vectors - v, whole = full ? left : left - 1;
        n = left <= 3 ? left : whole >= 8 ? 8 : whole >= 4 ? 4 : 2;
        add(h, 1, v, n, n == left && !full ? channels % W : W);
      }
  }
  Buffer storage_;
};

GATV2_END
