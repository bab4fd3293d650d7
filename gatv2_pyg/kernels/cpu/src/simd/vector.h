// Vectors of float and double: their arithmetic, and whole loads and stores. Written, as all of
// simd/, with the compilers' vector extensions; intrinsics only where those have no word for it.
//
// All that includes this header is compiled once per instruction set. It lives in a namespace named
// after the set and instantiates no std:: templates: an inline function shared between the builds
// would let the linker keep the copy an older machine cannot run.
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
