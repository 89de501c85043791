/// Flags, and one row and seed after the other.
#include "recovery.hpp"
#include <iostream>
#include <planlm/core/error.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>
#include "recovery_methods.hpp"
#include "recovery_page.hpp"
#include "trainer/run_book.hpp"
#include "trainer/stage.hpp"

namespace train_token_guidance {

void recovery_options::add(trainer::flags& f, shared_options& s) {
  s.common.seeds = 5;  // none of what is to be shown shows in one seed
  f.list("--methods", methods, "rows, default all", recovery::method_names());
  f.whole("--pair-steps", pair_steps, "of guidance from comparisons");
  f.whole("--pair-tests", pair_tests, "pairs that it is tested on");
  f.whole("--loop-updates", loop_updates, "of the policy that has nothing but guidance", 6);
  f.whole("--loop-guidance", loop_guidance, "steps of each training of its guidance");
  f.whole("--reference-updates", reference_updates, "of the policy that has references", 6);
  f.whole("--reference-guidance", reference_guidance, "steps of each training of its guidance");
}

void recovery_options::check(const shared_options&) const {
  // Draws are numbered with 32 bits.
  for (const auto& [flag, value] : {std::pair{"--pair-tests", pair_tests}, std::pair{"--pair-steps", pair_steps}})
    if (value > 10'000'000) throw planlm::input_error(std::string(flag) + " " + std::to_string(value) + ": give at most 10000000");
}

void run_recovery(const recovery_options& o, const task& t) {
  using namespace recovery;
  trainer::run_book book(t.folder, "train_token_guidance", t.settings, t.command);
  philox random;
  trainer::run run(random, t.folder, t.interrupt);
  run.identify(book.identity());
  const std::vector<std::string> names = o.methods.empty() ? method_names() : o.methods;
  for (int seed = t.common.first_seed; seed < t.common.first_seed + t.common.seeds; ++seed)
    for (const std::string& name : names) {
      run.stop_if_asked();
      if (book.find(name, seed)) continue;
      book.add(run_method(method_named(name), o, seed));
      std::cerr << "seed " << seed << ", " << name << ": " << with_digits(book.find(name, seed)->values.at("score"), 3) << '\n';
    }
  write_page(t.folder, book, o, t.common);
  std::cout << '\n';
  for (const toy_table& table : tables(book, o, t.common))
    std::cout << table.title << '\n' << trainer::printed(table.rows) << table.caption << (table.caption.empty() ? "\n" : "\n\n");
  std::cout << about_pilot(o, t.common) << "\nreport:  " << t.folder.file("report.html").string()
            << "\nresults: " << t.folder.file("results.json").string() << '\n';
}

}  // namespace train_token_guidance
