// Pages under memory that was just allocated.
#pragma once

#include <stddef.h>
#include <stdint.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gatv2 {

// Asks for huge pages under a large result before it is written: a page fault for each 4 KiB costs
// more than what is written there.
inline void prefer_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__)
  const uintptr_t page = (uintptr_t)2 << 20;
  const uintptr_t begin = ((uintptr_t)memory + page - 1) / page * page,
                  end = ((uintptr_t)memory + bytes) / page * page;
  if (memory && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace gatv2
