// The graph structure: stable counting sorts of the edges by destination and by source, O(E + N).
//
// Threads take consecutive ranges of edges. Each counts its own, the counts become starting offsets
// (by row, then by range), and each writes its own: the order does not depend on the number of
// ranges.
#include <stdlib.h>
#include <string.h>

#include "ranges.h"
#include "structure.h"

namespace gatv2 {
namespace {

// Ranges worth a thread each; their counters must stay small next to the edges.
int64_t ranges_for(int64_t edges, int64_t rows, int64_t threads) {
  if (edges < 32768) return 1;
  int64_t ranges = smaller(threads, 64);
  while (ranges > 1 && rows > 4 * edges / ranges) --ranges;
  return ranges < 1 ? 1 : ranges;
}

// counts[range][row] -> first position of each (row, range); fills ptr, returns the largest degree.
template <class O>
int64_t offsets(O* counts, int64_t ranges, int64_t rows, O* ptr) {
  O position = 0;
  int64_t largest = 0;
  for (int64_t row = 0; row < rows; ++row) {
    ptr[row] = position;
    for (int64_t k = 0; k < ranges; ++k) {
      const O n = counts[k * rows + row];
      counts[k * rows + row] = position;
      position += n;
    }
    if (position - ptr[row] > largest) largest = position - ptr[row];
  }
  ptr[rows] = position;
  return largest;
}

template <class I, class O>
int64_t group(const GroupArguments& a, GroupResult& result) {
  const I* src = static_cast<const I*>(a.src);
  const I* dst = static_cast<const I*>(a.dst);
  const int64_t ranges = ranges_for(a.num_edges, a.num_dst, a.threads);
  O* counts = static_cast<O*>(calloc((size_t)ranges * a.num_dst + 1, sizeof(O)));
  Free hold{counts};
  if (!counts) return kOutOfMemory;
  auto begin = [&](int64_t k) {
    return a.num_edges / ranges * k + smaller(k, a.num_edges % ranges);
  };

  int64_t bad[64];
  for_ranges(ranges, [&](int64_t k) {
    O* const count = counts + k * a.num_dst;
    bad[k] = -1;
    for (int64_t e = begin(k), end = begin(k + 1); e < end; ++e) {
      const int64_t s = src[e * a.src_stride], d = dst[e * a.dst_stride];
      if ((uint64_t)s >= (uint64_t)a.num_src || (uint64_t)d >= (uint64_t)a.num_dst) {
        bad[k] = e;
        return;
      }
      count[d] += !(a.add_self_loops && s == d);
    }
  });
  for (int64_t k = 0; k < ranges; ++k)
    if (bad[k] >= 0) {
      const int64_t e = bad[k], s = src[e * a.src_stride];
      const bool in_src = (uint64_t)s >= (uint64_t)a.num_src;
      result = {0, 0, 0, in_src ? 1 : 2, e, in_src ? s : (int64_t)dst[e * a.dst_stride]};
      return kOk;
    }

  O* const ptr = static_cast<O*>(a.ptr);
  O* const idx = static_cast<O*>(a.idx);
  O* const edge = static_cast<O*>(a.edge);
  const int64_t loops = a.add_self_loops ? smaller(a.num_src, a.num_dst) : 0;
  O* const last = counts + (ranges - 1) * a.num_dst;
  for (int64_t i = 0; i < loops; ++i) ++last[i];
  result = {0, offsets(counts, ranges, a.num_dst, ptr), 1, 0, 0, 0};
  result.num_edges = ptr[a.num_dst];

  bool in_order[64];
  for_ranges(ranges, [&](int64_t k) {
    O* const next = counts + k * a.num_dst;
    bool identity = true;
    for (int64_t e = begin(k), end = begin(k + 1); e < end; ++e) {
      const I s = src[e * a.src_stride], d = dst[e * a.dst_stride];
      if (a.add_self_loops && s == d) continue;
      const O p = next[d]++;
      idx[p] = (O)s;
      edge[p] = (O)e;
      identity &= p == e;
    }
    in_order[k] = identity;
  });
  bool identity = true;
  for (int64_t k = 0; k < ranges; ++k) identity &= in_order[k];
  for (int64_t i = 0; i < loops; ++i) {
    const O p = last[i];
    idx[p] = (O)i;
    edge[p] = (O)(a.num_edges + i);
    identity &= p == a.num_edges + i;
  }
  result.identity = identity;
  return kOk;
}

// The row that holds a position: the last one that starts at or before it.
template <class O>
int64_t row_at(const O* ptr, int64_t num_rows, int64_t position) {
  int64_t lo = 0, hi = num_rows;
  while (lo < hi) {
    const int64_t mid = (lo + hi) / 2;
    if (ptr[mid + 1] <= position)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

template <class O>
int64_t transpose_of(const TransposeArguments& a, int64_t& largest, Finding& finding) {
  const O* ptr = static_cast<const O*>(a.ptr);
  const O* idx = static_cast<const O*>(a.idx);
  finding = {kNothing, 0, 0};
  if (!follows_ptr(ptr, a.num_rows, a.num_positions, finding)) return kOk;
  const int64_t edges = a.num_rows ? ptr[a.num_rows] : 0, out_rows = a.num_blocks * a.num_src;
  const int64_t ranges = ranges_for(edges, out_rows, a.threads);
  O* counts = static_cast<O*>(calloc((size_t)ranges * out_rows + 1, sizeof(O)));
  Free hold{counts};
  if (!counts) return kOutOfMemory;
  auto begin = [&](int64_t k) { return edges / ranges * k + smaller(k, edges % ranges); };
  // Calls body(row, its first position, its end, where the counts of its block begin) for the rows
  // of a range.
  auto for_rows = [&](int64_t k, const auto& body) {
    const int64_t end = begin(k + 1), per_block = (a.num_rows + a.num_blocks - 1) / a.num_blocks;
    int64_t p = begin(k);
    for (int64_t row = row_at(ptr, a.num_rows, p); p < end; ++row) {
      const int64_t to = smaller(ptr[row + 1], end);
      if (p < to) body(row, p, to, counts + k * out_rows + row / per_block * a.num_src);
      p = to;
    }
  };
  int64_t bad[64];
  for_ranges(ranges, [&](int64_t k) {
    bad[k] = -1;
    for_rows(k, [&](int64_t, int64_t from, int64_t to, O* count) {
      for (int64_t p = from; p < to; ++p) {
        const O j = idx[p];
        if ((uint64_t)(int64_t)j < (uint64_t)a.num_src)
          ++count[j];
        else if (bad[k] < 0)
          bad[k] = p;
      }
    });
  });
  for (int64_t k = 0; k < ranges; ++k)
    if (bad[k] >= 0) {
      finding = {kIdx, bad[k], idx[bad[k]]};
      return kOk;
    }
  largest = offsets(counts, ranges, out_rows, static_cast<O*>(a.out_ptr));
  O* const out_idx = static_cast<O*>(a.out_idx);
  O* const out_edge = static_cast<O*>(a.out_edge);
  for_ranges(ranges, [&](int64_t k) {
    for_rows(k, [&](int64_t row, int64_t from, int64_t to, O* next) {
      for (int64_t p = from; p < to; ++p) {
        const O at = next[idx[p]]++;
        out_idx[at] = (O)row;
        out_edge[at] = (O)p;
      }
    });
  });
  return kOk;
}

}  // namespace

int64_t group_by_dst(const GroupArguments& a, GroupResult& result) {
  if (a.wide_input)
    return a.wide_output ? group<int64_t, int64_t>(a, result) : group<int64_t, int32_t>(a, result);
  return a.wide_output ? group<int32_t, int64_t>(a, result) : group<int32_t, int32_t>(a, result);
}

int64_t transpose(const TransposeArguments& a, int64_t& largest, Finding& finding) {
  return a.wide ? transpose_of<int64_t>(a, largest, finding)
                : transpose_of<int32_t>(a, largest, finding);
}

}  // namespace gatv2
