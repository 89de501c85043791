// Every row kernel of ops under a team of four lanes. Built with the thread sanitizer, this is also where a
// missing sync shows.
#include <planlm/testing/lane_team.hpp>

#include <cmath>
#include <limits>

#include <planlm/backend/team.hpp>
#include <planlm/ops/attention.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/norm.hpp>
#include <planlm/ops/pool.hpp>
#include <planlm/ops/positions.hpp>
#include <planlm/ops/running_mean.hpp>
#include <planlm/ops/softmax.hpp>
#include <planlm/planning/context_gate.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"

using namespace planlm;
using testing::largest_error;
using testing::normal_values;
using testing::run_lanes;

namespace {

using numbers = std::vector<double>;
const double nan_value = std::numeric_limits<double>::quiet_NaN();

numbers poisoned(index_t n) { return numbers(static_cast<std::size_t>(n), nan_value); }

/// `run(launch, rows)` calls launch(rows, kernel) on fresh outputs and returns them: by one thread and by
/// four lanes they must agree.
template <class Run>
void check_lanes(Run run) {
  const numbers serial = run([](index_t rows, const auto& kernel) {
    for (index_t r = 0; r < rows; ++r) kernel(serial_team{}, r);
  });
  const numbers lanes = run([](index_t rows, const auto& kernel) { run_lanes<4>(rows, kernel); });
  CHECK(largest_error(serial, serial) == 0);  // nothing is left unwritten
  CHECK(largest_error(lanes, serial) < 1e-12);
}

numbers joined(numbers a, const numbers& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

const index_t widths[] = {1, 3, 4, 17, 70};  // fewer columns than lanes, as many, and no multiple

}  // namespace

static_assert(Team<testing::lane_team<1>> && Team<testing::lane_team<32>>);

TEST_CASE("lanes share a loop, and every lane receives the same sum and maximum") {
  for (const index_t n : {1, 2, 3, 4, 5, 63}) {
    CAPTURE(n);
    const numbers x = normal_values(n, 3);
    double sum = 0, top = x[0];
    for (const double v : x) {
      sum += v;
      top = std::max(top, v);
    }
    std::vector<int> visits(static_cast<std::size_t>(n));
    std::vector<double> sums(4), tops(4), whole(4);
    std::atomic<int> leaders{0};
    struct kernel {
      const double* x;
      int* visits;
      double *sums, *tops, *whole;
      std::atomic<int>* leaders;
      index_t n;
      void operator()(const testing::lane_team<4>& team, index_t) const {
        team.for_each(n, [=, this](index_t i) { visits[i] += static_cast<int>(i % 4) + 1; });
        const double s = team.sum<double>(n, [=, this](index_t i) { return x[i]; });
        const double t = team.max<double>(n, [=, this](index_t i) { return x[i]; });
        const auto count = team.sum<float>(n, [](index_t) { return 1.0f; });
        // for_each over the lanes themselves: index i belongs to lane i.
        team.for_each(4, [=, this](index_t lane) {
          sums[lane] = s;
          tops[lane] = t;
          whole[lane] = static_cast<double>(count);
        });
        if (team.leader()) leaders->fetch_add(1);
      }
    };
    run_lanes<4>(1, kernel{x.data(), visits.data(), sums.data(), tops.data(), whole.data(), &leaders, n});
    for (index_t i = 0; i < n; ++i) CHECK(visits[static_cast<std::size_t>(i)] == i % 4 + 1);
    for (std::size_t lane = 0; lane < 4; ++lane) {
      CHECK(sums[lane] == Approx(sum));
      CHECK(testing::same_bits(sums, numbers(4, sums[0])));
      CHECK(tops[lane] == top);
      CHECK(whole[lane] == static_cast<double>(n));
    }
    CHECK(leaders == 1);
  }
}

TEST_CASE("gather_rows and scatter_add_rows give the same under lanes") {
  const std::vector<int> ids{2, 0, -1, 2, 1, 2};
  const index_t rows = 6, table_rows = 3;
  for (const index_t cols : widths) {
    CAPTURE(cols);
    const numbers table = normal_values(table_rows * cols, 1), x = normal_values(rows * cols, 2);
    for (const bool add : {false, true})
      check_lanes([&](auto launch) {
        numbers y = poisoned(rows * cols);
        launch(rows, ops::kernel::gather_rows<double>{table.data(), ids.data(), add ? x.data() : nullptr,
                                                      y.data(), cols});
        return y;
      });
    check_lanes([&](auto launch) {
      numbers sums = table;
      const index_t block = 8;
      launch((cols + block - 1) / block,
             ops::kernel::scatter_add_rows<double>{x.data(), ids.data(), sums.data(), rows, cols, block});
      return sums;
    });
  }
}

TEST_CASE("running means and gated rows, and their pullbacks, give the same under lanes") {
  const std::vector<int> offsets{0, 1, 5, 9}, sentence{1, 0, -1, 0, 1, 1, 1, -1, 0};
  const index_t rows = 9;
  for (const index_t cols : widths) {
    CAPTURE(cols);
    const numbers x = normal_values(rows * cols, 1), dy = normal_values(rows * cols, 2);
    check_lanes([&](auto launch) {
      numbers y = poisoned(rows * cols), dx = y;
      launch(3, ops::kernel::running_mean<double>{x.data(), offsets.data(), y.data(), cols});
      launch(3, ops::kernel::running_mean_pullback<double>{dy.data(), offsets.data(), dx.data(), cols});
      return joined(y, dx);
    });
    for (const index_t gates : {index_t{1}, cols}) {
      const numbers plan = normal_values(2 * (cols + gates), 3), m = normal_values(rows * gates, 4);
      check_lanes([&](auto launch) {
        numbers y = poisoned(rows * cols), dm = poisoned(rows * gates), dplan(static_cast<std::size_t>(rows * (cols + gates)));
        launch(rows, gate_kernel::add_gated<double>{x.data(), plan.data(), m.data(), sentence.data(), y.data(), cols, gates});
        launch(rows, gate_kernel::add_gated_pullback<double>{dy.data(), plan.data(), m.data(), sentence.data(), dplan.data(), dm.data(),
                                                             cols, gates});
        return joined(joined(y, dm), dplan);
      });
    }
  }
}

TEST_CASE("softmax and its pullback give the same under lanes") {
  const index_t rows = 5;
  for (const index_t cols : widths) {
    CAPTURE(cols);
    const numbers z = normal_values(rows * cols, 1, 3), dp = normal_values(rows * cols, 2);
    check_lanes([&](auto launch) {
      numbers p = poisoned(rows * cols), dz = p;
      launch(rows, ops::kernel::softmax<double>{z.data(), p.data(), cols, 1 / 0.7});
      launch(rows, ops::kernel::softmax_pullback<double>{p.data(), dp.data(), dz.data(), cols, 1 / 0.7});
      return joined(p, dz);
    });
  }
}

TEST_CASE("norm and its pullback give the same under lanes") {
  const index_t rows = 5;
  for (const index_t cols : widths) {
    CAPTURE(cols);
    const numbers x = normal_values(rows * cols, 1), dy = normal_values(rows * cols, 2),
                  scale = normal_values(cols, 3), shift = normal_values(cols, 4);
    check_lanes([&](auto launch) {
      numbers y = poisoned(rows * cols), mean = poisoned(rows), rstd = mean, dx = y;
      launch(rows, ops::kernel::norm<double, true>{x.data(), scale.data(), shift.data(), y.data(),
                                                   mean.data(), rstd.data(), cols, 0.1});
      launch(rows, ops::kernel::norm_pullback<double, true>{x.data(), scale.data(), mean.data(), rstd.data(),
                                                            dy.data(), dx.data(), cols});
      return joined(joined(y, mean), joined(rstd, dx));
    });
    check_lanes([&](auto launch) {
      numbers y = poisoned(rows * cols), rstd = poisoned(rows), dx = y;
      launch(rows, ops::kernel::norm<double, false>{x.data(), scale.data(), nullptr, y.data(), nullptr,
                                                    rstd.data(), cols, 0.1});
      launch(rows, ops::kernel::norm_pullback<double, false>{x.data(), scale.data(), nullptr, rstd.data(),
                                                             dy.data(), dx.data(), cols});
      return joined(joined(y, rstd), dx);
    });
  }
}

TEST_CASE("cross-entropy and its weighted total give the same under lanes") {
  const index_t rows = 6;
  for (const index_t cols : widths) {
    CAPTURE(cols);
    const int last = static_cast<int>(cols) - 1;
    const std::vector<int> target{0, last, -1, last / 2, 0, last};
    const numbers logits = normal_values(rows * cols, 1, 3), weight = normal_values(rows, 2);
    for (const bool gradient : {true, false})
      for (const double* weights : {static_cast<const double*>(nullptr), weight.data()})
        check_lanes([&](auto launch) {
          numbers z = logits, nll = poisoned(rows), total = poisoned(1);
          launch(rows, ops::kernel::cross_entropy<double>{z.data(), target.data(), weights, nll.data(), cols,
                                                          0.3, gradient});
          launch(1,
                 ops::kernel::weighted_total<double>{nll.data(), weights, 0.3, total.data(), rows});
          return joined(joined(z, nll), total);
        });
  }
}

TEST_CASE("masked softmax and its pullback give the same under lanes") {
  for (const index_t n : widths)
    for (const bool causal : {true, false}) {
      CAPTURE(n, causal);
      const numbers scores = normal_values(n * n, 1, 3), dp = normal_values(n * n, 2);
      check_lanes([&](auto launch) {
        numbers p = scores, dscores = dp, lse = poisoned(n);
        launch(n, ops::kernel::masked_softmax<double>{p.data(), lse.data(), n, 1, 0.6, causal});
        launch(n, ops::kernel::masked_softmax_pullback<double>{p.data(), dscores.data(), n, 0.6});
        return joined(joined(p, dscores), lse);
      });
    }
}

TEST_CASE("the mean of a sequence and its pullback give the same under lanes") {
  const std::vector<int> offset{0, 1, 4, 9};
  for (const index_t cols : widths) {
    CAPTURE(cols);
    const numbers x = normal_values(9 * cols, 1), dy = normal_values(3 * cols, 2);
    check_lanes([&](auto launch) {
      numbers y = poisoned(3 * cols), dx = poisoned(9 * cols);
      launch(3, ops::kernel::mean_pool<double>{x.data(), offset.data(), y.data(), cols});
      launch(3, ops::kernel::mean_pool_pullback<double>{dy.data(), offset.data(), dx.data(), cols});
      return joined(y, dx);
    });
  }
}

TEST_CASE("sinusoids and rotations give the same under lanes") {
  const std::vector<int> position{0, 3, 1, 40};
  const index_t rows = 4;
  for (const index_t cols : widths) {
    CAPTURE(cols);
    const numbers x = normal_values(rows * cols, 1);
    check_lanes([&](auto launch) {
      numbers y = poisoned(rows * cols);
      launch(rows, ops::kernel::add_sinusoids<double>{x.data(), position.data(), y.data(), cols});
      return y;
    });
  }
  for (const index_t width : {2, 6, 10}) {
    const index_t heads = 3, stride = heads * width + 5;
    const numbers start = normal_values(rows * stride, 2);
    for (const double direction : {1.0, -1.0})
      check_lanes([&](auto launch) {
        numbers x = start;
        launch(rows, ops::kernel::rotate<double>{x.data(), position.data(), stride, heads, width,
                                                 std::log(1e4), direction});
        return x;
      });
  }
}

namespace {

/// y_i = 2 x_(i+1): each lane reads what its neighbour wrote. Without Synced the leader writes only after the
/// others have read.
template <bool Synced>
struct neighbour {
  const double* x;
  std::atomic<double>*mine, *next;
  std::atomic<int>* readers;
  index_t n;
  template <class Team>
  void operator()(const Team& team, index_t) const {
    if (!Synced && team.leader())
      while (readers->load() < 3) std::this_thread::yield();
    team.for_each(n, [=, this](index_t i) { mine[i].store(2 * x[i], std::memory_order_relaxed); });
    if constexpr (Synced) team.sync();
    team.for_each(n, [=, this](index_t i) {
      next[i].store(mine[(i + 1) % n].load(std::memory_order_relaxed), std::memory_order_relaxed);
    });
    if (!team.leader()) readers->fetch_add(1);
  }
};

template <bool Synced>
double neighbour_error() {
  const numbers x{1, 2, 3, 4};
  std::vector<std::atomic<double>> mine(4), next(4);
  for (auto& value : mine) value = nan_value;
  std::atomic<int> readers{0};
  run_lanes<4>(1, neighbour<Synced>{x.data(), mine.data(), next.data(), &readers, 4});
  return largest_error(numbers(next.begin(), next.end()), numbers{4, 6, 8, 2});
}

}  // namespace

TEST_CASE(
    "a kernel that reads what another lane wrote needs its sync: lanes show the fault that one thread "
    "hides") {
  CHECK(neighbour_error<true>() == 0);
  CHECK(std::isinf(neighbour_error<false>()));
}
