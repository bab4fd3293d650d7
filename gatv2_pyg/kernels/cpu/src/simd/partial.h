// Parts of vectors: loads and stores of 0 to W elements, which touch nothing past them, and heads
// that lie apart in a vector.
#pragma once

#include "simd/shuffle.h"

GATV2_BEGIN

// Lanes [0, n) of v, those of `other` past them.
constexpr int64_t kFirstLanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
template <class A>
GATV2_INLINE typename Simd<A>::V first_lanes(typename Simd<A>::V v, int n,
                                             typename Simd<A>::V other = typename Simd<A>::V{}) {
  using V = typename Simd<A>::V;
  using I = typename Simd<A>::I;
  I mask;
  memcpy(&mask, (const char*)(kFirstLanes + 8) - min_of(n, Simd<A>::W) * sizeof(A), sizeof mask);
  return (V)(((I)v & mask) | ((I)other & ~mask));
}

#if defined(__AVX512F__)

// How many lanes of a vector are in use, in the form the instruction set wants it.
struct LanesInUse {
  int count;
  __mmask16 mask;
  explicit LanesInUse(int n) : count(n), mask((__mmask16)((1u << n) - 1)) {}
};

// Lanes [0, used) of each run of `run` lanes, which is a power of two.
struct HeadLanes {
  __mmask16 mask;
  HeadLanes(int run, int used) {
    unsigned bits = (1u << min_of(used, run)) - 1;
    for (int k = run; k < 16; k *= 2) bits |= bits << k;
    mask = (__mmask16)bits;
  }
};

GATV2_INLINE VF load(const float* p, LanesInUse n) { return (VF)_mm512_maskz_loadu_ps(n.mask, p); }
GATV2_INLINE VD load(const double* p, LanesInUse n) {
  return (VD)_mm512_maskz_loadu_pd((__mmask8)n.mask, p);
}
GATV2_INLINE VF load(const bfloat16* p, LanesInUse n) {
  return widen(_mm256_maskz_loadu_epi16(n.mask, p), (bfloat16*)0);
}
GATV2_INLINE VF load(const float16* p, LanesInUse n) {
  return widen(_mm256_maskz_loadu_epi16(n.mask, p), (float16*)0);
}
GATV2_INLINE void store(float* p, VF v, LanesInUse n) {
  _mm512_mask_storeu_ps(p, n.mask, (__m512)v);
}
GATV2_INLINE void store(double* p, VD v, LanesInUse n) {
  _mm512_mask_storeu_pd(p, (__mmask8)n.mask, (__m512d)v);
}
GATV2_INLINE void store(bfloat16* p, VF v, LanesInUse n) {
  _mm256_mask_storeu_epi16(p, n.mask, narrow(v, (bfloat16*)0));
}
GATV2_INLINE void store(float16* p, VF v, LanesInUse n) {
  _mm256_mask_storeu_epi16(p, n.mask, narrow(v, (float16*)0));
}

// Lanes `from`, from + 1, ... of v (past the last the first again), in order, to the elements of p
// whose bits are set.
constexpr bool kMasksAccess = true;  // an instruction may leave elements out
GATV2_INLINE void store_elements(float* p, unsigned bits, VF v, int from) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 x = _mm512_maskz_permutexvar_ps(
      0xFFFF, _mm512_add_epi32(lanes, _mm512_set1_epi32(from)), (__m512)v);
  _mm512_mask_storeu_ps(p, (__mmask16)bits, _mm512_maskz_expand_ps((__mmask16)bits, x));
}
GATV2_INLINE void store_elements(double* p, unsigned bits, VD v, int from) {
  const __m512i lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
  const __m512d x = _mm512_maskz_permutexvar_pd(
      0xFF, _mm512_add_epi64(lanes, _mm512_set1_epi64(from)), (__m512d)v);
  _mm512_mask_storeu_pd(p, (__mmask8)bits, _mm512_maskz_expand_pd((__mmask8)bits, x));
}

// The first lanes of v in order to the lanes in use, 0 to the others; and back.
GATV2_INLINE VF expand(VF v, const HeadLanes& h) {
  return (VF)_mm512_maskz_expand_ps(h.mask, (__m512)v);
}
GATV2_INLINE VD expand(VD v, const HeadLanes& h) {
  return (VD)_mm512_maskz_expand_pd((__mmask8)h.mask, (__m512d)v);
}
GATV2_INLINE VF compress(VF v, const HeadLanes& h) {
  return (VF)_mm512_maskz_compress_ps(h.mask, (__m512)v);
}
GATV2_INLINE VD compress(VD v, const HeadLanes& h) {
  return (VD)_mm512_maskz_compress_pd((__mmask8)h.mask, (__m512d)v);
}

#else

// Fewer than four halves, as a word.
template <class H>
GATV2_INLINE uint64_t few_halves(const H* p, int count) {
  uint32_t two = 0;
  if (count & 2) memcpy(&two, p, sizeof two);
  return count & 1 ? two | (uint64_t)p[count & 2].bits << 16 * (count & 2) : two;
}

// The first `count` of four floats, count < 4.
template <class V>
GATV2_INLINE void store_few(float* p, V v, int count) {
  if (count & 2) memcpy(p, &v, 2 * sizeof *p);
  if (count == 1) p[0] = v[0];
  if (count == 3) p[2] = v[2];
}

constexpr bool kMasksAccess = false;
template <class A>
GATV2_INLINE void store_elements(A* p, unsigned bits, typename Simd<A>::V v, int from) {
  for (int i = 0; bits >> i; ++i)
    if (bits >> i & 1) p[i] = v[from++ % Simd<A>::W];
}

// Vectors of up to four lanes.
template <class V>
GATV2_INLINE V expand_lanes(V v, int run, int used) {
  constexpr int W = sizeof(V) / sizeof v[0];
  if constexpr (W == 4)
    if (run == 2 && used == 1) return pick(v, V{}, Sequence<0, 4, 1, 4>());
  V to{};
  for (int i = 0, k = 0; i < W; ++i)
    if ((i & (run - 1)) < used) to[i] = v[k++];
  return to;
}
template <class V>
GATV2_INLINE V compress_lanes(V v, int run, int used) {
  constexpr int W = sizeof(V) / sizeof v[0];
  if constexpr (W == 4)
    if (run == 2 && used == 1) return pick(v, V{}, Sequence<0, 2, 4, 4>());
  V to{};
  for (int i = 0, k = 0; i < W; ++i)
    if ((i & (run - 1)) < used) to[k++] = v[i];
  return to;
}

#if defined(__AVX2__)

struct LanesInUse {
  int count;
  __m256i mask;  // of lanes of 32 bits
  explicit LanesInUse(int n)
      : count(n),
        mask(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
  GATV2_INLINE __m256i wide_mask() const {
    return _mm256_cvtepi32_epi64(_mm256_castsi256_si128(mask));
  }
};

// Which lane each lane is, expanded and compressed, by run and lanes in use; -1: none.
struct LaneTables {
  int32_t expand[4][9][8] = {}, compress[4][9][8] = {};
  constexpr LaneTables() {
    for (int n = 0; n < 4; ++n)
      for (int used = 0; used <= 8; ++used) {
        int k = 0;
        for (int i = 0; i < 8; ++i) expand[n][used][i] = compress[n][used][i] = -1;
        for (int i = 0; i < 8; ++i)
          if ((i & ((1 << n) - 1)) < used) {
            expand[n][used][i] = k;
            compress[n][used][k++] = i;
          }
      }
  }
};
inline constexpr LaneTables kLaneTables;

struct HeadLanes {
  int run, used;
  const int32_t *expand_from, *compress_from;
  HeadLanes(int r, int u) : run(r), used(min_of(u, r)) {
    const int n = __builtin_ctz(min_of(run, 8));
    expand_from = kLaneTables.expand[n][min_of(used, 8)];
    compress_from = kLaneTables.compress[n][min_of(used, 8)];
  }
};

GATV2_INLINE VF load(const float* p, LanesInUse n) { return (VF)_mm256_maskload_ps(p, n.mask); }
GATV2_INLINE VD load(const double* p, LanesInUse n) {
  return (VD)_mm256_maskload_pd(p, n.wide_mask());
}
// By whole stores, which may overlap: on AMD a masked store takes as long as ten of them.
GATV2_INLINE void store(float* p, VF v, LanesInUse n) {
  if (n.count < 4) return store_few(p, _mm256_castps256_ps128((__m256)v), n.count);
  const __m256i lanes = _mm256_setr_epi32(-4, -3, -2, -1, 0, 1, 2, 3);
  const __m256i last = _mm256_add_epi32(lanes, _mm256_set1_epi32(n.count));
  _mm_storeu_ps(p, _mm256_castps256_ps128((__m256)v));
  _mm_storeu_ps(p + n.count - 4, _mm256_castps256_ps128(_mm256_permutevar8x32_ps((__m256)v, last)));
}
GATV2_INLINE void store(double* p, VD v, LanesInUse n) {
  if (n.count == 4) return store(p, v);
  if (n.count & 2) _mm_storeu_pd(p, _mm256_castpd256_pd128((__m256d)v));
  if (n.count == 1) p[0] = v[0];
  if (n.count == 3) p[2] = v[2];
}
// The last four halves beside the first.
template <class H>
GATV2_INLINE VF load_halves(const H* p, int count) {
  if (count == 8) return load_half(p);
  uint64_t first, last = 0;
  if (count < 4) {
    first = few_halves(p, count);
  } else {
    memcpy(&first, p, sizeof first);
    if (count > 4) memcpy(&last, p + count - 4, sizeof last);
    last = count > 4 ? last >> 16 * (8 - count) : 0;
  }
  return widen(_mm_set_epi64x((int64_t)last, (int64_t)first), (H*)0);
}

GATV2_INLINE VF permute_or_0(VF v, const int32_t* from) {
  const __m256i index = _mm256_loadu_si256((const __m256i*)from);
  const __m256 x = _mm256_permutevar8x32_ps((__m256)v, index);
  return (VF)_mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(index, 31)), x);
}
GATV2_INLINE VF expand(VF v, const HeadLanes& h) { return permute_or_0(v, h.expand_from); }
GATV2_INLINE VF compress(VF v, const HeadLanes& h) { return permute_or_0(v, h.compress_from); }
GATV2_INLINE VD expand(VD v, const HeadLanes& h) { return expand_lanes(v, h.run, h.used); }
GATV2_INLINE VD compress(VD v, const HeadLanes& h) { return compress_lanes(v, h.run, h.used); }

#else

struct LanesInUse {
  int count;
  explicit LanesInUse(int n) : count(n) {}
};

struct HeadLanes {
  int run, used;
  HeadLanes(int r, int u) : run(r), used(min_of(u, r)) {}
};

GATV2_INLINE VD load(const double* p, LanesInUse n) {
  if (n.count == 2) return load(p);
  VD v{};
  if (n.count == 1) v[0] = *p;
  return v;
}
GATV2_INLINE void store(double* p, VD v, LanesInUse n) {
  if (n.count == 2) return store(p, v);
  if (n.count == 1) *p = v[0];
}
GATV2_INLINE VF load(const float* p, LanesInUse n) {
  if (n.count == 4) return load(p);
  VF v{};
  if (n.count < 2) {
    if (n.count == 1) v[0] = *p;
    return v;
  }
  VD two{};
  memcpy(&two, p, sizeof two[0]);
  v = (VF)two;
  if (n.count == 3) v[2] = p[2];
  return v;
}
GATV2_INLINE void store(float* p, VF v, LanesInUse n) {
  if (n.count == 4) return store(p, v);
  store_few(p, v, n.count);
}
template <class H>
GATV2_INLINE VF load_halves(const H* p, int count) {
  if (count == 4) return load_half(p);
  const uint64_t bits = few_halves(p, count);
  Halves h;
  memcpy(&h, &bits, sizeof h);
  return widen(h, (H*)0);
}

template <class V>
GATV2_INLINE V expand(V v, const HeadLanes& h) {
  return expand_lanes(v, h.run, h.used);
}
template <class V>
GATV2_INLINE V compress(V v, const HeadLanes& h) {
  return compress_lanes(v, h.run, h.used);
}

#endif

GATV2_INLINE VF load(const bfloat16* p, LanesInUse n) { return load_halves(p, n.count); }
GATV2_INLINE VF load(const float16* p, LanesInUse n) { return load_halves(p, n.count); }
template <class H>
GATV2_INLINE void store(H* p, VF v, LanesInUse n) {
  constexpr int W = Simd<float>::W;
  if (n.count == W) return store(p, v);
  H all[W];
  store(all, v);
  const H* from = all;
  auto put = [&](int count) GATV2_LAMBDA_INLINE {
    memcpy(p, from, count * sizeof *p);
    p += count;
    from += count;
  };
  if (W > 4 && n.count & 4) put(4);
  if (n.count & 2) put(2);
  if (n.count & 1) put(1);
}

#endif

GATV2_END
