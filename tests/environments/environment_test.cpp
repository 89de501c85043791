/// Environments: numbering, rewards, and what a state graph refuses.
#include <planlm/environments/environment.hpp>

#include <cstdint>
#include <planlm/environments/binary_tree.hpp>
#include <planlm/environments/bit_sequence.hpp>
#include <planlm/environments/hyper_grid.hpp>
#include <set>

#include "../catch.hpp"
#include "fixtures.hpp"

namespace {

using namespace planlm;

static_assert(Environment<hyper_grid> && Environment<string_tree> && Environment<binary_tree> && Environment<bit_sequence> && Environment<state_graph>);

template <class E>
void check_same(const E& env) {
  const state_graph graph(env);
  REQUIRE(graph.states() == env.states());
  index_t edges = 0, back = 0;
  for (index_t s = 0; s < env.states(); ++s) {
    for (int a = 0; a < env.actions(); ++a) {
      edges += graph.child(s, a) != -1;
      back += graph.parent(s, a) != -1;
      REQUIRE(graph.child(s, a) == env.child(s, a));
    }
    REQUIRE(graph.stops(s) == env.stops(s));
    if (env.stops(s)) REQUIRE(graph.log_reward(s) == env.log_reward(s));
  }
  CHECK(edges == back);
}

/// Three states in a row, spoilt by what each test says.
struct line {
  index_t loops = -1;
  bool stop = true;
  double reward = 0;
  index_t states() const { return 3; }
  int actions() const { return 1; }
  index_t child(index_t s, int) const { return s == 1 && loops >= 0 ? loops : s < 2 ? s + 1 : -1; }
  index_t parent(index_t s, int) const { return s - 1; }
  bool stops(index_t s) const { return stop && s == 2; }
  double log_reward(index_t) const { return reward; }
};

std::string complaint(const line& env) {
  try {
    state_graph graph(env);
  } catch (const error& e) {
    return e.what();
  }
  return "none";
}

}  // namespace

TEST_CASE("every environment's steps go up and lead back", "[environments]") {
  check_same(hyper_grid(3, 4));
  check_same(fixtures::seven_strings());
  check_same(fixtures::second_order_model::tree(1, 2));
  check_same(binary_tree({0, 1, minus_infinity, 3}));
  check_same(bit_sequence(2, 3, {0b110000}));
}

TEST_CASE("a state graph names the state that is wrong", "[environments]") {
  CHECK(complaint({}) == "none");
  CHECK(complaint({.loops = 0}) == "state_graph: state 1: action 0 leads to 0, which must be larger and lead back");
  CHECK(complaint({.stop = false}) == "state_graph: state 2: neither stops nor goes on");
  CHECK(complaint({.reward = INFINITY}) == "state_graph: state 2: has log reward inf");
  CHECK(complaint({.reward = minus_infinity}) == "none");
  CHECK(complaint({.reward = std::nan("")}).find("has log reward") != std::string::npos);
}

TEST_CASE("fact 32: hyper-grid rewards have the known sums and numbers of modes", "[environments]") {
  struct known {
    int dimensions, side;
    double r0, z, log_z;
    index_t states, modes;
  };
  for (const known& k : {known{2, 8, .1, 22.4, 3.109060958861, 64, 4}, known{2, 16, .1, 65.6, 4.18357569595, 256, 4},
                         known{4, 8, .1, 569.6, 6.344934360098, 4096, 16}, known{2, 64, .1, 1209.6, 7.098045005425, 4096, 144},
                         known{2, 8, .001, 16.064, 2.776580743509, 64, 4}}) {
    const hyper_grid grid(k.dimensions, k.side, grid_reward::original, {k.r0});
    CAPTURE(k.dimensions, k.side, k.r0);
    CHECK(grid.states() == k.states);
    CHECK(grid.modes() == k.modes);
    double z = 0;
    for (index_t s = 0; s < grid.states(); ++s) z += grid.reward(s);
    CHECK(z == Approx(k.z).epsilon(1e-12));
    CHECK(std::log(z) == Approx(k.log_z).epsilon(1e-11));
  }
}

TEST_CASE("the 8 x 8 grid has its 64 rewards", "[environments]") {
  const hyper_grid grid(2, 8);
  for (int x = 0; x < 8; ++x)
    for (int y = 0; y < 8; ++y) {
      const auto end = [](int c) { return c < 2 || c > 5; };
      const auto mode = [](int c) { return c == 1 || c == 6; };
      const double expected = mode(x) && mode(y) ? 2.6 : end(x) && end(y) ? 0.6 : 0.1;
      CHECK(grid.reward(8 * x + y) == Approx(expected).epsilon(1e-13));
    }
  CHECK(grid.coordinate(8 * 3 + 5, 0) == 3);
  CHECK(grid.coordinate(8 * 3 + 5, 1) == 5);
}

TEST_CASE("a point on a border does not hang on rounding", "[environments]") {
  // side 11: x = 1 has |x / 10 - .5| = .4 and x = 2 has .3, neither inside (.3, .4); the deceptive band takes .4 in.
  CHECK(hyper_grid(1, 11).reward(1) == Approx(.6));
  CHECK(hyper_grid(1, 11).reward(2) == Approx(.6));
  CHECK(hyper_grid(1, 11, grid_reward::deceptive).reward(1) == Approx(2.00001));
  CHECK(hyper_grid(1, 11, grid_reward::deceptive).reward(2) == Approx(.00001));
  CHECK(hyper_grid(1, 11, grid_reward::deceptive).reward(4) == Approx(.10001));
}

TEST_CASE("cosine, sparse and deceptive grids by hand", "[environments]") {
  // cosine in the middle of an odd side: c = 0 in both axes, ((1 + 1) / sqrt(2 pi))^2 = 2 / pi.
  const hyper_grid cosine(2, 9, grid_reward::cosine);
  CHECK(cosine.reward(9 * 4 + 4) == Approx(.1 + .5 * 2 / 3.14159265358979).epsilon(1e-10));
  // sparse, side 8: points of 1s and 6s with at least one 6.
  const hyper_grid sparse(2, 8, grid_reward::sparse);
  std::set<index_t> high;
  for (index_t s = 0; s < sparse.states(); ++s)
    if (sparse.reward(s) > .5) high.insert(s);
  CHECK(high == std::set<index_t>{8 * 1 + 6, 8 * 6 + 1, 8 * 6 + 6});
  const hyper_grid deceptive(2, 16, grid_reward::deceptive);
  CHECK(deceptive.modes() == 4);
  CHECK(deceptive.reward(16 * 2 + 2) == Approx(2.00001));
  CHECK(deceptive.reward(16 * 7 + 2) == Approx(.10001));
  CHECK(deceptive.reward(0) == Approx(.00001));
}

TEST_CASE("strings are numbered by length, then letter by letter", "[environments]") {
  const string_tree tree = fixtures::second_order_model::tree(1);
  CHECK(tree.states() == 341);
  CHECK(tree.state_of({}) == 0);
  CHECK(tree.state_of({3}) == 4);
  CHECK(tree.state_of({0, 0}) == 5);
  CHECK(tree.letters_of(tree.state_of({2, 1, 3, 0})) == std::vector<int>{2, 1, 3, 0});
  CHECK(tree.child(tree.state_of({2, 1}), 3) == tree.state_of({2, 1, 3}));
  CHECK(tree.child(tree.state_of({2, 1, 3, 0}), 1) == -1);
  CHECK(tree.parent(tree.state_of({2, 1, 3}), 3) == tree.state_of({2, 1}));
  CHECK(tree.parent(tree.state_of({2, 1, 3}), 2) == -1);
  CHECK_THROWS_AS(tree.state_of({4}), error);
  CHECK_FALSE(fixtures::second_order_model::tree(1, 1).stops(0));
}

TEST_CASE("bit sequences reward what is near a mode", "[environments]") {
  const bit_sequence env(2, 4, {0b11110000, 0b00111100}, 2);
  CHECK(env.states() == 1 + 4 + 16 + 64 + 256);
  index_t s = 0;
  for (const int word : {3, 3, 0, 1}) {
    CHECK_FALSE(env.stops(s));
    s = env.child(s, word);
  }
  CHECK(env.stops(s));
  CHECK(env.bits_of(s) == 0b11110001);
  CHECK(env.log_reward(s) == Approx(-.5));
  const std::vector<std::uint64_t> modes = motif_modes(16, 20, philox{3});
  CHECK(std::set<std::uint64_t>(modes.begin(), modes.end()).size() == 20);
  const std::set<std::uint64_t> motifs{0x00, 0xFF, 0xF0, 0x0F, 0x3C};
  for (const std::uint64_t m : modes) CHECK((motifs.count(m >> 8) == 1 && motifs.count(m & 0xFF) == 1));
  CHECK_THROWS_AS(motif_modes(8, 6, philox{1}), error);  // there are five
}

TEST_CASE("sizes that make no environment are refused", "[environments]") {
  CHECK_THROWS_AS(hyper_grid(0, 8), error);
  CHECK_THROWS_AS(hyper_grid(2, 1), error);
  CHECK_THROWS_AS(hyper_grid(40, 8), error);
  CHECK_THROWS_AS(binary_tree({1, 2, 3}), shape_error);
  CHECK_THROWS_AS(bit_sequence(2, 4, {}), error);
  CHECK_THROWS_WITH(bit_sequence(2, 4, {255, 256}), "bit_sequence: mode 256 has more than 8 bits");
  CHECK_THROWS_AS(string_tree(2, 2, [](const std::vector<int>&) { return 0.0; }, 3), error);
}
