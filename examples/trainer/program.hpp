/// The frame of a trainer's main(): what goes wrong is one line on stderr and an exit status that says whose fault it was.
#pragma once
#include <filesystem>
#include <functional>
#include <string>

namespace trainer {

/// Runs `body`, which returns the exit status. 2: what the user gave; 1: anything else; 128 + signal: stopped by the user, and what is
/// finished lies in `out()`, asked only then. `when_memory_is_short`: advice.
int run_program(const std::string& name, const std::function<int()>& body, const std::function<std::filesystem::path()>& out,
                const std::string& when_memory_is_short = "try a smaller model, a smaller batch or a smaller text");

}  // namespace trainer
