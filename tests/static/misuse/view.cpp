// A view keeps its promises: const elements stay const, host memory stays on the host, the rank is the rank.
#include <planlm/core/view.hpp>

using planlm::device_memory;
using planlm::view;

float values[6];
void reads(view<const float, 2>) {}
void writes(view<float, 2>) {}

void use() {
  const view<float, 2> matrix{values, 2, 3};
  const view<const float, 2> constants = matrix;
#if CASE == 0
  writes(matrix);
  matrix(1, 2) = 1.0f;
#elif CASE == 1
  // expect: (read-only|must be a modifiable lvalue|cannot assign to return value)
  constants(0, 0) = 1.0f;
#elif CASE == 2
  // expect: (could not convert|no suitable (user-defined )?(conversion|constructor)|no matching function)
  writes(constants);
#elif CASE == 3
  // expect: (could not convert|no suitable (user-defined )?(conversion|constructor)|no matching function)
  reads(view<float, 2, device_memory>{});
#elif CASE == 4
  // expect: (could not convert|no suitable (user-defined )?(conversion|constructor)|no matching function)
  reads(view<double, 2>{});
#elif CASE == 5
  // expect: planlm::view: the rank must be 1 to 4
  (void)sizeof(view<float, 5>);
#endif
  reads(constants);
}
