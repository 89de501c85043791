/// Whether markup is well formed: every tag closed in order, no stray < or &, quotes around attributes.
#pragma once
#include <algorithm>
#include <cctype>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

inline bool holds(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

/// How often `part` occurs in `text`.
inline std::size_t occurrences(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

/// The name of a tag in front of `text`, which then starts with what follows.
inline std::string_view taken_name(std::string_view& text) {
  std::size_t length = 0;
  while (length < text.size() &&
         (std::isalnum(static_cast<unsigned char>(text[length])) || text[length] == '-'))
    ++length;
  const auto name = text.substr(0, length);
  text.remove_prefix(length);
  return name;
}

/// Whether `text` is a row of ` name="value"`.
inline bool attributes(std::string_view text) {
  while (!text.empty()) {
    const auto begin = text.find_first_not_of(" \n");
    if (begin == text.npos) return true;
    if (begin == 0) return false;
    text.remove_prefix(begin);
    if (taken_name(text).empty() || !text.starts_with("=\"")) return false;
    const auto end = text.find('"', 2);
    if (end == text.npos) return false;
    text.remove_prefix(end + 1);
  }
  return true;
}

/// Empty when all is well, else what is wrong.
inline std::string unbalanced(std::string_view page) {
  std::vector<std::string_view> open;
  if (page.starts_with("<!DOCTYPE html>")) page.remove_prefix(15);
  while (!page.empty()) {
    const std::string here(page.substr(0, 40));
    const auto entities = {"&amp;", "&lt;", "&gt;", "&quot;"};
    const auto starts = [&](std::string_view entity) { return page.starts_with(entity); };
    if (page[0] == '&' && std::none_of(entities.begin(), entities.end(), starts)) return "stray & at " + here;
    if (page[0] != '<') {
      page.remove_prefix(1);
      continue;
    }
    const auto end = page.find('>');
    if (end == page.npos) return "no end of " + here;
    std::string_view tag = page.substr(1, end - 1);
    page.remove_prefix(end + 1);
    const bool closes = tag.starts_with('/'), alone = tag.ends_with('/');
    if (closes) tag.remove_prefix(1);
    if (alone) tag.remove_suffix(1);
    const auto name = taken_name(tag);
    if (name.empty() || (closes ? !tag.empty() : !attributes(tag))) return "no tag: " + here;
    if (closes) {
      if (open.empty() || open.back() != name) return "closes what is not open: " + here;
      open.pop_back();
    } else if (!alone) {
      open.push_back(name);
    }
    if (name == "style" && !closes) page.remove_prefix(std::min(page.find("</style>"), page.size()));
  }
  return open.empty() ? "" : "never closed: " + std::string(open.back());
}
