/// Token-level guidance from preferences over whole texts (2306.00398).
///
///     train_token_guidance --out run/guidance                                      # tables: half a minute, no text
///     train_token_guidance --task prompt --text reviews.txt --out run/prompt ...   # prompts for a frozen language model
///     train_token_guidance --task summary --text reviews.txt --out run/summary     # the key sentence of a passage
///     train_token_guidance --task reward --run run/book --preferences mine.jsonl --out run/reward
///     train_token_guidance --task tune --run run/book --reward run/reward --preferences mine.jsonl --out run/tuned
#include <string>
#include <vector>
#include <planlm/io/interrupt.hpp>
#include <planlm/io/run_folder.hpp>
#include "train_token_guidance/options.hpp"
#include "trainer/program.hpp"

int main(int argc, char** argv) {
  train_token_guidance::options o;
  const auto body = [&] {
    int status = 0;
    if (!train_token_guidance::parse(argc, argv, o, status)) return status;
    const planlm::run_folder folder(o.shared.common.out);
    const planlm::interrupt_guard interrupt;
    run_task(o, {o.shared, o.settings, {argv, argv + argc}, folder, interrupt});
    return 0;
  };
  return trainer::run_program("train_token_guidance", body, [&] { return o.shared.common.out; });
}
