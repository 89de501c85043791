// A program with both backends: the border between the compilers is a plain function.
#include <planlm/cpu.hpp>
#include <cstdio>
#include <exception>

double mixed_on_gpu();

int main() {
  planlm::context<planlm::cpu<float>> cx{planlm::cpu<float>::queue{1}};
  auto scope = cx.scope();
  std::printf("cpu: %zu bytes held\n", static_cast<std::size_t>(cx.make(4, 4).size()) * sizeof(float));
  try {
    std::printf("gpu: %.3f\n", mixed_on_gpu());
  } catch (const std::exception& e) {
    std::printf("gpu: %s\n", e.what());  // there is none here: the error is a sentence
  }
  return 0;
}
