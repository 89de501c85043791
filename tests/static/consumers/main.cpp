// What a user's first program may look like. Two sources include the library: nothing in it may be defined twice.
#include <planlm/core/philox.hpp>
#include <cstdio>

double draw_elsewhere();

int main() {
  const double here = planlm::philox{7}.uniform(0, 0);
  std::printf("%.9f %.9f\n", here, draw_elsewhere());
  return here == draw_elsewhere() ? 0 : 1;
}
