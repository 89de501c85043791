// Values and gradients of PyTorch in float64, kept with nine digits: agreement is to the last digit kept.
#include <fstream>
#include <map>
#include <set>
#include <string>

#include <nlohmann/json.hpp>
#include <planlm/layers/activation.hpp>
#include <planlm/layers/embedding.hpp>
#include <planlm/layers/linear.hpp>
#include <planlm/layers/lora.hpp>
#include <planlm/layers/norm.hpp>
#include <planlm/ops/attention.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/ops/positions.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

namespace {

using numbers = std::vector<double>;

const nlohmann::json& goldens() {
  static const nlohmann::json all =
      nlohmann::json::parse(std::ifstream(PLANLM_GOLDEN "/layers.json")).at("layers");
  return all;
}

/// The inputs that every language can make again: see tests/golden/hashed.py.
numbers hashed(const nlohmann::json& array) {
  std::size_t size = 1;
  for (const auto& extent : array.at("shape")) size *= extent.get<std::size_t>();
  const auto number = array.at("number").get<std::uint32_t>();
  const auto scale = array.at("scale").get<double>(), offset = array.at("offset").get<double>();
  numbers values(size);
  for (std::uint32_t i = 0; i < size; ++i) {
    std::uint32_t h = i * 2654435761u + (number + 1) * 2246822519u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    values[i] = static_cast<float>(offset + (h / 4294967296.0 - 0.5) * scale);
  }
  return values;
}

/// Half a unit of the ninth digit, and of the twelfth decimal for zeros.
bool agree(const numbers& got, const nlohmann::json& expected_json) {
  const auto expected =
      expected_json.is_array() ? expected_json.get<numbers>() : numbers{expected_json.get<double>()};
  if (got.size() != expected.size()) return false;
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - expected[i]) <= 5.01e-9 * std::abs(expected[i]) + 1e-12)) return false;
  return true;
}

class golden {
 public:
  explicit golden(const std::string& name) : all_(goldens().at(name)) {
    for (const auto& array : all_.at("arrays")) arrays_[array.at("name")] = hashed(array);
    if (all_.contains("upstream")) arrays_["upstream"] = hashed(all_.at("upstream"));
  }
  context<B> cx;
  template <class T = index_t>
  T size(const char* name) const {
    return all_.at("sizes").at(name).template get<T>();
  }
  const numbers& array(const char* name) const { return arrays_.at(name); }
  const_tensor<B> matrix(const char* name) {
    const numbers& values = array(name);
    auto cols = index_t{0};
    for (const auto& each : all_.at("arrays"))
      if (each.at("name") == name) cols = each.at("shape").at(1).get<index_t>();
    if (std::string(name) == "upstream") cols = all_.at("upstream").at("shape").at(1).get<index_t>();
    return cx.upload(std::span<const double>(values), static_cast<index_t>(values.size()) / cols, cols);
  }
  bool output_is(const numbers& y) const { return agree(y, all_.at("output")); }
  bool gradient_is(const char* name, const numbers& g) const {
    return agree(g, all_.at("gradients").at(name));
  }

  /// A layer whose parameters have the names of `renamed` (ours -> the file's) and whose input is x.
  template <class L>
  void check_layer(const L& layer, const std::map<std::string, std::string>& renamed) {
    parameters theta(cx, layer, philox{1});
    for (const auto& [ours, theirs] : renamed) theta.write(cx, theta.find(ours), array(theirs.c_str()));
    auto [y, pullback] = layer(cx, theta.weights, matrix("x"));
    CHECK(output_is(cx.read(y)));
    CHECK(gradient_is("x", cx.read(const_tensor<B>(pullback(matrix("upstream"), theta.grads)))));
    for (const auto& [ours, theirs] : renamed) {
      CAPTURE(ours);
      CHECK(gradient_is(theirs.c_str(), theta.read_gradient(cx, theta.find(ours))));
    }
  }

 private:
  const nlohmann::json& all_;
  std::map<std::string, numbers> arrays_;
};

}  // namespace

TEST_CASE("linear agrees with PyTorch") {
  golden g("linear");
  g.check_layer(linear<B>{g.size("inputs"), g.size("outputs")}, {{"w", "w"}, {"b", "b"}});
}

TEST_CASE("low-rank adaptation agrees with PyTorch") {
  golden g("lora");
  const linear<B> base{g.size("inputs"), g.size("outputs"), false};
  g.check_layer(lora<B>{base, g.size("rank"), g.size<double>("alpha")},
                {{"base.w", "w"}, {"a", "a"}, {"b", "b"}});
}

TEST_CASE("layer norm and RMS norm agree with PyTorch") {
  golden centred("layer_norm"), plain("rms_norm");
  centred.check_layer(layer_norm<B>{centred.size("width"), centred.size<double>("epsilon")},
                      {{"scale", "scale"}, {"shift", "shift"}});
  plain.check_layer(rms_norm<B>{plain.size("width"), plain.size<double>("epsilon")}, {{"scale", "scale"}});
}

TEST_CASE("activations agree with PyTorch") {
  golden("gelu").check_layer(gelu<B>{}, {});
  golden("silu").check_layer(silu<B>{}, {});
  golden("relu").check_layer(relu<B>{}, {});
}

TEST_CASE("embedding agrees with PyTorch") {
  golden g("embedding");
  const embedding<B> layer{g.size("vocabulary"), g.size("width")};
  parameters theta(g.cx, layer, philox{1});
  theta.write(g.cx, 0, g.array("table"));
  auto [y, pullback] =
      layer(g.cx, theta.weights, indices<B>(g.cx.upload(g.size<std::vector<int>>("tokens"))));
  CHECK(g.output_is(g.cx.read(y)));
  pullback(g.matrix("upstream"), theta.grads);
  CHECK(g.gradient_is("table", theta.read_gradient(g.cx, 0)));
}

TEST_CASE("grouped-query attention agrees with PyTorch, causal and bidirectional, fused and plain") {
  for (const bool causal : {true, false}) {
    golden g(causal ? "attention_causal" : "attention_bidirectional");
    const attention_shape shape{g.size("heads"), g.size("kv_heads"), g.size("head_width"), causal};
    const auto offsets = g.size<std::vector<int>>("sequence_offsets");
    const sequences<B> seq{{offsets.data(), offsets.size()}, offsets.data(), {}};
    const auto qkv = g.matrix("qkv"), dy = g.matrix("upstream");
    const auto fused = ops::attention(g.cx, shape, qkv, seq);
    CHECK(g.output_is(g.cx.read(fused.y)));
    CHECK(g.gradient_is("qkv", g.cx.read(ops::attention_pullback(g.cx, shape, qkv, seq, fused, dy))));
    CHECK(g.output_is(g.cx.read(ops::attention_plain(g.cx, shape, qkv, seq).y)));
    CHECK(g.gradient_is("qkv", g.cx.read(ops::attention_plain_pullback(g.cx, shape, qkv, seq, dy))));
  }
}

TEST_CASE("rotary and sinusoidal positions agree with PyTorch") {
  golden turned("rotary");
  const auto positions = turned.size<std::vector<int>>("positions");
  const auto rotate = [&](const char* name, bool forward) {
    const numbers& start = turned.array(name);
    const index_t heads = turned.size("heads"), width = turned.size("head_width");
    const tensor<B> x = turned.cx.upload(std::span<const double>(start), positions.size(), heads * width);
    ops::rotate(turned.cx, x, 0, heads, width, indices<B>(positions.data(), positions.size()),
                turned.size<double>("base"), forward);
    return turned.cx.read(x);
  };
  CHECK(turned.output_is(rotate("x", true)));
  CHECK(turned.gradient_is("x", rotate("upstream", false)));

  golden added("sinusoidal");
  std::vector<int> places(static_cast<std::size_t>(added.size("rows")));
  for (std::size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int>(i);
  CHECK(added.output_is(
      added.cx.read(ops::add_sinusoids(added.cx, added.matrix("x"), indices<B>(added.cx.upload(places))))));
}

TEST_CASE("cross-entropy agrees with PyTorch, alone and fused with its projection") {
  for (const char* name : {"cross_entropy", "linear_cross_entropy"}) {
    CAPTURE(name);
    const bool alone = std::string(name) == "cross_entropy";
    golden g(name);
    const auto targets = g.size<std::vector<int>>("targets");
    const index_t vocabulary = g.size("vocabulary"), width = alone ? vocabulary : g.size("width");
    int counted = 0;
    for (const int t : targets) counted += t >= 0;
    // Alone: the logits pass through an identity table.
    numbers identity(static_cast<std::size_t>(vocabulary * vocabulary));
    for (index_t i = 0; i < vocabulary; ++i) identity[static_cast<std::size_t>(i * vocabulary + i)] = 1;
    const const_tensor<B> table =
        alone ? const_tensor<B>(g.cx.upload(std::span<const double>(identity), vocabulary, vocabulary))
              : g.matrix("w");
    const tensor<B> dtable = g.cx.make_zero(vocabulary, width);
    const auto loss = ops::linear_cross_entropy(g.cx, g.matrix(alone ? "s" : "x"), table,
                                                indices<B>(g.cx.upload(targets)), {}, 1.0 / counted, dtable);
    CHECK(g.output_is(g.cx.read(loss.total)));
    CHECK(g.gradient_is(alone ? "s" : "x", g.cx.read(loss.dhidden)));
    if (!alone) CHECK(g.gradient_is("w", g.cx.read(dtable)));
  }
}

TEST_CASE("every golden case is either checked here or known to belong elsewhere") {
  const std::set<std::string> here{"linear",        "lora",
                                   "embedding",     "layer_norm",
                                   "rms_norm",      "gelu",
                                   "silu",          "relu",
                                   "rotary",        "attention_causal",
                                   "sinusoidal",    "attention_bidirectional",
                                   "cross_entropy", "linear_cross_entropy"},
      elsewhere{"mixture", "top_k", "straight_through", "adamw", "sgd", "lion"};
  for (const auto& [name, unused] : goldens().items()) {
    CAPTURE(name);
    CHECK(here.count(name) + elsewhere.count(name) == 1);
  }
}
