/// Whether markup is well formed: every tag closed in order, no stray < or &, quotes around attributes.
#pragma once
#include <algorithm>
#include <cstddef>
#include <regex>
#include <string>
#include <vector>

/// Empty when all is well, else what is wrong.
inline std::string unbalanced(std::string page) {
  page = std::regex_replace(page, std::regex("^<!DOCTYPE html>"), "");
  if (const auto style = page.find("<style>"); style != std::string::npos)
    page.erase(style + 7, page.find("</style>") - style - 7);
  static const std::regex tag(R"-(^<(/?)([a-z0-9]+)((?:\s+[a-zA-Z0-9-]+="[^"<]*"|\s+hidden)*)\s*(/?)>)-");
  static const std::regex entity("^&(amp|lt|gt|quot);");
  std::vector<std::string> open;
  for (auto at = page.cbegin(); at != page.cend();) {
    const std::string here(at, page.cend() - at > 30 ? at + 30 : page.cend());
    std::smatch found;
    if (*at == '&' && !std::regex_search(here, entity)) return "stray & at " + here;
    if (*at != '<') {
      ++at;
      continue;
    }
    const auto end = std::find(at, page.cend(), '>');
    const std::string text(at, end == page.cend() ? end : end + 1);
    if (!std::regex_match(text, found, tag)) return "no tag: " + here;
    if (found[1].length() > 0) {
      if (open.empty() || open.back() != found[2]) return "closes what is not open: " + here;
      open.pop_back();
    } else if (found[4].length() == 0) {
      open.push_back(found[2]);
    }
    at += static_cast<std::ptrdiff_t>(text.size());
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

/// How often `part` occurs in `text`.
inline std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}
inline bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
