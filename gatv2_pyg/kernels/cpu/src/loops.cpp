// Features of added self-loops: the mean or the sum of those of the edges that point to the node,
// added in order of ids, and the gradient of that.
#include <string.h>

#include "ranges.h"
#include "structure.h"

namespace gatv2 {
namespace {

int64_t ranges_for(const LoopArguments& a) {
  const int64_t worth = (a.num_edges + a.num_loops) * a.dim / 32768;
  return worth < 1 ? 1 : smaller(worth, a.threads);
}

// Where a range begins.
struct Cut {
  int64_t count, ranges;
  int64_t operator()(int64_t k) const { return count / ranges * k + smaller(k, count % ranges); }
};

// Calls body(node, id, edges of the node) for the edges to nodes [first, last) but the added loops,
// each of which ends its row.
template <class I, class Body>
void each_edge(const LoopArguments& a, int64_t first, int64_t last, const Body& body) {
  const I* const ptr = static_cast<const I*>(a.ptr);
  const I* const edge = static_cast<const I*>(a.edge);
  for (int64_t i = first; i < last; ++i)
    for (int64_t p = ptr[i]; p < (int64_t)ptr[i + 1] - 1; ++p)
      body(i, edge ? (int64_t)edge[p] : p, (int64_t)ptr[i + 1] - 1 - ptr[i]);
}

template <class I, class F>
void fill(const LoopArguments& a, int64_t ranges) {
  const F* const from = static_cast<const F*>(a.given);
  F* const to = static_cast<F*>(a.result);
  F* const loops = to + a.num_edges * a.dim;
  const Cut ids{a.num_edges, ranges}, nodes{a.num_loops, ranges};
  for_ranges(ranges, [&](int64_t k) {
    const int64_t begin = ids(k) * a.dim, end = ids(k + 1) * a.dim;
    if (begin < end) memcpy(to + begin, from + begin, sizeof(F) * (end - begin));
    const int64_t first = nodes(k), last = nodes(k + 1);
    if (first < last) memset(loops + first * a.dim, 0, sizeof(F) * (last - first) * a.dim);
    each_edge<I>(a, first, last, [&](int64_t i, int64_t id, int64_t) {
      for (int64_t d = 0; d < a.dim; ++d) loops[i * a.dim + d] += from[id * a.dim + d];
    });
    const I* const ptr = static_cast<const I*>(a.ptr);
    for (int64_t i = first; a.mean && i < last; ++i)
      if (const F count = (F)(ptr[i + 1] - ptr[i] - 1); count > 1)
        for (int64_t d = 0; d < a.dim; ++d) loops[i * a.dim + d] /= count;
  });
}

template <class I, class F>
void differentiate(const LoopArguments& a, int64_t ranges) {
  const F* const from = static_cast<const F*>(a.given);
  const F* const loops = from + a.num_edges * a.dim;
  F* const to = static_cast<F*>(a.result);
  const Cut ids{a.num_edges, ranges}, nodes{a.num_loops, ranges};
  for_ranges(ranges, [&](int64_t k) {
    const int64_t begin = ids(k) * a.dim, end = ids(k + 1) * a.dim;
    if (begin < end) memcpy(to + begin, from + begin, sizeof(F) * (end - begin));
  });
  for_ranges(ranges, [&](int64_t k) {
    each_edge<I>(a, nodes(k), nodes(k + 1), [&](int64_t i, int64_t id, int64_t count) {
      const F share = a.mean ? (F)count : (F)1;
      for (int64_t d = 0; d < a.dim; ++d) to[id * a.dim + d] += loops[i * a.dim + d] / share;
    });
  });
}

}  // namespace

int64_t loop_features(const LoopArguments& a) {
  if (a.dim == 0) return kOk;
  const int64_t ranges = ranges_for(a);
  if (a.wide)
    a.is_double ? fill<int64_t, double>(a, ranges) : fill<int64_t, float>(a, ranges);
  else
    a.is_double ? fill<int32_t, double>(a, ranges) : fill<int32_t, float>(a, ranges);
  return kOk;
}

int64_t loop_gradients(const LoopArguments& a) {
  if (a.dim == 0) return kOk;
  const int64_t ranges = ranges_for(a);
  if (a.wide)
    a.is_double ? differentiate<int64_t, double>(a, ranges)
                : differentiate<int64_t, float>(a, ranges);
  else
    a.is_double ? differentiate<int32_t, double>(a, ranges)
                : differentiate<int32_t, float>(a, ranges);
  return kOk;
}

}  // namespace gatv2
