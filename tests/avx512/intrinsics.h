// The AVX-512 intrinsics that the kernels use, lane by lane, for processors without them: included
// before all else, so that a build for AVX2 takes the sources' way for AVX-512.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#error "this processor's own AVX-512 would be taken"
#endif
#define __AVX512F__ 1

// Calls: what a compiler makes of such loops where they stand takes it minutes.
#define GATV2_CALL __attribute__((noinline)) inline

namespace emulated {

template <class V>
constexpr int lanes_of = sizeof(V) / sizeof(V{}[0]);

typedef int32_t I32 __attribute__((vector_size(64)));
typedef uint32_t U32 __attribute__((vector_size(64)));
typedef int64_t I64 __attribute__((vector_size(64)));
typedef uint64_t U64 __attribute__((vector_size(64)));

// Lane k is of(k), in lanes that the mask leaves out `other`'s.
template <class V, class F>
GATV2_CALL V build(unsigned mask, V other, const F& of) {
  for (int k = 0; k < lanes_of<V>; ++k)
    if (mask >> k & 1) other[k] = of(k);
  return other;
}
template <class V, class E>
GATV2_CALL V repeat(E value) {
  return build(~0u, V{}, [=](int) { return value; });
}

GATV2_CALL __m512i setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j,
                              int k, int l, int m, int n, int o, int p) {
  return (__m512i)I32{a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
}
GATV2_CALL __m512i setr_epi64(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f,
                              int64_t g, int64_t h) {
  return (__m512i)I64{a, b, c, d, e, f, g, h};
}
GATV2_CALL __m512i add_epi32(__m512i a, __m512i b) { return (__m512i)((U32)a + (U32)b); }
GATV2_CALL __m512i add_epi64(__m512i a, __m512i b) { return (__m512i)((U64)a + (U64)b); }
GATV2_CALL __m512i maskz_slli_epi32(unsigned m, __m512i a, int bits) {
  return (__m512i)build(m, U32{}, [&](int k) { return ((U32)a)[k] << bits; });
}
GATV2_CALL __m512i maskz_mul_epu32(unsigned m, __m512i a, __m512i b) {
  return (__m512i)build(
      m, U64{}, [&](int k) { return (((U64)a)[k] & 0xFFFFFFFFu) * (((U64)b)[k] & 0xFFFFFFFFu); });
}

template <class V>
GATV2_CALL V fmadd(V a, V b, V c) {
  return build(~0u, V{}, [&](int k) {
    return sizeof a[0] == 4 ? __builtin_fmaf(a[k], b[k], c[k]) : __builtin_fma(a[k], b[k], c[k]);
  });
}
// The second where either is NaN.
template <class V>
GATV2_CALL V maskz_max(unsigned m, V a, V b) {
  return build(m, V{}, [&](int k) { return a[k] > b[k] ? a[k] : b[k]; });
}
template <class V>
GATV2_CALL V mask_add(V src, unsigned m, V a, V b) {
  return build(m, src, [&](int k) { return a[k] + b[k]; });
}
template <class V>
GATV2_CALL V mask_blend(unsigned m, V a, V b) {
  return build(m, a, [&](int k) { return b[k]; });
}
template <int predicate, class V>
GATV2_CALL unsigned cmp_mask(V a, V b) {
  static_assert(predicate == _CMP_GT_OQ, "the only comparison of the kernels");
  unsigned mask = 0;
  for (int k = 0; k < lanes_of<V>; ++k) mask |= (unsigned)(a[k] > b[k]) << k;
  return mask;
}

template <class V, class I>
GATV2_CALL V permutexvar(unsigned m, I index, V a) {
  return build(m, V{}, [&](int k) { return a[index[k] & (lanes_of<V> - 1)]; });
}
GATV2_CALL __m512 permutex2var(unsigned m, __m512 a, __m512i index, __m512 b) {
  return build(m, __m512{}, [&](int k) {
    const int from = ((I32)index)[k] & 31;
    return from < 16 ? a[from] : b[from - 16];
  });
}
template <class V>
GATV2_CALL V maskz_compress(unsigned m, V a) {
  V to{};
  for (int k = 0, at = 0; k < lanes_of<V>; ++k)
    if (m >> k & 1) to[at++] = a[k];
  return to;
}
template <class V>
GATV2_CALL V maskz_expand(unsigned m, V a) {
  int from = 0;
  return build(m, V{}, [&](int) { return a[from++]; });
}
template <class V, class S>
GATV2_CALL V broadcast(unsigned m, V other, S a) {
  return build(m, other, [&](int k) { return a[k % lanes_of<S>]; });
}
template <class V, class S>
GATV2_CALL V repeat_first(unsigned m, V other, S a) {
  return build(m, other, [&](int) { return a[0]; });
}

// What the mask leaves out is not touched.
template <class V, class E>
GATV2_CALL V maskz_load(unsigned m, const E* p) {
  return build(m, V{}, [&](int k) { return p[k]; });
}
template <class V, class E>
GATV2_CALL void mask_store(E* p, unsigned m, V v) {
  for (int k = 0; k < lanes_of<V>; ++k)
    if (m >> k & 1) p[k] = v[k];
}
template <class V>
GATV2_CALL void stream(void* p, V v) {
  if ((uintptr_t)p % sizeof v) __builtin_trap();
  memcpy(p, &v, sizeof v);
}
typedef uint16_t U16 __attribute__((vector_size(32)));
GATV2_CALL __m256i maskz_loadu_epi16(unsigned m, const void* p) {
  return (__m256i)maskz_load<U16>(m, (const uint16_t*)p);
}
GATV2_CALL void mask_storeu_epi16(void* p, unsigned m, __m256i v) {
  mask_store((uint16_t*)p, m, (U16)v);
}

GATV2_CALL __m256i maskz_cvtepi32_epi16(unsigned m, __m512i a) {
  return (__m256i)build(m, U16{}, [&](int k) { return (uint16_t)((U32)a)[k]; });
}
GATV2_CALL __m512i maskz_cvtepu16_epi32(unsigned m, __m256i a) {
  return (__m512i)build(m, U32{}, [&](int k) { return (uint32_t)((U16)a)[k]; });
}
GATV2_CALL __m512 maskz_cvtph_ps(unsigned m, __m256i a) {
  return build(m, __m512{}, [&](int k) { return _cvtsh_ss(((U16)a)[k]); });
}
template <int rounding>
GATV2_CALL __m256i maskz_cvtps_ph(unsigned m, __m512 a) {
  return (__m256i)build(m, U16{}, [&](int k) { return _cvtss_sh(a[k], rounding & 7); });
}

template <int half>
GATV2_CALL __m256 extract(unsigned m, __m512 a) {
  return build(m, __m256{}, [&](int k) { return a[k + half * 8]; });
}
GATV2_CALL __m512d maskz_cvtps_pd(unsigned m, __m256 a) {
  return build(m, __m512d{}, [&](int k) { return (double)a[k]; });
}

}  // namespace emulated

#define _mm512_setzero_ps() (__m512{})
#define _mm512_setzero_pd() (__m512d{})
#define _mm512_set1_ps emulated::repeat<__m512>
#define _mm512_set1_pd emulated::repeat<__m512d>
#define _mm512_set1_epi32(a) ((__m512i)emulated::repeat<emulated::I32>(a))
#define _mm512_set1_epi64(a) ((__m512i)emulated::repeat<emulated::I64>(a))
#undef _mm512_setr_epi32
#undef _mm512_setr_epi64
#define _mm512_setr_epi32 emulated::setr_epi32
#define _mm512_setr_epi64 emulated::setr_epi64
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_add_epi64 emulated::add_epi64
#define _mm512_maskz_slli_epi32 emulated::maskz_slli_epi32
#define _mm512_maskz_mul_epu32 emulated::maskz_mul_epu32
#define _mm512_fmadd_ps emulated::fmadd<__m512>
#define _mm512_fmadd_pd emulated::fmadd<__m512d>
#define _mm512_maskz_max_ps emulated::maskz_max<__m512>
#define _mm512_maskz_max_pd emulated::maskz_max<__m512d>
#define _mm512_mask_add_ps emulated::mask_add<__m512>
#define _mm512_mask_add_pd emulated::mask_add<__m512d>
#define _mm512_mask_blend_ps emulated::mask_blend<__m512>
#define _mm512_mask_blend_pd emulated::mask_blend<__m512d>
#undef _mm512_cmp_ps_mask
#undef _mm512_cmp_pd_mask
#define _mm512_cmp_ps_mask(a, b, predicate) emulated::cmp_mask<predicate>(a, b)
#define _mm512_cmp_pd_mask(a, b, predicate) emulated::cmp_mask<predicate>(a, b)
#define _mm512_maskz_permutexvar_ps(m, index, a) emulated::permutexvar(m, (emulated::I32)(index), a)
#define _mm512_maskz_permutexvar_pd(m, index, a) emulated::permutexvar(m, (emulated::I64)(index), a)
#define _mm512_maskz_permutex2var_ps emulated::permutex2var
#define _mm512_maskz_compress_ps emulated::maskz_compress<__m512>
#define _mm512_maskz_compress_pd emulated::maskz_compress<__m512d>
#define _mm512_maskz_expand_ps emulated::maskz_expand<__m512>
#define _mm512_maskz_expand_pd emulated::maskz_expand<__m512d>
#define _mm512_maskz_broadcast_f32x4(m, a) emulated::broadcast(m, __m512{}, a)
#define _mm512_maskz_broadcast_f64x4(m, a) emulated::broadcast(m, __m512d{}, a)
#define _mm512_maskz_broadcastsd_pd(m, a) emulated::repeat_first(m, __m512d{}, a)
#define _mm512_mask_broadcastss_ps(other, m, a) emulated::repeat_first(m, other, a)
#define _mm512_mask_broadcastsd_pd(other, m, a) emulated::repeat_first(m, other, a)
#define _mm512_maskz_loadu_ps emulated::maskz_load<__m512, float>
#define _mm512_maskz_loadu_pd emulated::maskz_load<__m512d, double>
#define _mm512_mask_storeu_ps emulated::mask_store<__m512, float>
#define _mm512_mask_storeu_pd emulated::mask_store<__m512d, double>
#define _mm512_stream_ps emulated::stream<__m512>
#define _mm512_stream_pd emulated::stream<__m512d>
#define _mm256_maskz_loadu_epi16 emulated::maskz_loadu_epi16
#define _mm256_mask_storeu_epi16 emulated::mask_storeu_epi16
#define _mm512_maskz_cvtepi32_epi16 emulated::maskz_cvtepi32_epi16
#define _mm512_maskz_cvtepu16_epi32 emulated::maskz_cvtepu16_epi32
#define _mm512_maskz_cvtph_ps emulated::maskz_cvtph_ps
#undef _mm512_maskz_cvtps_ph
#define _mm512_maskz_cvtps_ph(m, a, rounding) emulated::maskz_cvtps_ph<rounding>(m, a)
#undef _mm512_maskz_extractf32x8_ps
#define _mm512_maskz_extractf32x8_ps(m, a, half) emulated::extract<half>(m, a)
#define _mm512_maskz_cvtps_pd emulated::maskz_cvtps_pd
