#include <planlm/io/atomic_file.hpp>

#include <sys/stat.h>

#include "../catch.hpp"
#include "scratch_folder.hpp"

using namespace planlm;

namespace {

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const input_error& e) {
    return e.what();
  }
  return "no input_error";
}

void write_file(const std::filesystem::path& path, std::string_view text, bool commit = true) {
  atomic_file file(path, static_cast<index_t>(text.size()));
  file.write(std::as_bytes(std::span(text)));
  if (commit) file.commit();
}

}  // namespace

TEST_CASE("a file appears under its name only when it is committed") {
  const scratch::folder folder;
  {
    atomic_file file(folder / "a.txt", 3);
    file.write(std::as_bytes(std::span(std::string_view("abc"))));
    CHECK_FALSE(std::filesystem::exists(folder / "a.txt"));
    file.commit();
    CHECK(scratch::contents(folder / "a.txt") == "abc");
  }
  write_file(folder / "a.txt", "longer than before");
  CHECK(scratch::contents(folder / "a.txt") == "longer than before");
  CHECK(folder.entries() == 1);
}

TEST_CASE("a file given up before it is committed leaves the old one and nothing else") {
  const scratch::folder folder;
  scratch::put(folder / "a.txt", "old");
  write_file(folder / "a.txt", "new", false);
  CHECK(scratch::contents(folder / "a.txt") == "old");
  CHECK(folder.entries() == 1);
}

TEST_CASE("a full disk leaves the old file byte for byte and says how many bytes were wanted") {
  const scratch::folder folder;
  const std::string old = "the only copy\0with a zero", path = (folder / "a.txt").string();
  scratch::put(folder / "a.txt", old);
  std::string message;
  {
    const scratch::full_disk full(5000);
    message = message_of([&] { write_file(folder / "a.txt", std::string(20000, 'x')); });
  }
  CHECK(message ==
        path +
            ": cannot write 20000 bytes: File too large; the file that is there stays as it was; free "
            "some space, or write to another disk");
  CHECK(scratch::contents(folder / "a.txt") == old);
  CHECK(folder.entries() == 1);
}

TEST_CASE("a missing folder, a file for a folder and a protected folder are told apart") {
  const scratch::folder folder;
  CHECK(message_of([&] { write_file(folder / "no/a.txt", "x"); }) ==
        (folder / "no/a.txt").string() +
            ": cannot write 1 bytes: No such file or directory; create the folder first");
  scratch::put(folder / "file", "kept");
  CHECK(message_of([&] { write_file(folder / "file/a.txt", "x"); }) ==
        (folder / "file/a.txt").string() +
            ": cannot write 1 bytes: Not a directory; a part of the path is a file; choose another path");
  CHECK(scratch::contents(folder / "file") == "kept");

  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  {
    const scratch::ordinary_user user;
    CHECK(message_of([&] { write_file(folder / "b.txt", "x"); }) ==
          (folder / "b.txt").string() +
              ": cannot write 1 bytes: Permission denied; choose a folder you may write to, or change its "
              "permissions");
  }
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
}

TEST_CASE("a write-protected file is not replaced behind the user's back") {
  const scratch::folder folder;
  scratch::put(folder / "a.txt", "precious");
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0777));
  std::filesystem::permissions(folder / "a.txt", std::filesystem::perms(0444));
  {
    const scratch::ordinary_user user;
    CHECK(message_of([&] { write_file(folder / "a.txt", "x"); }).find("Permission denied") !=
          std::string::npos);
  }
  CHECK(scratch::contents(folder / "a.txt") == "precious");
}

TEST_CASE("a device or a folder is never replaced by a file") {
  const scratch::folder folder;
  std::filesystem::create_directory(folder / "d");
  CHECK(message_of([&] { write_file(folder / "d", "x"); }) ==
        (folder / "d").string() + ": is there already and is not a plain file; choose another path");
  std::filesystem::create_symlink("/dev/null", folder / "null");
  CHECK(message_of([&] { write_file(folder / "null", "x"); }).find("not a plain file") != std::string::npos);
  CHECK(std::filesystem::is_character_file("/dev/null"));
}

TEST_CASE("a link is written through and permissions are kept") {
  const scratch::folder folder;
  scratch::put(folder / "target", "old");
  std::filesystem::permissions(folder / "target", std::filesystem::perms(0640));
  std::filesystem::create_symlink("target", folder / "link");
  write_file(folder / "link", "new");
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(scratch::contents(folder / "target") == "new");
  CHECK(std::filesystem::status(folder / "target").permissions() == std::filesystem::perms(0640));
}

TEST_CASE("a temporary file left by a killed process is neither touched nor in the way") {
  const scratch::folder folder;
  const std::string left = "a.txt.part-" + std::to_string(::getpid()) + "-0";
  scratch::put(folder / left, "half");
  write_file(folder / "a.txt", "whole");
  CHECK(scratch::contents(folder / "a.txt") == "whole");
  CHECK(scratch::contents(folder / left) == "half");
  CHECK(folder.entries() == 2);
}
