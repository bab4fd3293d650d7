// The SIMD layer against libm and plain loops. Built for one instruction set at a time by
// tests/kernels/cpu/test_simd.py; exits with the number of faults.
#include <math.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "micro/micro.h"
#include "tiles/product.h"

namespace {

int faults = 0;

#define EXPECT(condition, ...)                       \
  do {                                               \
    if (!(condition) && ++faults <= 20) {            \
      printf("line %d: %s: ", __LINE__, #condition); \
      printf(__VA_ARGS__);                           \
      printf("\n");                                  \
    }                                                \
  } while (0)

uint64_t state = 88172645463325252u;
uint64_t random_bits() {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}
double random_in(double low, double high) {
  return low + (high - low) * (double)(random_bits() >> 11) / 9007199254740992.0;
}

using namespace gatv2::GATV2_ISA;

// The value of a half by its definition.
double value_of(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
  const int exponent = (bits >> mantissa_bits) & top;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == top) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}
double value_of(bfloat16 x) { return value_of(x.bits, 8, 7); }
double value_of(float16 x) { return value_of(x.bits, 5, 10); }
double value_of(float x) { return x; }
double value_of(double x) { return x; }

// A float rounded to so many bits of exponent and mantissa, to nearest even.
double rounded(float x, int exponent_bits, int mantissa_bits) {
  if (isnan(x) || isinf(x) || x == 0) return x;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  int exponent;
  frexp(x, &exponent);
  const int unit = (exponent - 1 < 1 - bias ? 1 - bias : exponent - 1) - mantissa_bits;
  const double r = ldexp(nearbyint(ldexp(x, -unit)), unit);
  const double most = ldexp(2 - ldexp(1, -mantissa_bits), bias);
  return fabs(r) > most ? copysign(INFINITY, r) : r;
}
double rounded(float x, bfloat16) { return rounded(x, 8, 7); }
double rounded(float x, float16) { return rounded(x, 5, 10); }

bool same(double a, double b) { return isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b); }

// Memory that ends where no byte may be read.
class Guarded {
 public:
  Guarded() : page_(sysconf(_SC_PAGESIZE)) {
    base_ =
        (char*)mmap(nullptr, 2 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(base_ + page_, page_, PROT_NONE);
  }
  template <class T>
  T* last(int n) const {
    return (T*)(base_ + page_) - n;
  }

 private:
  long page_;
  char* base_;
};

template <class A>
void test_exp() {
  constexpr int W = Simd<A>::W;
  const double low = sizeof(A) == 4 ? -87.3 : -708.3, eps = sizeof(A) == 4 ? 0x1p-23 : 0x1p-52;
  double worst = 0;
  for (int i = 0; i < 400000; ++i) {
    A x[W], y[W];
    for (int k = 0; k < W; ++k)
      x[k] = (A)(i % 2 ? random_in(low, 24) : random_in(-1, 1) * pow(2.0, random_in(-30, 0)));
    store(y, gatv2::GATV2_ISA::exp(load(x)));
    for (int k = 0; k < W; ++k) {
      const long double want = expl((long double)x[k]);
      const double error = (double)(fabsl(y[k] - want) / want) / eps;
      if (error > worst) worst = error;
    }
  }
  EXPECT(worst < 1.1, "exp errs by %g ulp", worst);
  const A special[] = {(A)-INFINITY, (A)NAN, 0, (A)-0.0, (A)(low - 3), (A)-1e30, 1};
  for (A x : special) {
    A in[W], out[W];
    for (int k = 0; k < W; ++k) in[k] = x;
    store(out, gatv2::GATV2_ISA::exp(load(in)));
    for (int k = 0; k < W; ++k) {
      if (isnan(x))
        EXPECT(isnan(out[k]), "exp(NaN) = %g", (double)out[k]);
      else if (x < low)
        EXPECT(out[k] == 0, "exp(%g) = %g", (double)x, (double)out[k]);
      else
        EXPECT(fabs(out[k] - ::exp((double)x)) <= 2 * eps * ::exp((double)x), "%g", (double)x);
    }
  }
}

template <class A>
void test_log() {
  constexpr int W = Simd<A>::W;
  const double eps = sizeof(A) == 4 ? 0x1p-23 : 0x1p-52, range = sizeof(A) == 4 ? 126 : 1021;
  double worst = 0;
  for (int i = 0; i < 200000; ++i) {
    A x[W], y[W];
    for (int k = 0; k < W; ++k)
      x[k] = (A)(i % 2 ? pow(2.0, random_in(-range, range)) : random_in(0.5, 2));
    store(y, gatv2::GATV2_ISA::log<A>(load(x)));
    for (int k = 0; k < W; ++k) {
      const long double want = logl((long double)x[k]);
      // Near 1 against the rounding of x.
      const double size = fabs((double)want) > 0.5 ? fabs((double)want) : 0.5;
      const double error = (double)fabsl(y[k] - want) / size / eps;
      if (error > worst) worst = error;
    }
  }
  EXPECT(worst < 1.5, "log errs by %g ulp", worst);
  A one[W], zero[W];
  for (int k = 0; k < W; ++k) one[k] = 1;
  store(zero, gatv2::GATV2_ISA::log<A>(load(one)));
  for (int k = 0; k < W; ++k) EXPECT(zero[k] == 0, "log(1) = %g", (double)zero[k]);
}

template <class H>
void test_half() {
  constexpr int W = Simd<float>::W;
  for (int first = 0; first < 65536; first += W) {
    H in[W], out[W];
    float wide[W];
    for (int k = 0; k < W; ++k) in[k].bits = (uint16_t)(first + k);
    store(wide, load(in));
    store(out, load(in));
    for (int k = 0; k < W; ++k) {
      EXPECT(same(wide[k], value_of(in[k])), "%04x widens to %g", in[k].bits, wide[k]);
      EXPECT(same(to_float(in[k]), value_of(in[k])), "%04x", in[k].bits);
      EXPECT(same(value_of(out[k]), value_of(in[k])), "%04x becomes %04x", in[k].bits, out[k].bits);
    }
  }
  auto narrow = [](const float* x) {
    H out[W], part[W], one;
    store(out, load(x));
    store(part, load(x), LanesInUse(W));
    for (int k = 0; k < W; ++k) {
      from_float(x[k], one);
      const double want = rounded(x[k], H{});
      EXPECT(same(value_of(out[k]), want), "%a narrows to %g", x[k], value_of(out[k]));
      EXPECT(same(value_of(part[k]), want), "%a in part to %g", x[k], value_of(part[k]));
      EXPECT(same(value_of(one), want), "%a alone to %g", x[k], value_of(one));
    }
  };
  for (int i = 0; i < 300000; ++i) {
    float x[W];
    for (int k = 0; k < W; ++k) {
      uint32_t bits = (uint32_t)random_bits();
      // Every other one near a number of the half: ties and their neighbours.
      if (i % 2) {
        H h;
        h.bits = (uint16_t)random_bits();
        const float f = (float)value_of(h);
        memcpy(&bits, &f, 4);
        bits += random_bits() & 1 ? 0x8000u : 0x1000u;
        bits += (uint32_t)(random_bits() % 3) - 1;
      }
      memcpy(&x[k], &bits, 4);
    }
    narrow(x);
  }
  const float special[] = {NAN,      -NAN,         INFINITY,     -INFINITY, 0.0f,      -0.0f,
                           65504.f,  65519.f,      65520.f,      -65520.f,  3.4e38f,   -3.4e38f,
                           0x1p-24f, 0x1p-25f,     0x1.8p-25f,   0x1p-126f, 0x1p-149f, -0x1p-149f,
                           0x1p-14f, 0x1.ffcp-15f, 0x1.ffep-15f, 1.f};
  for (float s : special) {
    float x[W];
    for (int k = 0; k < W; ++k) x[k] = k % 2 ? 1.f : s;
    narrow(x);
  }
  // A NaN whose payload lies in the bits that go.
  float x[W];
  const uint32_t bits = 0x7F800001u;
  for (int k = 0; k < W; ++k) memcpy(&x[k], &bits, 4);
  narrow(x);
}

template <class T>
void test_partial() {
  using A = Acc<T>;
  constexpr int W = Simd<A>::W;
  const Guarded guarded;
  for (int n = 0; n <= W; ++n) {
    T* const p = guarded.last<T>(n);
    A want[W] = {}, got[W];
    for (int k = 0; k < n; ++k) {
      from_float((A)(k + 1), p[k]);
      want[k] = (A)(k + 1);
    }
    store(got, load(p, LanesInUse(n)));
    for (int k = 0; k < W; ++k)
      EXPECT(got[k] == want[k], "lane %d of %d: %g", k, n, (double)got[k]);
    for (int k = 0; k < W; ++k) got[k] = (A)(10 + k);
    store(p, load(got), LanesInUse(n));
    for (int k = 0; k < n; ++k) EXPECT(value_of(p[k]) == 10 + k, "lane %d of %d", k, n);
    T beside[2 * W];
    for (int k = 0; k < 2 * W; ++k) from_float((A)7, beside[k]);
    store(beside, load(got), LanesInUse(n));
    for (int k = n; k < 2 * W; ++k)
      EXPECT(value_of(beside[k]) == 7, "lane %d of %d is written", k, n);
  }
}

template <class A>
void test_masks() {
  using V = typename Simd<A>::V;
  constexpr int W = Simd<A>::W;
  const A values[] = {1, -1, 0, (A)-0.0, (A)NAN, (A)INFINITY, (A)-INFINITY, (A)1e-30, (A)-1e-30};
  for (int i = 0; i < 5000; ++i) {
    A x[W], got[W];
    uint8_t bytes[kMaskBytes<A> + kMaskRoom];
    memset(bytes, 0xA5, sizeof bytes);
    bool any = false;
    for (int k = 0; k < W; ++k) {
      x[k] = values[random_bits() % (i % 3 ? 9 : 4)];
      if (i % 4 == 0) x[k] = (A)-2;
      any |= x[k] > 0;
    }
    const auto mask = above_zero(load(x));
    EXPECT(any_lane(mask) == any, "any of %d", i);
    store_mask(bytes, mask);
    for (int k = 0; k < kMaskRoom; ++k)
      EXPECT(bytes[kMaskBytes<A> + k] == 0xA5, "%d bytes beyond the mask", k);
    store(got, select_stored<A>(bytes, broadcast<V>((A)3), broadcast<V>((A)4)));
    for (int k = 0; k < W; ++k) {
      EXPECT(((bytes[k / 8] >> (k % 8)) & 1) == (x[k] > 0), "bit %d of %g", k, (double)x[k]);
      EXPECT(got[k] == (x[k] > 0 ? 3 : 4), "lane %d of %g", k, (double)x[k]);
    }
    if constexpr (kBlendsBySign) {
      store(got, by_sign(load(x), broadcast<V>((A)3), broadcast<V>((A)4)));
      for (int k = 0; k < W; ++k)
        EXPECT(x[k] == 0 || isnan(x[k]) || got[k] == (x[k] > 0 ? 3 : 4), "sign of %g",
               (double)x[k]);
    }
  }
  A a[W], b[W], most[W], sum[W];
  for (int k = 0; k < W; ++k) {
    a[k] = k % 2 ? (A)NAN : (A)k;
    b[k] = (A)5;
  }
  store(most, max_of(load(a), load(b)));
  store(sum, fma(load(b), load(b), broadcast<V>((A)2)));
  for (int k = 0; k < W; ++k) {
    EXPECT(most[k] == (a[k] > 5 ? a[k] : 5), "max of lane %d: %g", k, (double)most[k]);
    EXPECT(sum[k] == 27, "fma of lane %d", k);
  }
  store(most, max_of(load(b), load(a)));
  for (int k = 1; k < W; k += 2) EXPECT(isnan(most[k]), "the second counts: lane %d", k);
}

template <class A, int bit>
void test_pairs() {
  constexpr int W = Simd<A>::W;
  if constexpr (bit < W) {
    A a[W], b[W], got[W];
    for (int k = 0; k < W; ++k) {
      a[k] = (A)(1 + k);
      b[k] = (A)(100 * (1 + k));
    }
    store(got, swap_lanes<A, bit>(load(a)));
    for (int k = 0; k < W; ++k) EXPECT(got[k] == a[k ^ bit], "swap %d, lane %d", bit, k);
    store(got, combine<A, bit>(load(a), load(b)));
    for (int k = 0; k < W; ++k) {
      const A want = k & bit ? b[k] + b[k ^ bit] : a[k] + a[k ^ bit];
      EXPECT(got[k] == want, "combine %d, lane %d", bit, k);
    }
    A zipped[2 * W];
    store(zipped, zip_lanes<A, bit, 0>(load(a), load(b)));
    store(zipped + W, zip_lanes<A, bit, 1>(load(a), load(b)));
    for (int k = 0; k < 2 * W; ++k) {
      const int from = k / (2 * bit) * bit + k % bit;
      EXPECT(zipped[k] == (k / bit % 2 ? b : a)[from], "zip %d, lane %d", bit, k);
    }
    store(got, load_repeated<bit>(a));
    for (int k = 0; k < W; ++k) EXPECT(got[k] == a[k % bit], "repeat %d, lane %d", bit, k);
    test_pairs<A, 2 * bit>();
  }
}

// Runs of S lanes: what heads that share a vector need.
template <class A, int S, int U>
void test_interleaved_runs() {
  constexpr int W = Simd<A>::W, P = W / S;
  A a[W], got[W];
  for (int k = 0; k < W; ++k) a[k] = (A)k;
  store(got, interleave_runs<A, S, U>(load(a)));
  for (int run = 0; run < P; ++run)
    for (int group = 0; group < S / U; ++group)
      for (int place = 0; place < U; ++place)
        EXPECT(got[(group * U + place) * P + run] == a[run * S + group * U + place],
               "runs of %d by %d: run %d, group %d, place %d", S, U, run, group, place);
}
template <class A, int S>
void test_runs() {
  constexpr int W = Simd<A>::W;
  if constexpr (S <= W) {
    A a[W], got[W];
    for (int k = 0; k < W; ++k) a[k] = (A)(1 + k);
    store(got, spread_runs<S>(a));
    for (int k = 0; k < W; ++k) EXPECT(got[k] == a[k / S], "spread over %d, lane %d", S, k);
    store(got, add_lanes<A, S, 0, S>(
                   [&](auto row) { return load(a) + (A)(100 * decltype(row)::value); }));
    for (int k = 0; k < W; ++k) {
      A want = 0;
      for (int i = k % S; i < W; i += S) want += a[i] + (A)(100 * (k / S));
      EXPECT(got[k] == want, "added over %d, lane %d", S, k);
    }
    test_interleaved_runs<A, S, 1>();
    if constexpr (S >= 2) test_interleaved_runs<A, S, 2>();
    if constexpr (S >= 4) test_interleaved_runs<A, S, 4>();
    for (int used = 1; used <= S; ++used) {
      unsigned bits = (1u << used) - 1;
      for (int k = S; k < W; k *= 2) bits |= bits << k;
      for (int from = 0; from < W; ++from) {
        for (int k = 0; k < W; ++k) got[k] = -1;
        store_elements(got, bits, load(a), from);
        for (int k = 0, next = from; k < W; ++k) {
          const A want = k % S < used ? a[next++ % W] : (A)-1;
          EXPECT(got[k] == want, "%d elements of %d from %d, lane %d", used, S, from, k);
        }
      }
      const HeadLanes lanes(S, used);
      store(got, expand(load(a), lanes));
      int next = 0;
      for (int k = 0; k < W; ++k) {
        const A want = k % S < used ? a[next++] : (A)0;
        EXPECT(got[k] == want, "expand %d of %d, lane %d", used, S, k);
      }
      store(got, compress(load(a), lanes));
      next = 0;
      for (int k = 0; k < W; ++k)
        if (k % S < used) {
          EXPECT(got[next] == a[k], "compress %d of %d, lane %d", used, S, k);
          ++next;
        }
      for (; next < W; ++next) EXPECT(got[next] == 0, "compressed, lane %d", next);
    }
    test_runs<A, 2 * S>();
  }
}

// Every run of quarters.
template <class A, int first = 0, int end = Simd<A>::W / 4>
void test_taken() {
  constexpr int W = Simd<A>::W;
  A a[W], b[W], got[W];
  for (int k = 0; k < W; ++k) {
    a[k] = k < first || k >= end ? (A)NAN : (A)(1 + k);
    b[k] = (A)(100 + k);
  }
  store(got, take_lanes<A, first, end>(load(a)));
  for (int k = 0; k < W; ++k)
    EXPECT(got[k] == (k < first || k >= end ? 0 : a[k]), "take %d to %d, lane %d", first, end, k);
  store(got, add_taken<A, first, end>(load(b), load(a)));
  for (int k = 0; k < W; ++k)
    EXPECT(got[k] == b[k] + (k < first || k >= end ? 0 : a[k]), "add %d to %d, lane %d", first, end,
           k);
  if constexpr (end < W)
    test_taken<A, first, end + W / 4>();
  else if constexpr (first + W / 4 < W)
    test_taken<A, first + W / 4, first + W / 2>();
}

template <class A>
void test_permute() {
  constexpr int W = Simd<A>::W;
  A a[W], got[W];
  typename Simd<A>::I index;
  for (int i = 0; i < 1000; ++i) {
    for (int k = 0; k < W; ++k) {
      a[k] = (A)k;
      index[k] = random_bits() % W;
    }
    store(got, permute(load(a), index));
    for (int k = 0; k < W; ++k) EXPECT(got[k] == index[k], "permuted lane %d", k);
  }
}

template <class A>
void test_permute_two() {
  constexpr int W = Simd<A>::W;
  A a[W], b[W], got[W];
  typename Simd<A>::I index;
  for (int i = 0; i < 1000; ++i) {
    for (int k = 0; k < W; ++k) {
      a[k] = (A)k;
      b[k] = (A)(W + k);
      index[k] = random_bits() % (2 * W);
    }
    store(got, permute(load(a), load(b), index));
    for (int k = 0; k < W; ++k) EXPECT(got[k] == index[k], "permuted lane %d of two", k);
  }
}

template <class A>
void test_first_lanes() {
  constexpr int W = Simd<A>::W;
  A a[W], b[W], got[W];
  for (int n = 0; n <= W + 3; ++n) {
    for (int k = 0; k < W; ++k) {
      a[k] = k < n ? (A)(1 + k) : (A)NAN;
      b[k] = k < n ? (A)NAN : (A)(100 + k);
    }
    store(got, first_lanes<A>(load(a), n));
    for (int k = 0; k < W; ++k) EXPECT(got[k] == (k < n ? a[k] : 0), "first %d, lane %d", n, k);
    store(got, first_lanes<A>(load(a), n, load(b)));
    for (int k = 0; k < W; ++k)
      EXPECT(got[k] == (k < n ? a : b)[k], "first %d of two, lane %d", n, k);
  }
}

template <class A, int N>
void test_rows() {
  constexpr int W = Simd<A>::W;
  typename Simd<A>::V v[N];
  A in[N * W], out[N * W];
  for (int k = 0; k < N * W; ++k) in[k] = (A)k;
  for (int i = 0; i < N; ++i) v[i] = load(in + i * W);
  zip_rows<A, N>(v);
  for (int i = 0; i < N; ++i) store(out + i * W, v[i]);
  for (int i = 0; i < N; ++i)
    for (int k = 0; k < W; ++k)
      EXPECT(out[k * N + i] == in[i * W + k], "row %d of %d, column %d", i, N, k);
  unzip_rows<A, N>(v);
  for (int i = 0; i < N; ++i) store(out + i * W, v[i]);
  for (int k = 0; k < N * W; ++k) EXPECT(out[k] == in[k], "back, element %d of %d rows", k, N);
}

template <class A, int L>
void test_reduce() {
  constexpr int W = Simd<A>::W;
  typename Simd<A>::V v[L];
  A in[L * W], out[W];
  for (int k = 0; k < L * W; ++k) in[k] = (A)(random_bits() % 1000);
  for (int i = 0; i < L; ++i) v[i] = load(in + i * W);
  store(out, reduce_stored<A, L>(v));
  for (int k = 0; k < W; ++k) {
    A want = 0;
    for (int i = 0; i < W; ++i) want += in[k % L * W + i];
    EXPECT(out[k] == want, "the sum of vector %d of %d", k % L, L);
  }
}

template <class A>
void test_lanes() {
  constexpr int W = Simd<A>::W;
  test_pairs<A, 1>();
  test_runs<A, 1>();
  if constexpr (FlatHeads<A>::kTaken) {
    test_taken<A>();
    test_permute<A>();
  }
  if constexpr (FlatHeads<A>::kNarrow) test_permute_two<A>();
  test_first_lanes<A>();
  test_rows<A, 2>();
  test_rows<A, 4>();
  test_rows<A, 8>();
  test_reduce<A, 1>();
  test_reduce<A, 2>();
  if constexpr (W >= 4) test_reduce<A, 4>();
  if constexpr (W >= 8) test_reduce<A, 8>();
  if constexpr (W >= 16) test_reduce<A, 16>();
  A a[W];
  double to[W], before[W];
  for (int k = 0; k < W; ++k) {
    a[k] = (A)random_in(-1, 1);
    before[k] = to[k] = random_in(-1e6, 1e6);
  }
  add_doubles(to, load(a));
  for (int k = 0; k < W; ++k) EXPECT(to[k] == before[k] + (double)a[k], "added double %d", k);
  alignas(kVectorBytes) A past[W];
  store_past_caches(past, load(a));
  fence_stores();
  for (int k = 0; k < W; ++k) EXPECT(past[k] == a[k], "past the caches, lane %d", k);
}

// Of integers, which are exact: each vector is put once.
template <class A>
void test_products() {
  using V = typename Simd<A>::V;
  constexpr int W = Simd<A>::W, most_rows = 67, most_columns = 11 * W;
  static A a[most_rows * 17], b[17 * most_columns], got[most_rows][most_columns];
  static int puts[most_rows][most_columns];
  for (A& x : a) x = (A)(int)(random_bits() % 15) - 7;
  for (A& x : b) x = (A)(int)(random_bits() % 15) - 7;
  const int counts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 40, 64, 67}, depths[] = {0, 1, 17};
  for (int rows : counts)
    for (int columns = 0; columns <= most_columns; columns += W)
      for (int depth : depths)
        for (int turned = 0; turned < 2; ++turned) {
          const int row = turned ? 1 : depth, step = turned ? rows : 1;
          memset(puts, 0, sizeof puts);
          multiply(a, row, step, rows, b, columns, depth, columns, [&](int k, int64_t n, V v) {
            ++puts[k][n];
            store(&got[k][n], v);
          });
          for (int k = 0; k < most_rows; ++k)
            for (int n = 0; n < most_columns; ++n) {
              const bool inside = k < rows && n < columns;
              EXPECT(puts[k][n] == (inside && n % W == 0), "%d x %d: %d puts", k, n, puts[k][n]);
              A want = 0;
              for (int m = 0; inside && m < depth; ++m)
                want += a[k * row + m * step] * b[m * columns + n];
              EXPECT(!inside || got[k][n] == want, "%d x %d of %d x %d", k, n, rows, columns);
            }
        }
}

void test_words() {
  for (int i = 0; i < 10000; ++i) {
    uint64_t in[kWordLanes], out[kWordLanes];
    const uint32_t m = (uint32_t)random_bits();
    for (int k = 0; k < kWordLanes; ++k) in[k] = random_bits();
    Words w;
    memcpy(&w, in, sizeof w);
    w = multiply_low_halves(w, m);
    memcpy(out, &w, sizeof w);
    for (int k = 0; k < kWordLanes; ++k)
      EXPECT(out[k] == (in[k] & 0xFFFFFFFFu) * m, "product %d", k);
  }
}

}  // namespace

int main() {
  test_exp<float>();
  test_exp<double>();
  test_log<float>();
  test_log<double>();
  test_half<bfloat16>();
  test_half<float16>();
  test_partial<float>();
  test_partial<double>();
  test_partial<bfloat16>();
  test_partial<float16>();
  test_masks<float>();
  test_masks<double>();
  test_lanes<float>();
  test_lanes<double>();
  test_products<float>();
  test_products<double>();
  test_words();
  printf("%d faults\n", faults);
  return faults != 0;
}
