// The head of a policy that may stop against PyTorch in float64: values and gradients, with nine digits.
#include <cmath>
#include <span>
#include <string>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/ops/token_policy.hpp>

#include "../catch.hpp"
#include "../models/golden.hpp"

using namespace planlm;
namespace files = testing::golden_files;

namespace {

template <class T>
void check_case(const files::json& file, const std::string& name, double limit) {
  using B = cpu<T>;
  INFO(name);
  const files::json& one = file.at("cases").at(name);
  const auto size = [&](const char* of) { return file.at("sizes").at(of).template get<index_t>(); };
  const index_t rows = size("rows"), width = size("width"), vocabulary = size("vocabulary");
  context<B> cx;
  const auto array = [&](const char* of, index_t n) {
    for (const files::json& each : file.at("arrays"))
      if (each.at("name") == of) {
        const std::vector<double> v = files::hashed(static_cast<std::size_t>(n), each.at("number"), each.at("scale"), 0);
        return cx.upload(std::vector<T>(v.begin(), v.end()));
      }
    throw error(std::string("token_policy.json has no array ") + of);
  };
  const auto matrix = [&](const char* of, index_t n) { return const_tensor<B>(array(of, n * width).data, n, width); };
  const const_tensor<B> hidden = matrix("hidden", rows), table = matrix("table", vocabulary);
  const auto tokens = file.at("tokens").get<std::vector<int>>(), stopping = one.at("stopping").get<std::vector<int>>();
  token_rules<B> rules{static_cast<int>(size("stop")), cx.upload(stopping)};
  if (one.at("penalised").get<bool>()) rules.penalty = array("penalty", vocabulary);
  const indices<B> taken = cx.upload(tokens);
  const auto dtaken = array("dtaken", rows), dstop = array("dstop", rows), dentropy = array("dentropy", rows);
  const auto near = [&](const auto& values, const char* of) {
    INFO(of);
    CHECK(files::distance(values, files::numbers(one.at(of))) < limit);
  };

  auto [v, pullback] = ops::linear_token_policy<B>(cx, hidden, table, taken, rules);
  const tensor<B> dtable = cx.make_zero(vocabulary, width);
  near(cx.read(v.taken), "taken");
  std::vector<T> stops;
  for (index_t r = 0; r < rows; ++r) {
    const bool forbidden = stopping[static_cast<std::size_t>(r)] == static_cast<int>(stop_rule::forbidden);
    CHECK((v.stop[r] == T(-INFINITY)) == forbidden);
    if (!forbidden) stops.push_back(v.stop[r]);
  }
  near(stops, "stop");
  near(cx.read(v.entropy), "entropy");
  near(cx.read(pullback(dtaken, dstop, dentropy, dtable)), "dhidden");
  near(cx.read(dtable), "dtable");

  auto [again, of_logits] = ops::token_policy<B>(cx, ops::matmul_nt<B>(cx, hidden, table), taken, rules);
  near(cx.read(again.taken), "taken");
  near(cx.read(of_logits(dtaken, dstop, dentropy)), "dz");
}

}  // namespace

TEST_CASE("the head of a policy that may stop has PyTorch's values and gradients, with rules and without") {
  const files::json file = files::golden("token_policy.json");
  for (const char* name : {"free", "rules"}) {
    check_case<double>(file, name, files::tolerance<double>);
    check_case<float>(file, name, files::tolerance<float>);
  }
}
