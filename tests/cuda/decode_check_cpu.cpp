#include <planlm/backend/cpu/cpu.hpp>

#include "decode_check.hpp"

namespace planlm::testing {

drawn_rows draw_rows_on_cpu(bool in_double, index_t rows, index_t vocabulary_size, std::span<const sampling_rule> rules,
                            const std::vector<int>& forced) {
  return in_double ? draw_rows<cpu<double>>(rows, vocabulary_size, rules, forced)
                   : draw_rows<cpu<float>>(rows, vocabulary_size, rules, forced);
}
numbers forward_pass_on_cpu(bool turned_model) {
  return turned_model ? forward_pass(turned<cpu<double>>(model_sizes, labels, 8, 1))
                      : forward_pass(usual<cpu<double>>(model_sizes, labels, 8, 1));
}

}  // namespace planlm::testing
