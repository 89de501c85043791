#include <planlm/io/interrupt.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include "../catch.hpp"

using namespace planlm;

namespace {

int seen = 0;
void own_handler(int number) { seen = number; }

/// How a child process that runs `action` ends, as waitpid tells it.
int ending_of(auto&& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    action();
    ::_exit(7);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

}  // namespace

TEST_CASE("the first Ctrl-C is a request, told apart from SIGTERM") {
  interrupt_guard guard;
  CHECK_FALSE(guard.requested());
  CHECK(guard.signal() == 0);
  std::raise(SIGINT);
  CHECK(guard.requested());
  CHECK(guard.signal() == SIGINT);
}

TEST_CASE("a new guard starts without a request") {
  {
    interrupt_guard guard;
    std::raise(SIGTERM);
    CHECK(guard.signal() == SIGTERM);
  }
  interrupt_guard guard;
  CHECK_FALSE(guard.requested());
}

TEST_CASE("the second signal ends the program, whichever of the two it is") {
  for (const int second : {SIGINT, SIGTERM}) {
    const int status = ending_of([&] {
      interrupt_guard guard;
      std::raise(SIGINT);
      if (!guard.requested()) ::_exit(8);
      std::raise(second);
    });
    REQUIRE(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == second);
  }
}

TEST_CASE("one signal does not end the program") {
  const int status = ending_of([] {
    interrupt_guard guard;
    std::raise(SIGINT);
  });
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 7);
}

TEST_CASE("the handlers that were there before come back") {
  const auto before = std::signal(SIGINT, own_handler);
  { interrupt_guard guard; }
  seen = 0;
  std::raise(SIGINT);
  CHECK(seen == SIGINT);
  std::signal(SIGINT, before);
}

TEST_CASE("a signal that was ignored stays ignored") {
  const auto before = std::signal(SIGINT, SIG_IGN);
  {
    interrupt_guard guard;
    std::raise(SIGINT);
    CHECK_FALSE(guard.requested());
    std::raise(SIGTERM);
    CHECK(guard.requested());
  }
  std::signal(SIGINT, before);
}

TEST_CASE("a second guard is refused, and the first goes on") {
  interrupt_guard guard;
  CHECK_THROWS_AS(interrupt_guard(), error);
  std::raise(SIGINT);
  CHECK(guard.requested());
}
