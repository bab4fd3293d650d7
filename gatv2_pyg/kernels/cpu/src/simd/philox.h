// Philox 4x32-10 (Salmon et al., 2011) in 64-bit lanes: a lane holds a 32-bit word in its low half,
// what is above it is never read, so a product needs no splitting into even and odd lanes.
#pragma once

#include "simd/simd.h"

GATV2_BEGIN

// Ten rounds over one counter per lane; the four words of a lane end in c[0..3], low halves.
GATV2_INLINE void philox(Words c[4], uint64_t key) {
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const Words p0 = multiply_low_halves(c[0], 0xD2511F53u);
    const Words p1 = multiply_low_halves(c[2], 0xCD9E8D57u);
    c[0] = (p1 >> 32) ^ c[1] ^ (uint64_t)k0;
    c[1] = p1;
    c[2] = (p0 >> 32) ^ c[3] ^ (uint64_t)k1;
    c[3] = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// keep_e of (3): 1 / (1 - p) for a kept attention coefficient, 0 for a dropped one.
template <class A>
struct Dropout {
  uint64_t key = 0;
  uint32_t threshold = 0;
  A scale = 1;
  bool active = false;
  uint32_t element = 0;  // of a batch

  Dropout(double p, int64_t seed, int64_t of_batch = 0)
      : key((uint64_t)seed), active(p > 0), element((uint32_t)of_batch) {
    const double t = p * 4294967296.0;
    threshold = t >= 4294967295.0 ? 0xFFFFFFFFu : (uint32_t)t;
    scale = p >= 1 ? (A)0 : (A)(1 / (1 - p));
  }

  // keep[e * stride + h] for edges e < n, heads h < heads. Reads ids up to a multiple of
  // kWordLanes.
  void fill(A* keep, int n, int heads, int stride, const int64_t* ids) const {
    for (int e0 = 0; e0 < n; e0 += kWordLanes) {
      Words id;
      memcpy(&id, ids + e0, sizeof id);
      const int edges = min_of(kWordLanes, n - e0);
      for (int h = 0; h < heads; h += 4) {
        Words c[4] = {id, id >> 32, Words{} + (uint64_t)(h / 4), Words{} + (uint64_t)element};
        philox(c, key);
        put(keep + (int64_t)e0 * stride + h, stride, edges, min_of(4, heads - h), c);
      }
    }
  }

 private:
  // Words 0 and 1 of an edge lie side by side in pairs[0], words 2 and 3 in pairs[1].
  GATV2_INLINE void put(A* row, int stride, int edges, int words, const Words c[4]) const {
    typedef uint32_t Halves __attribute__((vector_size(kVectorBytes)));
    alignas(kVectorBytes) A pairs[2][2 * kWordLanes];
    for (int k = 0; k < 2; ++k) {
      const Halves bits = (Halves)((c[2 * k] & 0xFFFFFFFFu) | (c[2 * k + 1] << 32));
      if constexpr (sizeof(A) == 4) {
        store(pairs[k], bits >= threshold ? broadcast<VF>(scale) : VF{});
      } else {
        for (int i = 0; i < 2 * kWordLanes; ++i) pairs[k][i] = bits[i] >= threshold ? scale : (A)0;
      }
    }
    if (words == 4) {
      for (int e = 0; e < edges; ++e, row += stride) {
        memcpy(row, pairs[0] + 2 * e, 2 * sizeof(A));
        memcpy(row + 2, pairs[1] + 2 * e, 2 * sizeof(A));
      }
    } else {
      for (int e = 0; e < edges; ++e, row += stride)
        for (int w = 0; w < words; ++w) row[w] = pairs[w / 2][2 * e + w % 2];
    }
  }
};

GATV2_INLINE void philox_words(uint32_t* words) {
  Words c[4];
  for (int i = 0; i < 4; ++i) c[i] = Words{} + (uint64_t)words[i];
  philox(c, words[4] | (uint64_t)words[5] << 32);
  for (int i = 0; i < 4; ++i) words[i] = (uint32_t)c[i][kWordLanes - 1];
}

GATV2_END
