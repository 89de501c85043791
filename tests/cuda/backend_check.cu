// What the CUDA backend promises beside numbers: steps as graphs, no allocation once a step has run, errors that name what was wrong.
//
//     backend_check             exit status: 0 all hold, 1 some do not, 77 there is no GPU to run on
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>
#include <planlm/cuda.cuh>
#include <planlm/planning/planner.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/adamw.hpp>

namespace {

using namespace planlm;

int failed = 0;
void expect(bool holds, const std::string& what) {
  std::printf("%s %s\n", holds ? "PASS" : "FAIL", what.c_str());
  failed += !holds;
}
bool contains(const std::string& text, const std::vector<std::string>& parts) {
  bool all = true;
  for (const std::string& part : parts)
    if (text.find(part) == text.npos) std::printf("  '%s' is missing in: %s\n", part.c_str(), text.c_str()), all = false;
  return all;
}
template <class E, class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "no error";
}

/// A small language model and its optimiser: one training step on fixed memory.
template <class B>
struct trainer {
  using accum = typename B::accum;
  context<B> cx{cuda_queue{}};
  transformer_lm<B> model{{61, 16, 24, 3, 2}};
  parameters<transformer_lm<B>> theta{cx, model, philox{1}};
  adamw<B> optimiser{cx, theta.flat_weights().size(), {.weight_decay = 0.01}};
  std::vector<int> host_offsets{0, 7, 20};
  buffer<B, int> tokens{cx, 20}, targets{cx, 20}, positions{cx, 20}, offsets{cx, 3};
  buffer<B, accum> loss{cx, 1};

  trainer() {
    std::vector<int> token, target, position;
    for (int i = 0; i < 20; ++i) token.push_back(i * 7 % 61), target.push_back((i + 1) * 7 % 61), position.push_back(i < 7 ? i : i - 7);
    put(tokens, token), put(targets, target), put(positions, position), put(offsets, host_offsets);
    B::synchronize(cx.queue());
  }
  void put(const buffer<B, int>& to, const std::vector<int>& from) {
    B::upload(cx.queue(), to.values().data, from.data(), from.size() * sizeof(int));
  }
  void step() {
    auto scope = cx.scope();
    const sequences<B> seq{offsets.values(), host_offsets.data(), positions.values()};
    auto [h, pullback] = model(cx, theta.weights, indices<B>(tokens.values()), seq);
    const auto l = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.token.table),
                                             indices<B>(targets.values()), {}, accum(1) / 20, theta.grads.token.table);
    pullback(const_tensor<B>(l.dhidden), theta.grads);
    optimiser.step(cx, theta.flat_weights(), theta.flat_grads(), 1e-3);
    B::copy(cx.queue(), loss.values().data, l.total.data, sizeof(accum));
  }
  double read() { return double(cx.read_one(loss.values())); }
};

template <class B>
void steps_as_graphs(const std::string& name) {
  trainer<B> plain, recorded;
  std::vector<double> by_launches, by_graph;
  for (int i = 0; i < 8; ++i) plain.step(), by_launches.push_back(plain.read());
  cuda_graph graph;
  std::size_t allocations = 0;
  std::string memory;
  for (int i = 0; i < 8; ++i) {
    if (i < 2) {
      recorded.step();
    } else {
      graph.record(recorded.cx.queue(), [&] { recorded.step(); });
      graph.replay(recorded.cx.queue());
    }
    by_graph.push_back(recorded.read());
    if (i == 3) {
      allocations = recorded.cx.memory().allocations() + recorded.cx.scratch_memory().allocations();
      memory = cuda_detail::memory_book::get().text();
    }
  }
  expect(by_launches == by_graph, name + ": a step as a graph gives the bits of the launches");
  expect(by_graph.back() < by_graph.front() && std::isfinite(by_graph.back()), name + ": the loss falls");
  expect(graph.instantiations() == 1, name + ": the graph is updated, not made again, when Adam's numbers change (made " +
                                          std::to_string(graph.instantiations()) + " times)");
  expect(allocations == recorded.cx.memory().allocations() + recorded.cx.scratch_memory().allocations() &&
             memory == cuda_detail::memory_book::get().text(),
         name + ": a step allocates nothing once it has run");
}

void errors() {
  using B = cuda<float>;
  cuda_queue q;
  const std::string shapes = message_of<shape_error>([&] {
    B::gemm(q, 1, {nullptr, 3, 4, 4, 1}, {nullptr, 5, 6, 6, 1}, {nullptr, 3, 6, 6, 1}, into::replace);
  });
  expect(contains(shapes, {"(3, 4)", "(5, 6)", "(3, 6)"}), "a product of unequal shapes names them");
  const std::string strides = message_of<shape_error>([&] {
    B::gemm(q, 1, {nullptr, 3, 4, 8, 2}, {nullptr, 4, 6, 6, 1}, {nullptr, 3, 6, 6, 1}, into::replace);
  });
  expect(contains(strides, {"stride", "(8, 2)"}), "a product whose operand has no stride of 1 names its strides");
  context<B> cx;
  const buffer<B> held(cx, 1000);
  const std::string memory = message_of<memory_error>([&] { B::allocate(std::size_t{1} << 50); });
  expect(contains(memory, {"1125899906842624 bytes", "free", "holds", "tensors"}), "memory that cannot be had: how much, what is held");
  B::deallocate(B::allocate(16), 16);
  expect(true, "the device works on after memory could not be had");
  const std::string graph = message_of<error>([&] { cuda_graph{}.replay(q); });
  expect(contains(graph, {"before anything was recorded"}), "an empty graph cannot be replayed");
  cuda_graph waits;
  const std::string waiting = message_of<error>([&] { waits.record(q, [&] { B::synchronize(q); }); });
  expect(contains(waiting, {"cudaStreamSynchronize"}), "a step that waits cannot be recorded, and the error names the call");
  const buffer<B> d(cx, 6);
  ops::fill<B>(cx, d.values(), 1.0f);
  const operand<const float> none_left{nullptr, 2, 0, 0, 1}, none_right{nullptr, 0, 3, 3, 1};
  B::gemm(cx.queue(), 1, none_left, none_right, {d.values().data, 2, 3, 3, 1}, into::add);
  const bool kept = cx.read(d.values()) == std::vector<float>(6, 1.0f);
  B::gemm(cx.queue(), 1, none_left, none_right, {d.values().data, 2, 3, 3, 1}, into::replace);
  expect(kept && cx.read(d.values()) == std::vector<float>(6, 0.0f), "sums without a term, as of a batch without rows, are zero");
  cuda_queue after;
  B::synchronize(after);
  expect(true, "the device works on after a recording failed");
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU: cudaGetDeviceCount says %s\n", status == cudaSuccess ? "0" : cudaGetErrorString(status));
    return 77;
  }
  try {
    steps_as_graphs<cuda<float>>("float32");
    steps_as_graphs<cuda<float, tf32_products>>("tf32");
    steps_as_graphs<cuda<bfloat16>>("bf16");
    errors();
  } catch (const std::exception& e) {
    std::printf("FAIL %s\n", e.what());
    return 1;
  }
  return failed ? 1 : 0;
}
