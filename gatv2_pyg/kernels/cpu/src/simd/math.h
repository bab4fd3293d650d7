// exp and log of vectors.
#pragma once

#include "simd/vector.h"

GATV2_BEGIN

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

GATV2_END
