/// The memory-bound kernels against double on the host: norms, cross-entropy, gather and scatter, column sums, updates, loops.
///
/// Inputs are rounded to the storage type first, so the reference starts from the same numbers; outputs are NaN before each call; each case
/// runs twice and must give the same bits. Arguments: names of cases to run (all without), `list` prints them. One line per check.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>
#include <planlm/backend/cuda/column_sums.cuh>
#include <planlm/backend/cuda/cross_entropy.cuh>
#include <planlm/backend/cuda/elements.cuh>
#include <planlm/backend/cuda/gather.cuh>
#include <planlm/backend/cuda/norm.cuh>
#include <planlm/backend/cuda/rows.cuh>
#include <planlm/backend/cuda/scatter.cuh>
#include <planlm/backend/cuda/segment_sums.cuh>
#include <planlm/backend/cuda/updates.cuh>
#include <planlm/core/philox.hpp>
#include <planlm/ops/elementwise.hpp>
#include <planlm/training/adamw.hpp>

using namespace planlm;
namespace cd = planlm::cuda_detail;

namespace {

int failures = 0, checks = 0;

/// Device memory with an owner; NaN (all bits set) at first.
template <class T>
class device {
 public:
  explicit device(index_t n) : n_(n), memory_(cd::allocate(bytes() + 64, "a check")) { poison(); }
  device(const std::vector<T>& host) : device(static_cast<index_t>(host.size())) {
    cd::check(cudaMemcpy(data(), host.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
    cd::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the queue's stream does not wait for the default stream
  }
  T* data() const { return static_cast<T*>(memory_.get()); }
  void poison() {
    cd::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    cd::check(cudaMemset(memory_.get(), 0xFF, bytes() + 64), "cudaMemset");
    cd::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  std::vector<T> read() const {
    std::vector<T> host(static_cast<std::size_t>(n_));
    cd::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    cd::check(cudaMemcpy(host.data(), data(), bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return host;
  }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(n_) * sizeof(T); }
  index_t n_;
  cd::memory memory_;
};

template <class T>
std::vector<T> normals(index_t n, std::uint32_t stream, double scale = 1, double shift = 0) {
  const philox random{7, 0, stream};
  std::vector<T> v(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) {
    const random_block b = random.bits(static_cast<std::uint64_t>(i), 0);  // four uniforms: about normal, and quick on the host
    double sum = -2;
    for (const std::uint32_t w : b.word) sum += w * 0x1p-32;
    v[static_cast<std::size_t>(i)] = T(static_cast<float>(sum * 1.7320508 * scale + shift));
  }
  return v;
}
template <class T>
const char* type_name() {
  return sizeof(T) == 2 ? "bf16" : sizeof(T) == 4 ? "float" : "double";
}
/// Relative error allowed: `rounded` for values stored in T, the same as float for statistics.
template <class T>
double most(bool backward) {
  return sizeof(T) == 2 ? (backward ? 1e-2 : 2e-3) : sizeof(T) == 4 ? 1e-5 : 1e-12;
}

template <class T>
void expect(const std::string& what, const std::vector<T>& got, const std::vector<double>& want, double allowed) {
  double difference = 0, norm = 0;
  std::size_t worst = 0;
  double worst_error = -1;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(double(got[i]) - want[i]);
    difference += error * error;
    norm += want[i] * want[i];
    if (!(error <= worst_error)) {
      if (!(worst_error != worst_error)) worst = i, worst_error = error;
    }
  }
  if (sizeof(T) == 2 && allowed > 0 && want.size() < 1000) allowed = std::max(allowed, 3.95e-3);  // one value may be rounded by 2^-8
  const double relative = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
  ++checks;
  if (relative <= allowed) {
    std::printf("PASS %s: %.2e\n", what.c_str(), relative);
  } else {
    ++failures;
    std::printf("FAIL %s: %.3e, allowed %.1e; worst at %zu of %zu: %g, expected %g\n", what.c_str(), relative, allowed, worst, want.size(),
                double(got[worst]), want[worst]);
  }
}
template <class T>
void same_bits(const std::string& what, const std::vector<T>& a, const std::vector<T>& b) {
  ++checks;
  if (std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0) return;
  ++failures;
  std::size_t at = 0;
  while (std::memcmp(&a[at], &b[at], sizeof(T)) == 0) ++at;
  std::printf("FAIL %s: two runs differ, first at %zu: %g and %g\n", what.c_str(), at, double(a[at]), double(b[at]));
}
std::string shape(index_t rows, index_t cols) { return "(" + std::to_string(rows) + ", " + std::to_string(cols) + ")"; }

template <class T, bool Centred>
void check_norm(cuda_queue& q, index_t rows, index_t cols, bool with_sum) {
  using A = accum_of<T>;
  const std::string name = std::string("norm ") + type_name<T>() + (Centred ? " layer " : " rms ") + shape(rows, cols) + (with_sum ? " sum" : "");
  const index_t n = rows * cols;
  const auto x = normals<T>(n, 1, 1.5, 0.5), added = normals<T>(n, 2), scale = normals<T>(cols, 3, 0.3, 1), shift = normals<T>(cols, 4);
  const auto dy = normals<T>(n, 5), residual = normals<T>(n, 6), g0 = normals<T>(cols, 7), b0 = normals<T>(cols, 8);
  const device<T> dx_(x), dadded(added), dscale(scale), dshift(shift), ddy(dy), dresidual(residual);
  device<T> sum(n), y(n), dx(n);
  device<A> mean(rows), rstd(rows);
  const double epsilon = 1e-5;
  std::vector<T> held = x;
  std::vector<T> y1, dx1, g1, b1;
  for (int run = 0; run < 2; ++run) {
    sum.poison(), y.poison(), dx.poison(), mean.poison(), rstd.poison();
    const bool forward = cd::norm<Centred>(q, cd::norm_call<T>{dx_.data(), with_sum ? dadded.data() : nullptr, dscale.data(),
                                                               Centred ? dshift.data() : nullptr, with_sum ? sum.data() : nullptr, y.data(),
                                                               Centred ? mean.data() : nullptr, rstd.data(), rows, cols, A(epsilon)});
    device<T> g(g0), b(b0);
    const T* in = with_sum ? sum.data() : dx_.data();
    const bool backward = cd::norm_pullback<Centred>(
        q, cd::norm_pullback_call<T>{in, dscale.data(), ddy.data(), with_sum ? dresidual.data() : nullptr, mean.data(), rstd.data(), dx.data(),
                                     nullptr, rows, cols},
        g.data(), Centred ? b.data() : nullptr);
    if (!forward || !backward) {
      std::printf("SKIP %s: left to the plain composition\n", name.c_str());
      return;
    }
    if (run == 0) {
      y1 = y.read(), dx1 = dx.read(), g1 = g.read(), b1 = b.read();
      if (with_sum) held = sum.read();
    } else {
      same_bits(name + " y", y1, y.read()), same_bits(name + " dx", dx1, dx.read());
      same_bits(name + " dscale", g1, g.read()), same_bits(name + " dshift", b1, b.read());
    }
  }
  std::vector<double> ry(x.size()), rdx(x.size()), rsum(x.size()), rmean(static_cast<std::size_t>(rows)), rrstd(rmean), rg(scale.size()), rb(scale.size());
  for (std::size_t c = 0; c < rg.size(); ++c) rg[c] = double(g0[c]), rb[c] = double(b0[c]);
  for (index_t r = 0; r < rows; ++r) {
    const std::size_t at = static_cast<std::size_t>(r * cols);
    double m = 0, v = 0, first = 0, second = 0;
    for (index_t c = 0; c < cols; ++c) m += double(held[at + c]);
    m = Centred ? m / double(cols) : 0;
    for (index_t c = 0; c < cols; ++c) v += (double(held[at + c]) - m) * (double(held[at + c]) - m);
    const double s = 1 / std::sqrt(v / double(cols) + epsilon);
    for (index_t c = 0; c < cols; ++c) {
      const double h = (double(held[at + c]) - m) * s, d = double(dy[at + c]) * double(scale[c]);
      ry[at + c] = h * double(scale[c]) + (Centred ? double(shift[c]) : 0);
      first += Centred ? d / double(cols) : 0;
      second += d * h / double(cols);
      rg[c] += double(dy[at + c]) * h;
      rb[c] += double(dy[at + c]);
      rsum[at + c] = double(x[at + c]) + double(added[at + c]);
    }
    for (index_t c = 0; c < cols; ++c) {
      const double h = (double(held[at + c]) - m) * s, d = double(dy[at + c]) * double(scale[c]);
      rdx[at + c] = s * (d - first - h * second) + (with_sum ? double(residual[at + c]) : 0);
    }
    rmean[r] = m, rrstd[r] = s;
  }
  if (cols < 3) {  // the gradient is zero but for rounding: relative error says nothing
    for (double& v : rdx) v = with_sum ? v : 0;
  }
  expect(name + " y", y1, ry, most<T>(false));
  if (with_sum) expect(name + " sum", held, rsum, most<T>(false));
  if (Centred) expect(name + " mean", mean.read(), rmean, 1e-5);
  expect(name + " rstd", rstd.read(), rrstd, cols == 1 ? 2e-3 : 1e-5);
  if (cols >= 3 || with_sum) expect(name + " dx", dx1, rdx, cols < 3 ? 2e-2 : most<T>(true));
  if (cols >= 3) expect(name + " dscale", g1, rg, most<T>(true));
  if (Centred) expect(name + " dshift", b1, rb, most<T>(true));
}

template <class T>
void check_cross_entropy(cuda_queue& q, index_t rows, index_t cols, index_t stride, bool weighted, bool gradient) {
  using A = accum_of<T>;
  const std::string name = std::string("cross-entropy ") + type_name<T>() + " " + shape(rows, cols) + " stride " + std::to_string(stride) +
                           (weighted ? " weighted" : "") + (gradient ? "" : " values");
  const auto z = normals<T>(rows * stride, 11, 3);
  const auto weight = normals<A>(rows, 12);
  std::vector<int> target(static_cast<std::size_t>(rows));
  for (index_t r = 0; r < rows; ++r)
    target[static_cast<std::size_t>(r)] = r % 5 == 3 ? -1 : static_cast<int>(philox{7, 0, 13}.below(static_cast<std::uint32_t>(cols), static_cast<std::uint64_t>(r), 0));
  target[0] = static_cast<int>(cols - 1);
  if (rows > 2) target[2] = 0;
  const device<A> dweight(weight);
  const device<int> dtarget(target);
  std::vector<T> z1;
  std::vector<A> nll1;
  for (int run = 0; run < 2; ++run) {
    device<T> dz(z);
    device<A> nll(rows);
    cd::cross_entropy(q, cd::cross_entropy_call<T>{dz.data(), dtarget.data(), weighted ? dweight.data() : nullptr, nll.data(), rows, cols, stride,
                                                   A(0.25), gradient});
    if (run == 0) z1 = dz.read(), nll1 = nll.read();
    else same_bits(name + " z", z1, dz.read()), same_bits(name + " nll", nll1, nll.read());
  }
  std::vector<double> rz(z.size()), rnll(weight.size());
  for (std::size_t i = 0; i < z.size(); ++i) rz[i] = double(z[i]);
  for (index_t r = 0; r < rows; ++r) {
    double* row = &rz[static_cast<std::size_t>(r * stride)];
    const int label = target[static_cast<std::size_t>(r)];
    double top = row[0], total = 0;
    for (index_t c = 0; c < cols; ++c) top = std::max(top, row[c]);
    for (index_t c = 0; c < cols; ++c) total += std::exp(row[c] - top);
    rnll[r] = label < 0 ? 0 : std::log(total) + top - row[label];
    const double w = label < 0 ? 0 : weighted ? double(weight[r]) : 0.25;
    if (gradient)
      for (index_t c = 0; c < cols; ++c) row[c] = w * (std::exp(row[c] - top) / total - (c == label ? 1 : 0));
  }
  // The columns between rows must not change; they would hide errors of the gradient, so they are compared apart.
  std::vector<T> inner, outer;
  std::vector<double> rinner, router;
  for (std::size_t i = 0; i < rz.size(); ++i) {
    const bool in = static_cast<index_t>(i) % stride < cols;
    (in ? inner : outer).push_back(z1[i]);
    (in ? rinner : router).push_back(rz[i]);
  }
  expect(name + " z", inner, rinner, gradient ? most<T>(true) : 0);
  if (!outer.empty()) expect(name + " between", outer, router, 0);
  expect(name + " nll", nll1, rnll, 1e-5);
}

template <class T>
void check_gather(cuda_queue& q, index_t rows, index_t cols, index_t keys) {
  const std::string name = std::string("gather ") + type_name<T>() + " " + shape(rows, cols) + " of " + std::to_string(keys);
  const auto table = normals<T>(keys * cols, 21), x = normals<T>(rows * cols, 22);
  std::vector<int> id(static_cast<std::size_t>(rows));
  for (index_t r = 0; r < rows; ++r)
    id[static_cast<std::size_t>(r)] = static_cast<int>(philox{7, 0, 23}.below(static_cast<std::uint32_t>(keys + 1), static_cast<std::uint64_t>(r), 0)) - 1;
  const device<T> dtable(table), dx(x);
  const device<int> did(id);
  for (const bool add : {false, true}) {
    device<T> y(rows * cols);
    cd::gather_rows<T>(q, rows, cols, dtable.data(), did.data(), add ? dx.data() : nullptr, y.data());
    std::vector<double> want(x.size());
    for (index_t i = 0; i < rows * cols; ++i) {
      const int k = id[static_cast<std::size_t>(i / cols)];
      want[static_cast<std::size_t>(i)] = (k < 0 ? 0 : double(table[static_cast<std::size_t>(k * cols + i % cols)])) + (add ? double(x[static_cast<std::size_t>(i)]) : 0);
    }
    expect(name + (add ? " added" : ""), y.read(), want, add ? most<T>(false) : 0);
  }
}

enum class order { sentences, holes, random, one, reversed, frequent };
std::vector<int> make_ids(order how, index_t rows, index_t keys) {
  const philox random{7, 0, 31};
  std::vector<int> id(static_cast<std::size_t>(rows));
  for (index_t r = 0; r < rows; ++r) {
    const auto u = static_cast<std::uint64_t>(r);
    int k = 0;
    switch (how) {
      case order::sentences: k = static_cast<int>(r * keys / rows); break;
      case order::holes:  // long stretches and the end too, with other numbers below 0 than -1
        if (rows > 200 && (r / 50 == 2 || r >= rows - 45)) k = -7;
        else k = r % 11 == 5 || r < 3 ? -1 : static_cast<int>(r * keys / rows / 2 * 2 % keys);  // ascending, odd ones empty
        break;
      case order::random: k = static_cast<int>(random.below(static_cast<std::uint32_t>(keys + 1), u, 0)) - 1; break;
      case order::one: k = static_cast<int>(keys / 2); break;
      case order::reversed: k = static_cast<int>((rows - 1 - r) * keys / rows); break;
      case order::frequent: k = random.below(3, u, 1) == 0 ? static_cast<int>(keys - 1) : static_cast<int>(random.below(static_cast<std::uint32_t>(keys), u, 0)); break;
    }
    id[static_cast<std::size_t>(r)] = k;
  }
  return id;
}
template <class T>
void check_scatter(cuda_queue& q, index_t rows, index_t cols, index_t keys, order how) {
  static const char* const names[] = {"sentences", "holes", "random", "one", "reversed", "frequent"};
  const std::string name = std::string(type_name<T>()) + " " + shape(rows, cols) + " into " + std::to_string(keys) + " " + names[static_cast<int>(how)];
  const auto x = normals<T>(rows * cols, 32), table = normals<T>(keys * cols, 33);
  const std::vector<int> id = make_ids(how, rows, keys);
  const device<T> dx(x);
  const device<int> did(id);
  std::vector<double> want(table.size());
  for (std::size_t i = 0; i < table.size(); ++i) want[i] = double(table[i]);
  for (index_t r = 0; r < rows; ++r)
    if (id[static_cast<std::size_t>(r)] >= 0)
      for (index_t c = 0; c < cols; ++c) want[static_cast<std::size_t>(id[static_cast<std::size_t>(r)] * cols + c)] += double(x[static_cast<std::size_t>(r * cols + c)]);
  for (const bool segments : {true, false}) {
    std::vector<T> first;
    for (int run = 0; run < 2; ++run) {
      device<T> sums(table);
      // What the scratch memory held before must not matter.
      cd::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      cd::check(cudaMemsetAsync(q.scratch(1 << 20), 0xFF, 1 << 20, q.stream()), "cudaMemsetAsync");
      if (segments) cd::add_segment_sums<T>(q, rows, cols, keys, dx.data(), did.data(), sums.data());
      else cd::scatter_add_rows<T>(q, rows, cols, keys, dx.data(), did.data(), sums.data());
      if (run == 0) first = sums.read();
      else same_bits((segments ? "segments " : "scatter ") + name, first, sums.read());
    }
    expect((segments ? "segments " : "scatter ") + name, first, want, most<T>(false));
  }
}

template <class T>
struct product_entry {
  const T *a, *b;
  index_t cols;
  PLANLM_HD accum_of<T> operator()(index_t r, index_t c) const { return accum_of<T>(a[r * cols + c]) * accum_of<T>(b[r * cols + c]); }
};
template <class T>
void check_columns(cuda_queue& q, index_t rows, index_t cols) {
  const std::string name = std::string("columns ") + type_name<T>() + " " + shape(rows, cols);
  const auto a = normals<T>(rows * cols, 41), b = normals<T>(rows * cols, 42), y0 = normals<T>(cols, 43);
  const device<T> da(a), db(b);
  std::vector<double> product(y0.size()), sum(y0.size());
  for (index_t c = 0; c < cols; ++c) product[c] = sum[c] = double(y0[c]);
  for (index_t r = 0; r < rows; ++r)
    for (index_t c = 0; c < cols; ++c) {
      const std::size_t i = static_cast<std::size_t>(r * cols + c);
      product[c] += double(a[i]) * double(b[i]);
      sum[c] += double(a[i]);
    }
  std::vector<T> first;
  for (int run = 0; run < 2; ++run) {
    device<T> y(y0);
    cd::add_column_sums(q, rows, cols, product_entry<T>{da.data(), db.data(), cols}, y.data());
    if (run == 0) first = y.read(), expect(name + " product", first, product, most<T>(true));
    else same_bits(name, first, y.read());
  }
  device<T> y(y0);
  if (cd::add_matrix_column_sums<T>(q, rows, cols, da.data(), y.data())) expect(name + " matrix", y.read(), sum, most<T>(true));
}

/// A row kernel that uses everything a team has: y = x - max + sum / n.
template <class T>
struct probe_row {
  const T* x;
  accum_of<T>* y;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    using A = accum_of<T>;
    const T* from = x + r * cols;
    A* to = y + r * cols;
    const index_t n = cols;
    const A top = team.template max<A>(n, [=](index_t i) { return A(from[i]); });
    team.for_each(n, [=](index_t i) { to[i] = A(from[i]) - top; });
    team.sync();
    const A mean = team.template sum<A>(n, [=](index_t i) { return A(to[n - 1 - i]); }) / A(n);
    team.sync();
    team.for_each(n, [=](index_t i) { to[i] -= mean; });
  }
};
template <class T>
struct wide_probe_row : probe_row<T> {
  PLANLM_HD index_t width() const { return 1 << 20; }
};
template <class T, template <class> class Row>
void check_rows(cuda_queue& q, index_t rows, index_t cols) {
  using A = accum_of<T>;
  const auto x = normals<T>(rows * cols, 51);
  const device<T> dx(x);
  device<A> y(rows * cols);
  Row<T> row;
  row.x = dx.data(), row.y = y.data(), row.cols = cols;
  cd::for_rows(q, rows, row);
  std::vector<double> want(x.size());
  for (index_t r = 0; r < rows; ++r) {
    const T* from = &x[static_cast<std::size_t>(r * cols)];
    double mean = 0;
    for (index_t c = 0; c < cols; ++c) mean += double(from[c]);
    for (index_t c = 0; c < cols; ++c) want[static_cast<std::size_t>(r * cols + c)] = double(from[c]) - mean / double(cols);
  }
  expect(std::string("rows ") + type_name<T>() + " " + shape(rows, cols), y.read(), want, cols < 2 ? 1e-6 : 1e-5);
}

template <class T>
void check_elements(cuda_queue& q, index_t n, index_t offset) {
  using A = accum_of<T>;
  const std::string name = std::string("elements ") + type_name<T>() + " " + std::to_string(n) + " from " + std::to_string(offset);
  const auto x = normals<T>(n + offset, 61), b = normals<T>(n + offset, 62);
  const device<T> dx(x), db(b);
  const auto run = [&](const char* what, const auto& make, const auto& f) {
    device<T> y(b);
    cd::for_each(q, n, make(dx.data() + offset, db.data() + offset, y.data() + offset));
    std::vector<double> want(b.size());
    for (index_t i = 0; i < n + offset; ++i) {
      const std::size_t k = static_cast<std::size_t>(i);
      want[k] = i < offset ? double(b[k]) : f(double(x[k]), double(b[k]));
    }
    expect(name + " " + what, y.read(), want, most<T>(false));
  };
  run("gelu", [](const T* u, const T*, T* y) { return ops::kernel::map<ops::gelu, T>{u, y}; }, [](double u, double) { return ops::gelu::f(u); });
  run("gelu pullback", [](const T* u, const T* v, T* y) { return ops::kernel::map_pullback<ops::gelu, T>{u, v, y}; },
      [](double u, double v) { return v * ops::gelu::df(u); });
  run("sum", [](const T* u, const T* v, T* y) { return ops::kernel::sum<T>{u, v, y}; }, [](double u, double v) { return u + v; });
  run("add scaled", [](const T* u, const T*, T* y) { return ops::kernel::add_scaled<T>{A(-0.5), u, y}; },
      [](double u, double v) { return v - 0.5 * u; });
  run("scale", [](const T* u, const T*, T* y) { return ops::kernel::scale<T>{A(3), u, y}; }, [](double u, double) { return 3 * u; });
  run("fill", [](const T*, const T*, T* y) { return ops::kernel::fill<T>{T(A(2)), y}; }, [](double, double) { return 2.0; });
}

struct plain_range {
  index_t offset, size;
  double factor;
};
template <class T>
void check_update(cuda_queue& q, index_t n, const std::vector<plain_range>& ranges, bool clipped) {
  using A = accum_of<T>;
  const std::string name = std::string("adamw ") + type_name<T>() + " " + std::to_string(n) + " in " + std::to_string(ranges.size()) + " ranges";
  const auto w = normals<A>(n, 71), m = normals<A>(n, 72, 0.1);
  auto v = normals<A>(n, 73, 0.1);
  for (A& s : v) s = s * s;
  const auto g = normals<T>(n, 74);
  std::vector<double> rw(w.size());
  const double b1 = 0.9, b2 = 0.99, rate = 0.01, correction = 1.5, epsilon = 1e-8, decay = 0.1, factor = clipped ? 0.25 : 1;
  std::size_t at = 0;
  for (index_t i = 0; i < n; ++i) {
    const std::size_t k = static_cast<std::size_t>(i);
    while (at < ranges.size() && i >= ranges[at].offset + ranges[at].size) ++at;
    const double multiplier = at < ranges.size() && i >= ranges[at].offset ? ranges[at].factor : 1;
    const double gradient = double(g[k]) * factor, mean = b1 * double(m[k]) + (1 - b1) * gradient;
    const double square = b2 * double(v[k]) + (1 - b2) * gradient * gradient;
    rw[k] = double(w[k]) - (rate * mean / (std::sqrt(square) * correction + epsilon) + decay * multiplier * double(w[k]));
  }
  std::vector<A> first;
  const device<A> dfactor(std::vector<A>{A(factor)}), dnan(std::vector<A>{A(NAN)});
  for (int run = 0; run < 2; ++run) {
    device<A> dw(w), dm(m), dv(v);
    device<T> dg(g), copy(n);
    T* const rounded = sizeof(T) == sizeof(A) ? nullptr : copy.data();
    const kernel::adamw<A> rule{dm.data(), dv.data(), A(b1), A(1 - b1), A(b2), A(1 - b2), A(rate), A(correction), A(epsilon), A(decay)};
    cd::update_weights<T, A>(q, n, dw.data(), rounded, dg.data(), static_cast<const A*>(dnan.data()), ranges, rule);
    expect(name + " left alone", dw.read(), std::vector<double>(w.begin(), w.end()), 0);
    if (!cd::update_weights<T, A>(q, n, dw.data(), rounded, dg.data(), static_cast<const A*>(clipped ? dfactor.data() : nullptr), ranges, rule)) {
      std::printf("SKIP %s: left to the plain composition\n", name.c_str());
      return;
    }
    if (run == 1) {
      same_bits(name, first, dw.read());
      continue;
    }
    first = dw.read();
    expect(name + " w", first, rw, 1e-6);
    expect(name + " g", dg.read(), std::vector<double>(g.size(), 0), 0);
    if (rounded) expect(name + " copy", copy.read(), rw, 2e-3);
  }
}
template <class T>
void check_squares(cuda_queue& q, index_t n) {
  constexpr index_t block = 8192;
  const auto x = normals<T>(n, 81);
  const device<T> dx(x);
  device<accum_of<T>> part((n + block - 1) / block);
  cd::block_squares<block, T>(q, n, dx.data(), part.data());
  std::vector<double> want(static_cast<std::size_t>((n + block - 1) / block));
  for (index_t i = 0; i < n; ++i) want[static_cast<std::size_t>(i / block)] += double(x[static_cast<std::size_t>(i)]) * double(x[static_cast<std::size_t>(i)]);
  expect(std::string("squares ") + type_name<T>() + " " + std::to_string(n), part.read(), want, 1e-5);
}

template <class T>
void norms(cuda_queue& q) {
  for (const index_t cols : {1, 5, 22, 101, 768, 1024, 2048, 4096, 6144, 8192, 16384})
    for (const index_t rows : {1, 3, 37, 1000})
      if (rows * cols < 5'000'000) {
        check_norm<T, true>(q, rows, cols, rows == 37);
        check_norm<T, false>(q, rows, cols, rows == 3);
      }
  check_norm<T, true>(q, 8191, 768, true);
}
template <class T>
void losses(cuda_queue& q) {
  for (const index_t cols : {1, 5, 22, 101, 1024, 2048, 8200, 50257})
    for (const index_t rows : {1, 3, 37}) {
      check_cross_entropy<T>(q, rows, cols, cols, rows == 37, true);
      check_cross_entropy<T>(q, rows, cols, (cols + 7) / 8 * 8 + 8, rows == 3, rows != 1);
    }
  check_cross_entropy<T>(q, 1000, 1024, 1024, true, true);
  check_cross_entropy<T>(q, 500, 50257, 50264, true, true);
}
template <class T>
void gathers(cuda_queue& q) {
  for (const index_t cols : {1, 5, 22, 101, 768, 2048})
    for (const index_t rows : {1, 3, 37, 1000}) check_gather<T>(q, rows, cols, rows / 3 + 1);
  check_gather<T>(q, 8191, 768, 50257);
}
template <class T>
void scatters(cuda_queue& q) {
  for (const index_t cols : {1, 22, 101, 768})
    for (const index_t rows : {1, 3, 37, 1000, 8191})
      for (const order how : {order::sentences, order::holes, order::random, order::one, order::reversed, order::frequent}) {
        check_scatter<T>(q, rows, cols, rows / 20 + 1, how);
        if (rows == 8191 && cols == 768) check_scatter<T>(q, rows, cols, 3, how), check_scatter<T>(q, rows, cols, 50257, how);
      }
  check_scatter<T>(q, 70001, 64, 70000, order::random);  // three digits
  check_scatter<T>(q, 16384, 2048, 700, order::sentences);
}
template <class T>
void columns(cuda_queue& q) {
  for (const index_t cols : {1, 5, 22, 101, 768, 3072})
    for (const index_t rows : {1, 3, 37, 1000, 8191}) check_columns<T>(q, rows, cols);
}
template <class T>
void loops(cuda_queue& q) {
  for (const index_t cols : {1, 5, 22, 101, 768, 50257})
    for (const index_t rows : {1, 3, 37, 100}) check_rows<T, probe_row>(q, rows, cols), check_rows<T, wide_probe_row>(q, rows, cols);
  check_rows<T, probe_row>(q, 1, 1'000'003);
  for (const index_t n : {1, 5, 101, 4096, 1'000'003})
    for (const index_t offset : {0, 1, 8}) check_elements<T>(q, n, offset);
}
template <class T>
void updates(cuda_queue& q) {
  check_update<T>(q, 16, {}, false);
  check_update<T>(q, 100'000, {{16, 32, 0}, {64, 4096, 0.5}, {90'000, 10'000, 0}}, true);
  check_update<T>(q, 10'001, {}, true);
  std::vector<plain_range> many;
  for (index_t i = 0; i < 500; ++i) many.push_back({i * 2000 + 16, 16 + 16 * (i % 50), i % 2 ? 0.0 : 2.0});
  check_update<T>(q, 1'000'000, many, true);
  for (const index_t n : {1, 100, 8192, 8193, 1'000'003}) check_squares<T>(q, n);
}

/// A few of each, in a few seconds.
template <class T>
void quick(cuda_queue& q) {
  for (const index_t cols : {5, 768, 1000, 2048, 6144}) check_norm<T, true>(q, 203, cols, true), check_norm<T, false>(q, 37, cols, false);
  check_cross_entropy<T>(q, 37, 50257, 50264, true, true);
  check_cross_entropy<T>(q, 37, 1024, 1024, false, true);
  check_cross_entropy<T>(q, 37, 8200, 8200, false, true);
  check_gather<T>(q, 1000, 768, 100);
  for (const order how : {order::sentences, order::holes, order::one, order::frequent}) {
    check_scatter<T>(q, 3001, 768, 150, how);
    check_scatter<T>(q, 3001, 22, 5, how);
  }
  check_columns<T>(q, 1000, 768);
  check_rows<T, probe_row>(q, 3, 50257);
  check_elements<T>(q, 4101, 0);
  check_update<T>(q, 100'000, {{16, 32, 0}, {64, 4096, 0.5}, {90'000, 10'000, 0}}, true);
}

template <class T>
void add_cases(std::vector<std::pair<std::string, std::function<void(cuda_queue&)>>>& cases) {
  const std::string type = type_name<T>();
  cases.push_back({"quick." + type, quick<T>});
  cases.push_back({"norm." + type, norms<T>});
  cases.push_back({"cross_entropy." + type, losses<T>});
  cases.push_back({"gather." + type, gathers<T>});
  cases.push_back({"scatter." + type, scatters<T>});
  cases.push_back({"columns." + type, columns<T>});
  cases.push_back({"loops." + type, loops<T>});
  cases.push_back({"updates." + type, updates<T>});
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<std::pair<std::string, std::function<void(cuda_queue&)>>> cases;
  add_cases<bfloat16>(cases);
  add_cases<float>(cases);
  if (argc > 1 && std::string(argv[1]) == "list") {
    for (const auto& c : cases) std::printf("%s\n", c.first.c_str());
    return 0;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU for the checks of rows\n");
    return 77;
  }
  for (const auto& [name, run] : cases) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted = wanted || name.rfind(argv[i], 0) == 0;
    if (!wanted) continue;
    try {
      cuda_queue q;
      run(q);
    } catch (const std::exception& e) {
      ++failures;
      std::printf("FAIL %s: %s\n", name.c_str(), e.what());
    }
  }
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures ? 1 : 0;
}
