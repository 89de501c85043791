/// Generations with their tokens shaded by what each earned, and the tokens that earn most and least: what a
/// reward model learnt, for people.
#pragma once
#include <span>
#include <string>
#include "preference_source.hpp"

namespace planlm {
class report;
}

namespace train_token_guidance {

/// Two sections on `lists`, the first few of them with their texts. `lead`: which model this is.
void show_rewards(report& page, guidance_machine& m, const part& reward, const guidance_rule& rule,
                  const planner_base& base, std::span<const preference_list* const> lists,
                  const std::string& lead);

}  // namespace train_token_guidance
