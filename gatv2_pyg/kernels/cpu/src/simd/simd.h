// Vectors of one instruction set, written with the compilers' vector extensions; intrinsics only
// where those have no word for it (partial loads, half precision, fused multiply-add).
//
// This header and all it includes is compiled once per instruction set. Everything lives in a
// namespace named after the set and nothing here instantiates std:: templates: an inline function
// shared between the builds would let the linker keep the copy an older machine cannot run.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifndef GATV2_ISA
#error "GATV2_ISA names the namespace of this build"
#endif

#define GATV2_BEGIN \
  namespace gatv2 { \
  namespace GATV2_ISA {
#define GATV2_END \
  }               \
  }
#define GATV2_INLINE inline __attribute__((always_inline))
// Loops over the vectors of a segment must be unrolled for those to be registers.
#define GATV2_UNROLL _Pragma("GCC unroll 16")
#define GATV2_NOINLINE __attribute__((noinline))
#define GATV2_LAMBDA_INLINE __attribute__((always_inline))

GATV2_BEGIN

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
// Thirty-two vectors and not sixteen: room for what a micro-kernel would else load again.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

using float32 = float;
using float64 = double;
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

template <class A>
struct Simd;
template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(kVectorBytes)));
  typedef int32_t I __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Int;
  static constexpr int W = kVectorBytes / 4;
};
template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(kVectorBytes)));
  typedef int64_t I __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Int;
  static constexpr int W = kVectorBytes / 8;
};
using VF = Simd<float>::V;
using VD = Simd<double>::V;

// What a tensor of T accumulates in.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Acc = typename AccumulatorOf<T>::type;

template <int N>
struct Int {
  static constexpr int value = N;
};
template <int... I>
struct Sequence {};
template <int N, int... I>
struct MakeSequence : MakeSequence<N - 1, N - 1, I...> {};
template <int... I>
struct MakeSequence<0, I...> {
  using type = Sequence<I...>;
};

template <class A>
GATV2_INLINE constexpr A min_of(A a, A b) {
  return b < a ? b : a;
}
template <class A>
GATV2_INLINE constexpr A max_of(A a, A b) {
  return a < b ? b : a;
}

// ---- arithmetic

template <class V, class A>
GATV2_INLINE V broadcast(A a) {
  return a - V{};
}

// max_of is b where one of the two is NaN.
#if defined(__AVX512F__)
GATV2_INLINE VF fma(VF a, VF b, VF c) {
  return (VF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
GATV2_INLINE VD fma(VD a, VD b, VD c) {
  return (VD)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
GATV2_INLINE VF max_of(VF a, VF b) { return (VF)_mm512_maskz_max_ps(0xFFFF, (__m512)a, (__m512)b); }
GATV2_INLINE VD max_of(VD a, VD b) { return (VD)_mm512_maskz_max_pd(0xFF, (__m512d)a, (__m512d)b); }
#elif defined(__AVX2__)
GATV2_INLINE VF fma(VF a, VF b, VF c) {
  return (VF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
GATV2_INLINE VD fma(VD a, VD b, VD c) {
  return (VD)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
GATV2_INLINE VF max_of(VF a, VF b) { return (VF)_mm256_max_ps((__m256)a, (__m256)b); }
GATV2_INLINE VD max_of(VD a, VD b) { return (VD)_mm256_max_pd((__m256d)a, (__m256d)b); }
#else
#if defined(__ARM_NEON) && defined(__aarch64__)
GATV2_INLINE VF fma(VF a, VF b, VF c) {
  return (VF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
GATV2_INLINE VD fma(VD a, VD b, VD c) {
  return (VD)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#else
template <class V>
GATV2_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}
#endif
GATV2_INLINE VF max_of(VF a, VF b) { return a > b ? a : b; }
GATV2_INLINE VD max_of(VD a, VD b) { return a > b ? a : b; }
#endif

constexpr int kWordLanes = kVectorBytes / 8;
typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));

// low half of a * m, all 64 bits of it
GATV2_INLINE Words multiply_low_halves(Words a, uint32_t m) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(__SSE2__)
  return (Words)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#else
  return (a & 0xFFFFFFFFu) * (uint64_t)m;
#endif
}

// exp(x) for x up to 80; 0 below the normal range; NaN stays NaN. About 1 ulp:
// x = n ln 2 + r with |r| <= ln 2 / 2. exp(r) is a minimax polynomial (float) or the Taylor series
// (double), both to a tenth of an ulp. The number added to round to an integer holds the bias of
// the exponent too, and at the lower bound of x the exponent's bits are those of 0.
GATV2_INLINE VF exp(VF x) {
  const VF c = max_of(broadcast<VF>(-88.0f), x);
  const VF magic = broadcast<VF>(12582912.0f + 127.0f);  // 1.5 * 2^23 + bias
  const VF t = fma(c, broadcast<VF>(1.44269504088896341f), magic);
  const VF n = t - magic;
  VF r = fma(n, broadcast<VF>(-0.693145751953125f), c);
  r = fma(n, broadcast<VF>(-1.42860682030941723e-6f), r);
  VF q = broadcast<VF>(0x1.6a234ap-10f);
  q = fma(q, r, broadcast<VF>(0x1.123a6cp-7f));
  q = fma(q, r, broadcast<VF>(0x1.5558f4p-5f));
  q = fma(q, r, broadcast<VF>(0x1.55549p-3f));
  q = fma(q, r, broadcast<VF>(0x1.fffffcp-2f));
  const VF y = fma(r * r, q, r) + 1.0f;
  return y * (VF)((Simd<float>::I)t << 23);
}

GATV2_INLINE VD exp(VD x) {
  const VD c = max_of(broadcast<VD>(-709.0), x);
  const VD magic = broadcast<VD>(6755399441055744.0 + 1023.0);  // 1.5 * 2^52 + bias
  const VD t = fma(c, broadcast<VD>(1.44269504088896340736), magic);
  const VD n = t - magic;
  VD r = fma(n, broadcast<VD>(-0.693147180369123816490), c);
  r = fma(n, broadcast<VD>(-1.90821492927058770002e-10), r);
  VD q = broadcast<VD>(1.0 / 6227020800.0);
  q = fma(q, r, broadcast<VD>(1.0 / 479001600.0));
  q = fma(q, r, broadcast<VD>(1.0 / 39916800.0));
  q = fma(q, r, broadcast<VD>(1.0 / 3628800.0));
  q = fma(q, r, broadcast<VD>(1.0 / 362880.0));
  q = fma(q, r, broadcast<VD>(1.0 / 40320.0));
  q = fma(q, r, broadcast<VD>(1.0 / 5040.0));
  q = fma(q, r, broadcast<VD>(1.0 / 720.0));
  q = fma(q, r, broadcast<VD>(1.0 / 120.0));
  q = fma(q, r, broadcast<VD>(1.0 / 24.0));
  q = fma(q, r, broadcast<VD>(1.0 / 6.0));
  q = fma(q, r, broadcast<VD>(0.5));
  const VD y = fma(r * r, q, r) + 1.0;
  return y * (VD)((Simd<double>::I)t << 52);
}

// log(x) for normal x > 0 (a softmax denominator): x = 2^e m with m in [sqrt(1/2), sqrt(2)),
// log m = 2 atanh((m - 1) / (m + 1)).
template <class A>
GATV2_INLINE typename Simd<A>::V log(typename Simd<A>::V x) {
  using V = typename Simd<A>::V;
  using I = typename Simd<A>::I;
  constexpr bool single = sizeof(A) == 4;
  constexpr int mantissa = single ? 23 : 52;
  // Without the sign, which NaN may have.
  const I bits = (I)x & (typename Simd<A>::Int)(single ? __INT32_MAX__ : __INT64_MAX__);
  const typename Simd<A>::Int half = single ? 0x3F3504F3LL : 0x3FE6A09E667F3BCDLL;
  const I shifted = bits - half;
  const I e = shifted >> mantissa;
  const V m = (V)(bits - (e << mantissa));
  const V f = (m - (A)1) / (m + (A)1);
  const V f2 = f * f;
  constexpr int terms = single ? 6 : 12;
  V q = broadcast<V>((A)1 / (2 * terms + 1));
  for (int k = terms - 1; k >= 1; --k) q = fma(q, f2, broadcast<V>((A)1 / (2 * k + 1)));
  const V n = __builtin_convertvector(e, V);
  const V lo =
      fma(f * f2, q * (A)2, n * (A)(single ? 1.42860682030941723e-6 : 1.90821492927058770002e-10));
  return fma(n, broadcast<V>((A)(single ? 0.693145751953125 : 0.693147180369123816490)),
             f * (A)2 + lo);
}

// ---- half precision

GATV2_INLINE float to_float(bfloat16 x) {
  const uint32_t u = (uint32_t)x.bits << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
GATV2_INLINE float to_float(float16 x) {
  // The exponent of a half is re-biased by a multiplication, which also normalises subnormals.
  const uint32_t magnitude = (uint32_t)(x.bits & 0x7FFF) << 13;
  float f;
  memcpy(&f, &magnitude, 4);
  f *= 0x1p112f;
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((x.bits & 0x7C00) == 0x7C00) u = magnitude | 0x7F800000;
  u |= (uint32_t)(x.bits & 0x8000) << 16;
  memcpy(&f, &u, 4);
  return f;
}
GATV2_INLINE float to_float(float x) { return x; }
GATV2_INLINE double to_float(double x) { return x; }

GATV2_INLINE void from_float(float x, bfloat16& y) {
  uint32_t u;
  memcpy(&u, &x, 4);
  y.bits = x != x ? 0x7FC0 : (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}
GATV2_INLINE void from_float(float x, float16& y) {
  uint32_t u;
  memcpy(&u, &x, 4);
  const uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
  u &= 0x7FFFFFFF;
  if (u > 0x7F800000) {
    y.bits = sign | 0x7E00;
    return;
  }
  if (u >= 0x477FF000) {
    y.bits = sign | 0x7C00;
    return;
  }
  if (u < 0x38800000) {
    // A sum with 1/2 rounds a subnormal half to its last bit.
    float f;
    memcpy(&f, &u, 4);
    f += 0.5f;
    memcpy(&u, &f, 4);
    y.bits = (uint16_t)(sign | (u - 0x3F000000));
    return;
  }
  u += 0xC8000FFF + ((u >> 13) & 1);
  y.bits = (uint16_t)(sign | (u >> 13));
}
GATV2_INLINE void from_float(float x, float& y) { y = x; }
GATV2_INLINE void from_float(double x, double& y) { y = x; }

// ---- memory

template <class T>
using VecOf = typename Simd<Acc<T>>::V;

GATV2_INLINE VF load(const float* p) {
  VF v;
  memcpy(&v, p, sizeof v);
  return v;
}
GATV2_INLINE VD load(const double* p) {
  VD v;
  memcpy(&v, p, sizeof v);
  return v;
}
GATV2_INLINE void store(float* p, VF v) { memcpy(p, &v, sizeof v); }
GATV2_INLINE void store(double* p, VD v) { memcpy(p, &v, sizeof v); }

// to[i] += v[i], in double.
GATV2_INLINE void add_doubles(double* to, VD v) { store(to, load(to) + v); }
#if defined(__SSE2__)
// Half of the lanes, the first (half = 0) or the last. Compilers convert whole vectors by memory.
template <int half>
GATV2_INLINE VD doubles_of(VF v) {
#if defined(__AVX512F__)
  return (VD)_mm512_maskz_cvtps_pd(0xFF, _mm512_maskz_extractf32x8_ps(0xFF, (__m512)v, half));
#elif defined(__AVX2__)
  return (VD)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, half));
#else
  return (VD)_mm_cvtps_pd(half ? _mm_movehl_ps((__m128)v, (__m128)v) : (__m128)v);
#endif
}
GATV2_INLINE void add_doubles(double* to, VF v) {
  add_doubles(to, doubles_of<0>(v));
  add_doubles(to + Simd<double>::W, doubles_of<1>(v));
}
#else
GATV2_INLINE void add_doubles(double* to, VF v) {
  typedef double Wide __attribute__((vector_size(2 * kVectorBytes)));
  Wide sum;
  memcpy(&sum, to, sizeof sum);
  sum += __builtin_convertvector(v, Wide);
  memcpy(to, &sum, sizeof sum);
}
#endif

#if defined(__AVX512F__)
GATV2_INLINE VF widen(__m256i h, bfloat16*) {
  return (VF)_mm512_maskz_slli_epi32(0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, h), 16);
}
GATV2_INLINE VF widen(__m256i h, float16*) { return (VF)_mm512_maskz_cvtph_ps(0xFFFF, h); }
template <class H>
GATV2_INLINE VF load_half(const H* p) {
  return widen(_mm256_loadu_si256((const __m256i*)p), (H*)0);
}
GATV2_INLINE __m256i narrow(VF v, bfloat16*) {
  typedef uint32_t U __attribute__((vector_size(64)));
  const U u = (U)v;
  const U rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  return _mm512_maskz_cvtepi32_epi16(0xFFFF, (__m512i)(v == v ? rounded : U{} + 0x7FC0));
}
// The zero-masked forms are the plain ones; their headers draw no warning.
GATV2_INLINE __m256i narrow(VF v, float16*) {
  return _mm512_maskz_cvtps_ph(0xFFFF, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
template <class H>
GATV2_INLINE void store_half(H* p, VF v) {
  _mm256_storeu_si256((__m256i*)p, narrow(v, (H*)0));
}

#elif defined(__AVX2__)
GATV2_INLINE VF widen(__m128i h, bfloat16*) {
  return (VF)_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
}
GATV2_INLINE VF widen(__m128i h, float16*) { return (VF)_mm256_cvtph_ps(h); }
template <class H>
GATV2_INLINE VF load_half(const H* p) {
  return widen(_mm_loadu_si128((const __m128i*)p), (H*)0);
}
GATV2_INLINE __m128i narrow(VF v, bfloat16*) {
  typedef uint32_t U __attribute__((vector_size(32)));
  const U u = (U)v;
  const U rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  const __m256i bits = (__m256i)(v == v ? rounded : U{} + 0x7FC0);
  return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}
GATV2_INLINE __m128i narrow(VF v, float16*) {
  return _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
template <class H>
GATV2_INLINE void store_half(H* p, VF v) {
  _mm_storeu_si128((__m128i*)p, narrow(v, (H*)0));
}
#else
typedef uint16_t Halves __attribute__((vector_size(8)));
typedef uint32_t Bits __attribute__((vector_size(16)));
GATV2_INLINE VF widen(Halves h, bfloat16*) { return (VF)(__builtin_convertvector(h, Bits) << 16); }
GATV2_INLINE Halves narrow(VF v, bfloat16*) {
  const Bits u = (Bits)v;
  const Bits rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? rounded : Bits{} + 0x7FC0, Halves);
}
#if defined(__aarch64__)
GATV2_INLINE VF widen(Halves h, float16*) { return (VF)vcvt_f32_f16((float16x4_t)h); }
GATV2_INLINE Halves narrow(VF v, float16*) { return (Halves)vcvt_f16_f32((float32x4_t)v); }
#else
// As to_float and from_float do it.
GATV2_INLINE VF widen(Halves h, float16*) {
  const Bits bits = __builtin_convertvector(h, Bits), magnitude = (bits & 0x7FFF) << 13;
  const Bits finite = (Bits)((VF)magnitude * 0x1p112f);
  const Bits u = (bits & 0x7C00) == 0x7C00 ? magnitude | 0x7F800000 : finite;
  return (VF)(u | (bits & 0x8000) << 16);
}
GATV2_INLINE Halves narrow(VF v, float16*) {
  const Bits sign = ((Bits)v >> 16) & 0x8000, u = (Bits)v & 0x7FFFFFFF;
  const Bits normal = (u + 0xC8000FFF + ((u >> 13) & 1)) >> 13;
  const Bits subnormal = (Bits)((VF)u + 0.5f) - 0x3F000000;
  // Compared as signed numbers, which these are too.
  typedef int32_t Signed __attribute__((vector_size(16)));
  const Signed size = (Signed)u;
  Bits to = size < 0x38800000 ? subnormal : normal;
  to = size >= 0x477FF000 ? Bits{} + 0x7C00 : to;
  to = size > 0x7F800000 ? Bits{} + 0x7E00 : to;
  return __builtin_convertvector(sign | to, Halves);
}
#endif
template <class H>
GATV2_INLINE VF load_half(const H* p) {
  Halves h;
  memcpy(&h, p, sizeof h);
  return widen(h, (H*)0);
}
template <class H>
GATV2_INLINE void store_half(H* p, VF v) {
  const Halves h = narrow(v, (H*)0);
  memcpy(p, &h, sizeof h);
}
#endif

GATV2_INLINE VF load(const bfloat16* p) { return load_half(p); }
GATV2_INLINE VF load(const float16* p) { return load_half(p); }
GATV2_INLINE void store(bfloat16* p, VF v) { store_half(p, v); }
GATV2_INLINE void store(float16* p, VF v) { store_half(p, v); }

// Stores that go past the caches, to aligned memory: for results that do not fit them. Other
// threads see them once fence_stores was called.
template <class T, class V>
GATV2_INLINE void store_past_caches(T* p, V v) {
  store(p, v);
}
#if defined(__AVX512F__)
GATV2_INLINE void store_past_caches(float* p, VF v) { _mm512_stream_ps(p, (__m512)v); }
GATV2_INLINE void store_past_caches(double* p, VD v) { _mm512_stream_pd(p, (__m512d)v); }
#elif defined(__AVX2__)
GATV2_INLINE void store_past_caches(float* p, VF v) { _mm256_stream_ps(p, (__m256)v); }
GATV2_INLINE void store_past_caches(double* p, VD v) { _mm256_stream_pd(p, (__m256d)v); }
#elif defined(__SSE2__)
GATV2_INLINE void store_past_caches(float* p, VF v) { _mm_stream_ps(p, (__m128)v); }
GATV2_INLINE void store_past_caches(double* p, VD v) { _mm_stream_pd(p, (__m128d)v); }
#endif
GATV2_INLINE void fence_stores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Lanes of `below` where z has its sign set, else of `above`; where that takes no comparison.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool kBlendsBySign = true;
GATV2_INLINE VF by_sign(VF z, VF above, VF below) {
  return (VF)_mm256_blendv_ps((__m256)above, (__m256)below, (__m256)z);
}
GATV2_INLINE VD by_sign(VD z, VD above, VD below) {
  return (VD)_mm256_blendv_pd((__m256d)above, (__m256d)below, (__m256d)z);
}
#else
constexpr bool kBlendsBySign = false;
#endif

// Which lanes of a vector are above 0, kept as a bit each: kMaskBytes for a vector. Of the last up
// to kMaskRoom bytes more are read.
constexpr int kMaskRoom = 3;
template <class A>
constexpr int kMaskBytes = Simd<A>::W >= 8 ? Simd<A>::W / 8 : 1;
#if defined(__AVX512F__)
GATV2_INLINE __mmask16 above_zero(VF v) {
  return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
}
GATV2_INLINE __mmask8 above_zero(VD v) {
  return _mm512_cmp_pd_mask((__m512d)v, _mm512_setzero_pd(), _CMP_GT_OQ);
}
GATV2_INLINE VF select(__mmask16 m, VF a, VF b) {
  return (VF)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a);
}
GATV2_INLINE VD select(__mmask8 m, VD a, VD b) {
  return (VD)_mm512_mask_blend_pd(m, (__m512d)b, (__m512d)a);
}
template <class M>
GATV2_INLINE bool any_lane(M m) {
  return m != 0;
}
template <class M>
GATV2_INLINE void store_mask(uint8_t* p, M m) {
  memcpy(p, &m, sizeof m);
}
// a where the bit of a lane is set, else b.
template <class A>
GATV2_INLINE typename Simd<A>::V select_stored(const uint8_t* bits, typename Simd<A>::V a,
                                               typename Simd<A>::V b) {
  decltype(above_zero(a)) m;
  memcpy(&m, bits, sizeof m);
  return select(m, a, b);
}
#else
template <class V>
GATV2_INLINE auto above_zero(V v) {
  return v > V{};
}
template <class M, class V>
GATV2_INLINE V select(M m, V a, V b) {
  return m ? a : b;
}
// The sign of each lane. Compilers differ in the type of a comparison, but not in its lanes.
template <class M>
GATV2_INLINE int lane_bits(M m) {
#if defined(__AVX2__)
  if constexpr (sizeof m[0] == 4)
    return _mm256_movemask_ps((__m256)m);
  else
    return _mm256_movemask_pd((__m256d)m);
#elif defined(__SSE2__)
  if constexpr (sizeof m[0] == 4)
    return _mm_movemask_ps((__m128)m);
  else
    return _mm_movemask_pd((__m128d)m);
#elif defined(__aarch64__)
  if constexpr (sizeof m[0] == 4)
    return vaddvq_s32(vandq_s32((int32x4_t)m, int32x4_t{1, 2, 4, 8}));
  else
    return (int)vaddvq_s64(vandq_s64((int64x2_t)m, int64x2_t{1, 2}));
#else
  int bits = 0;
  for (int i = 0; i < (int)(sizeof m / sizeof m[0]); ++i) bits |= (int)(m[i] & 1) << i;
  return bits;
#endif
}
template <class M>
GATV2_INLINE bool any_lane(M m) {
  return lane_bits(m) != 0;
}
template <class M>
GATV2_INLINE void store_mask(uint8_t* p, M m) {
  *p = (uint8_t)lane_bits(m);
}
#if defined(__AVX2__)
// Each lane's bit becomes its sign, by which a blend goes.
template <class A>
GATV2_INLINE typename Simd<A>::V select_stored(const uint8_t* bits, typename Simd<A>::V a,
                                               typename Simd<A>::V b) {
  int32_t word;
  memcpy(&word, bits, sizeof word);
  const __m256i words = _mm256_set1_epi32(word);
  if constexpr (sizeof(A) == 4) {
    const __m256i signs =
        _mm256_sllv_epi32(words, _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
    return (VF)_mm256_blendv_ps((__m256)b, (__m256)a, _mm256_castsi256_ps(signs));
  } else {
    const __m256i signs = _mm256_sllv_epi32(words, _mm256_setr_epi32(0, 31, 0, 30, 0, 29, 0, 28));
    return (VD)_mm256_blendv_pd((__m256d)b, (__m256d)a, _mm256_castsi256_pd(signs));
  }
}
#else
template <class A, int... I>
GATV2_INLINE typename Simd<A>::V select_stored(const uint8_t* bits, typename Simd<A>::V a,
                                               typename Simd<A>::V b, Sequence<I...>) {
  using M = typename Simd<A>::I;
  return select(((M{} + (typename Simd<A>::Int) * bits) & M{(1 << I)...}) != M{}, a, b);
}
template <class A>
GATV2_INLINE typename Simd<A>::V select_stored(const uint8_t* bits, typename Simd<A>::V a,
                                               typename Simd<A>::V b) {
  return select_stored<A>(bits, a, b, typename MakeSequence<Simd<A>::W>::type());
}
#endif
#endif

// The same address, as one register: else each constant offset from two of them gets its own.
template <class P>
GATV2_INLINE P* one_address(P* p) {
  asm("" : "+r"(p));
  return p;
}

// Into the second level: a miss of the first holds one of its few buffers, and the rows of a tile
// and of the next do not all fit there.
GATV2_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

GATV2_END
