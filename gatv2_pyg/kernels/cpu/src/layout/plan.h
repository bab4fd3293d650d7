// The shape of a row: how its H heads of C channels are cut into segments of a few vectors that a
// micro-kernel keeps in registers.
//
// Rows of tensors are packed ([H, C]). What a kernel holds itself (a row of its own, sums,
// projected edge features) is padded: each head starts at a whole vector, lanes past C are 0. An
// interleaved plan pads to [C][head_stride] instead, the rows that are gathered too (see
// interleaved.h). Scores of a tile lie as [edge][head_stride], so that softmax runs over full
// vectors of (edge, head) and a lane always means the same head.
#pragma once

#include "layout/memory.h"
#include "simd/shuffle.h"

GATV2_BEGIN

struct Segment {
  int head;        // first head
  int heads;       // number of heads: 1, 2, 4 or 8
  int vectors;     // vectors of each head: 1, 2, 4 or 8
  int offset;      // of its first element in a packed row
  int padded;      // the same in a padded row
  int tail;        // lanes in use in the last vector
  bool continues;  // part of a head that an earlier segment began: scores add
};

template <class A>
class Plan {
  using V = typename Simd<A>::V;

 public:
  static constexpr int W = Simd<A>::W;
  int heads, channels;
  int head_vectors, padded_channels, padded_row;
  int head_stride;  // power of two up to W, or a multiple of W
  bool interleaved;
  int num_segments = 0;
  int64_t row;       // elements of a packed row
  int64_t gathered;  // elements of a row that is gathered

  // most_heads: at most so many heads to a segment. Interleaved plans have at most W heads.
  Plan(int h, int c, int most_heads, bool interleave)
      : heads(h),
        channels(c),
        head_vectors((c + W - 1) / W),
        padded_channels(head_vectors * W),
        padded_row(h * padded_channels),
        head_stride(1),
        interleaved(interleave),
        row((int64_t)h * c),
        storage_((size_t)2 * h * (head_vectors / 8 + 4) * sizeof(Segment)) {
    while (head_stride < h && head_stride < W) head_stride *= 2;
    if (h > W) head_stride = (h + W - 1) / W * W;
    if (interleaved) padded_row = (c * head_stride + W - 1) / W * W;
    gathered = interleaved ? padded_row : row;
    if (!storage_) return;
    if (interleaved)
      build_interleaved();
    else
      build(most_heads);
  }
  bool ok() const { return (bool)storage_; }
  const Segment* segments() const { return storage_.template get<Segment>(); }
  // A packed row of A is its own padded form.
  bool packed_is_padded() const { return !interleaved && padded_channels == channels; }
  // The head of element k of a padded row.
  int head_of(int k) const { return interleaved ? k % head_stride : k / padded_channels; }

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
    for (int h = 0; h < heads; ++h)
      for (int v = 0; v < head_vectors; ++v)
        store(to + h * padded_channels + v * W,
              load(from + (int64_t)h * channels + v * W, in_use(v)));
  }
  LanesInUse in_use(int v) const { return LanesInUse(min_of(W, channels - v * W)); }

 private:
  void add(int head, int n, int vector, int vectors, int tail) {
    storage_.template get<Segment>()[num_segments++] = {
        head, n,         vectors, head * channels + vector * W, head * padded_channels + vector * W,
        tail, vector > 0};
  }
  void build_interleaved() {
    for (int v = 0, n = 8; v < padded_row / W; v += n) {
      while (n > padded_row / W - v) n /= 2;
      storage_.template get<Segment>()[num_segments++] = {0,     head_stride, n,    v * W,
                                                          v * W, W,           v > 0};
    }
  }
  void build(int most_heads) {
    const bool full = channels % W == 0;
    if (full &&
        (head_vectors == 1 || head_vectors == 2 || head_vectors == 4 || head_vectors == 8)) {
      int most = min_of(most_heads, min_of(W, 8 / head_vectors));
      for (int h = 0; h < heads;) {
        while (most > heads - h) most /= 2;
        add(h, most, 0, head_vectors, W);
        h += most;
      }
      return;
    }
    const int whole = channels / W, tail = channels % W;
    for (int h = 0; h < heads; ++h) {
      int v = 0;
      while (whole - v >= 8) {
        add(h, 1, v, 8, W);
        v += 8;
      }
      if (whole - v >= 4) {
        add(h, 1, v, 4, W);
        v += 4;
      }
      if (whole - v >= 2) {
        add(h, 1, v, 2, W);
        v += 2;
      }
      if (tail)
        add(h, 1, v, whole - v + 1, tail);
      else if (whole - v)
        add(h, 1, v, 1, W);
    }
  }
  Buffer storage_;
};

GATV2_END
