/// Samplers that fill a gap from both its sides: the posterior p(middle | before, after) of a language model,
/// amortised (2310.04363).
///
///     train_infill_sampler --text book.txt --out run/letters --threads 1
///     train_infill_sampler --task documents --text reviews.txt --out run/documents --seeds 3
///
/// letters: the posterior can be enumerated, so the table says exactly how far each sampler is from it.
/// documents: the middle sentence of three; prompting, supervised fine-tuning, reward maximisation and the
/// objectives that match distributions, all scored by the same frozen language model on documents that
/// nothing was trained on.
#include <string>
#include <vector>
#include <planlm/io/interrupt.hpp>
#include <planlm/io/run_folder.hpp>
#include "train_infill_sampler/documents.hpp"
#include "train_infill_sampler/letters.hpp"
#include "train_infill_sampler/options.hpp"
#include "trainer/program.hpp"

int main(int argc, char** argv) {
  train_infill_sampler::options o;
  const auto body = [&] {
    int status = 0;
    if (!train_infill_sampler::parse(argc, argv, o, status)) return status;
    const planlm::run_folder folder(o.common.out);
    const planlm::interrupt_guard interrupt;
    const std::vector<std::string> command(argv, argv + argc);
    if (o.is_letters())
      fill_letters(o, command, folder, interrupt);
    else
      fill_documents(o, command, folder, interrupt);
    return 0;
  };
  return trainer::run_program("train_infill_sampler", body, [&] { return o.common.out; });
}
