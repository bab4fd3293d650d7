// A 64-bit hash of integers, at memory speed.
//
// Each step h -> rotate((h ^ value) * odd) is a bijection of h and of value, in the lanes of a
// chunk, in the chunks of a part, in the parts: another value in one place always gives another
// hash. Chunks are cut by position alone, so threads do not matter.
#include "ranges.h"
#include "structure.h"

namespace gatv2 {
namespace {

constexpr uint64_t kOdd = 0x9E3779B97F4A7C15u, kOtherOdd = 0xC2B2AE3D27D4EB4Fu;
constexpr int kLanes = 8;  // as many products in flight
constexpr int64_t kChunk = 1 << 14;

inline uint64_t step(uint64_t h, uint64_t value, uint64_t odd) {
  const uint64_t product = (h ^ value) * odd;
  return product << 29 | product >> 35;
}

template <class I>
uint64_t hash_chunk(const I* p, int64_t n, int64_t stride) {
  uint64_t lane[kLanes];
  for (int k = 0; k < kLanes; ++k) lane[k] = (k + 1) * kOtherOdd;
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kLanes <= n; i += kLanes)
#pragma GCC unroll 8
      for (int k = 0; k < kLanes; ++k) lane[k] = step(lane[k], (uint64_t)(int64_t)p[i + k], kOdd);
  }
  for (; i < n; ++i)
    lane[i % kLanes] = step(lane[i % kLanes], (uint64_t)(int64_t)p[i * stride], kOdd);
  uint64_t h = (uint64_t)n;
  for (int k = 0; k < kLanes; ++k) h = step(h, lane[k], kOtherOdd);
  return h;
}

uint64_t hash_chunk(const HashPart& part, int64_t chunk) {
  const int64_t begin = chunk * kChunk, n = smaller(kChunk, part.size - begin);
  auto of = [&](auto* p) { return hash_chunk(p + begin * part.stride, n, part.stride); };
  switch (part.bytes) {
    case 8: return of(static_cast<const int64_t*>(part.data));
    case 4: return of(static_cast<const int32_t*>(part.data));
    case 2: return of(static_cast<const int16_t*>(part.data));
    default:
      return part.is_signed ? of(static_cast<const int8_t*>(part.data))
                            : of(static_cast<const uint8_t*>(part.data));
  }
}

}  // namespace

int64_t content_hash(const HashPart* parts, int64_t count, int64_t threads, uint64_t& hash) {
  uint64_t h = kOdd;
  for (int64_t k = 0; k < count; ++k) {
    const HashPart& part = parts[k];
    const int64_t chunks = (part.size + kChunk - 1) / kChunk;
    h = step(h, (uint64_t)part.size, kOtherOdd);
    if (chunks <= 1 || threads <= 1) {
      for (int64_t c = 0; c < chunks; ++c) h = step(h, hash_chunk(part, c), kOtherOdd);
      continue;
    }
    uint64_t* const of_chunk = static_cast<uint64_t*>(malloc(sizeof(uint64_t) * (size_t)chunks));
    Free hold{of_chunk};
    if (!of_chunk) return kOutOfMemory;
    const int64_t ranges = smaller(smaller(threads, 64), chunks);
    for_ranges(ranges, [&](int64_t range) {
      for (int64_t c = chunks * range / ranges; c < chunks * (range + 1) / ranges; ++c)
        of_chunk[c] = hash_chunk(part, c);
    });
    for (int64_t c = 0; c < chunks; ++c) h = step(h, of_chunk[c], kOtherOdd);
  }
  h ^= h >> 32;
  h *= kOdd;
  h ^= h >> 29;
  hash = h;
  return kOk;
}

}  // namespace gatv2
