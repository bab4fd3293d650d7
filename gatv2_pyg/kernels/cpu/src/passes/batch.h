// A batch of calls on one graph: element by element, each on all threads, or several elements at
// once, each on one. The bits are the same.
#pragma once

#include "passes/backward.h"
#include "passes/forward.h"

GATV2_BEGIN

template <class T>
class Batch {
  using A = Acc<T>;

 public:
  explicit Batch(const Arguments& args)
      : args_(args),
        row_(args.heads * args.channels),
        size_(args.batch),
        apart_(args.threads > 1 && args.num_src * row_ * (int64_t)sizeof(T) <= kNear) {}

  int64_t forward() const {
    if (size_ == 1) return Forward<T>(args_).run();
    prefer_huge_pages(args_.out, sizeof(A) * size_ * args_.num_dst * row_);
    prefer_huge_pages(args_.biased_out, sizeof(A) * size_ * args_.num_dst * row_);
    return each(0, size_, [&](int64_t k) { return Forward<T>(element(k)).run(); });
  }

  int64_t backward() const {
    if (size_ == 1) return Backward<T>(args_).run();
    prefer_huge_pages(args_.d_x_src, sizeof(T) * size_ * args_.num_src * row_);
    prefer_huge_pages(args_.d_x_dst, sizeof(T) * size_ * args_.num_dst * row_);
    // What the elements share gets the sum of what each leaves, in order, in double.
    const int64_t count = shared();
    const int64_t most = max_of(apart_ ? args_.threads : (int64_t)1,
                                kPartials / max_of((int64_t)1, count * (int64_t)sizeof(A)));
    const int64_t chunk = count ? min_of(size_, most) : size_;
    const Buffer partials(sizeof(A) * count * chunk), totals(sizeof(double) * count);
    if (!partials || !totals) return kOutOfMemory;
    memset(totals.get<double>(), 0, sizeof(double) * count);
    for (int64_t first = 0; first < size_; first += chunk) {
      const int64_t end = min_of(size_, first + chunk);
      const int64_t status = each(first, end, [&](int64_t k) {
        Arguments one = element(k);
        each_shared(one, [&, to = partials.get<A>() + (k - first) * count](
                             void*& gradient, int64_t n, bool) mutable {
          gradient = to;
          to += n;
        });
        return Backward<T>(one, true).run();
      });
      if (status != kOk) return status;
      add_up(partials.get<A>(), count, end - first, totals.get<double>());
    }
    Arguments all = args_;
    const double* from = totals.get<double>();
    each_shared(all, [&](void* gradient, int64_t n, bool narrow) {
      for (int64_t k = 0; k < n; ++k, ++from)
        if (narrow)
          from_float((A)*from, static_cast<T*>(gradient)[k]);
        else
          static_cast<A*>(gradient)[k] = (A)*from;
    });
    return kOk;
  }

 private:
  static constexpr int64_t kNear = (int64_t)1 << 20;       // rows that one thread's caches hold
  static constexpr int64_t kPartials = (int64_t)32 << 20;  // bytes of partial gradients

  // The element's call, on one thread where they are apart.
  Arguments element(int64_t k) const {
    Arguments one = args_;
    one.batch = 1;
    one.element = k;
    one.threads = apart_ ? 1 : args_.threads;
    const int64_t src = args_.num_src * row_, dst = args_.num_dst * row_;
    move<T>(one.x_src, k * src);
    move<T>(one.x_dst, k * dst);
    move<A>(one.out, k * dst);
    move<A>(one.lse, k * args_.num_dst * args_.heads);
    move<A>(one.alpha, k * args_.num_ids * args_.heads);
    move<A>(one.biased_out, k * dst);
    move<T>(one.grad_out, k * dst);
    move<A>(one.grad_alpha, k * args_.num_ids * args_.heads);
    move<T>(one.d_x_src, k * src);
    move<T>(one.d_x_dst, k * dst);
    return one;
  }
  template <class E>
  static void move(const void*& p, int64_t by) {
    if (p) p = static_cast<const E*>(p) + by;
  }
  template <class E>
  static void move(void*& p, int64_t by) {
    if (p) p = static_cast<E*>(p) + by;
  }
  // f(gradient, its elements, whether they are of T at last) for each that the elements share.
  template <class F>
  void each_shared(Arguments& a, F&& f) const {
    if (a.d_att) f(a.d_att, row_, false);
    if (a.d_edge_weight) f(a.d_edge_weight, row_ * a.edge_dim, false);
    if (a.d_edge_attr) f(a.d_edge_attr, a.num_ids * a.edge_dim, true);
    if (a.d_attn_bias) f(a.d_attn_bias, a.bias_rows * a.bias_heads, false);
    if (a.sum_grad_out) f(a.sum_grad_out, row_, false);
    if (a.sum_d_x_src) f(a.sum_d_x_src, row_, false);
    if (a.sum_d_x_dst) f(a.sum_d_x_dst, row_, false);
  }
  int64_t shared() const {
    Arguments all = args_;
    int64_t count = 0;
    each_shared(all, [&](void*, int64_t n, bool) { count += n; });
    return count;
  }
  // Calls body(k) for elements [first, end); a status of one that is not kOk, else kOk.
  template <class Body>
  int64_t each(int64_t first, int64_t end, const Body& body) const {
    int64_t status = kOk;
    parallel_for(end - first, apart_ ? args_.threads : 1, [&](int64_t k, int64_t) {
      const int64_t found = body(first + k);
      if (found != kOk) __atomic_store_n(&status, found, __ATOMIC_RELAXED);
    });
    return status;
  }
  void add_up(const A* partials, int64_t count, int64_t elements, double* totals) const {
    const int64_t block = 4096;
    Arguments all = args_;
    each_shared(all, [&](void*, int64_t size, bool) {
      parallel_for((size + block - 1) / block, args_.threads, [&](int64_t item, int64_t) {
        const int64_t begin = item * block, end = min_of(size, begin + block);
        for (int64_t e = 0; e < elements; ++e) {
          const A* const from = partials + e * count;
          for (int64_t k = begin; k < end; ++k) totals[k] += (double)from[k];
        }
      });
      partials += size;
      totals += size;
    });
  }

  const Arguments& args_;
  const int64_t row_, size_;
  const bool apart_;
};

GATV2_END
