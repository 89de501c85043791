/// Texts of the metrics' tests: words between spaces.
#pragma once
#include <sstream>
#include <string>
#include <vector>

inline std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> all;
  for (std::string word; in >> word;) all.push_back(word);
  return all;
}
