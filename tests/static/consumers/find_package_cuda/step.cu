#include <planlm/cuda.cuh>
#include <vector>

using namespace planlm;
using B = cuda<float>;

double mixed_on_gpu() {
  context<B> cx;
  auto scope = cx.scope();
  const std::vector<float> logits{0, 1, 2, 3};
  auto [w, pullback] = mixture{}.weights(cx, const_tensor<B>(cx.upload(std::span<const float>(logits), 2, 2)));
  return double(cx.read(const_tensor<B>(w))[1]);
}
