// Scratch memory.
#pragma once

#include <stdlib.h>

#include "pages.h"
#include "simd/simd.h"

GATV2_BEGIN

constexpr size_t kAlignment = 128;
// Results of so many bytes are stored past the caches.
constexpr int64_t kPastCaches = (int64_t)8 << 20;
// Rows of so many bytes stay in a core's second cache while they are gathered.
constexpr int64_t kInCaches = (int64_t)2 << 20;

// Aligned, uninitialised memory. `get` is null when the allocation failed.
class Buffer {
 public:
  explicit Buffer(size_t bytes) {
    if (posix_memalign(&memory_, kAlignment, bytes + kAlignment) != 0) memory_ = nullptr;
  }
  ~Buffer() { free(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  template <class A>
  A* get() const {
    return static_cast<A*>(memory_);
  }
  explicit operator bool() const { return memory_ != nullptr; }

 private:
  void* memory_ = nullptr;
};

// A buffer that is kept for the next call if it is not large: pages the system hands out anew cost
// more than what is written to them. One is kept for each use; calls at the same time have their
// own.
class Scratch {
 public:
  static constexpr size_t kMost = (size_t)16 << 20;
  enum Use { kCopies, kRecords, kMasks, kWideSums, kBiases, kBiasGradients, kUses };

  Scratch(Use use, size_t bytes) : kept_(&kept_blocks_[use]), ok_(bytes == 0) {
    if (ok_) return;
    block_ = __atomic_exchange_n(kept_, nullptr, __ATOMIC_ACQ_REL);
    ok_ = true;
    if (block_ && size() >= bytes) return;
    free(block_);
    void* memory = nullptr;
    // Vectors are read past the end, as of a Buffer.
    block_ = posix_memalign(&memory, kAlignment, bytes + 2 * kAlignment) == 0
                 ? static_cast<char*>(memory)
                 : nullptr;
    ok_ = block_ != nullptr;
    if (ok_) memcpy(block_, &bytes, sizeof bytes);
  }
  ~Scratch() {
    if (block_ && size() <= kMost) block_ = __atomic_exchange_n(kept_, block_, __ATOMIC_ACQ_REL);
    free(block_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ok() const { return ok_; }
  // Null when the allocation failed, or nothing was asked for.
  template <class A>
  A* get() const {
    return block_ ? reinterpret_cast<A*>(block_ + kAlignment) : nullptr;
  }

 private:
  size_t size() const {
    size_t bytes;
    memcpy(&bytes, block_, sizeof bytes);
    return bytes;
  }
  inline static char* kept_blocks_[kUses] = {};
  char** const kept_;
  bool ok_;
  char* block_ = nullptr;  // its size, then the memory
};

GATV2_END
