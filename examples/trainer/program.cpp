#include "program.hpp"
#include <csignal>
#include <exception>
#include <iostream>
#include <new>
#include <planlm/core/error.hpp>
#include "stage.hpp"

namespace trainer {

int run_program(const std::string& name, const std::function<int()>& body, const std::function<std::filesystem::path()>& out,
                const std::string& when_memory_is_short) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error with a message, not the end
  const auto explain = [&](const std::string& what, int status) {
    std::cerr << name << ": " << what << '\n';
    return status;
  };
  try {
    return body();
  } catch (const interrupted& stop) {
    std::cerr << "\nStopped; what is finished is saved in " << out().string() << ". To go on, run the same command again.\n";
    return 128 + stop.signal;
  } catch (const planlm::input_error& e) {
    return explain(e.what(), 2);
  } catch (const std::bad_alloc&) {
    return explain("out of memory; " + when_memory_is_short, 1);
  } catch (const std::exception& e) {
    return explain(e.what(), 1);
  }
}

}  // namespace trainer
