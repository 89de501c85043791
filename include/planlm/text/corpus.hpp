/// From a file or folder to documents of sentences: `read_corpus`.
///
/// A folder is read recursively, files sorted by path, hidden ones skipped. Formats, found out per file:
///   lines       one sentence a line, documents separated by blank lines
///   running     paragraphs separated by blank lines; a document per file, or per heading where it has any:
///               `= Title =` (WikiText), `# Title` (Markdown), `CHAPTER 1`; deeper headings are dropped
///   json_lines  one object a line with a string "text" and perhaps a "title" or "name": a document each
///   verses      `Book 1:2 text`, as the program `bible` prints: a chapter is a document, a verse a sentence
/// Text is strict UTF-8; a byte order mark, CRLF and CR are accepted. Errors are `input_error`: one line with
/// file, line number or byte offset (from 0), what is wrong and the remedy.
#pragma once
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <planlm/core/error.hpp>
#include <planlm/text/corpus_format.hpp>
#include <planlm/text/documents.hpp>
#include <planlm/text/sentences.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace planlm::text {

enum class splitter_kind { icu, lines };
inline constexpr std::array<std::pair<const char*, splitter_kind>, 2> splitter_names{
    {{"icu", splitter_kind::icu}, {"lines", splitter_kind::lines}}};

struct read_options {
  corpus_format format = corpus_format::automatic;
  splitter_kind splitter = splitter_kind::icu;  // for running text and JSON; the rest brings its sentences
};

namespace detail {

[[noreturn]] inline void refuse(const std::string& file, const std::string& what) {
  throw input_error(file + ": " + what);
}

inline std::string read_bytes(const std::string& file) {
  errno = 0;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> in(std::fopen(file.c_str(), "rb"), std::fclose);
  std::string bytes, block(1 << 16, '\0');
  while (in) {
    const std::size_t got = std::fread(block.data(), 1, block.size(), in.get());
    bytes.append(block, 0, got);
    if (got < block.size()) break;
  }
  if (!in || std::ferror(in.get()))
    refuse(file,
           std::string("cannot be read (") + std::strerror(errno) + "); check the path and its permissions");
  return bytes;
}

/// The file's text without a byte order mark, or the offset of the first byte that is no text.
inline std::string read_text(const std::string& file) {
  std::string bytes = read_bytes(file);
  if (bytes.empty()) refuse(file, "the file is empty; expected UTF-8 text");
  const bool wide = bytes.starts_with("\xFF\xFE") || bytes.starts_with("\xFE\xFF");
  for (std::size_t i = 0; i < bytes.size();) {
    const std::int32_t c = next_code_point(bytes, i);
    if (c > 0) continue;
    const std::size_t bad = c == 0 ? i - 1 : i;
    const auto line = 1 + std::count(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(bad), '\n');
    const std::string place = "byte offset " + std::to_string(bad) + " (line " + std::to_string(line) + "): ";
    if (c == 0)
      refuse(file, place + "a NUL byte, so this is binary data and not UTF-8 text; give a text file");
    std::array<char, 8> hex{};
    std::snprintf(hex.data(), hex.size(), "0x%02X",
                  static_cast<unsigned>(static_cast<unsigned char>(bytes[bad])));
    refuse(file, place + hex.data() + " is not valid UTF-8; convert the file, for example with iconv -f " +
                     (wide ? "UTF-16" : "LATIN1") + " -t UTF-8");
  }
  if (bytes.starts_with("\xEF\xBB\xBF")) bytes.erase(0, 3);
  return bytes;
}

/// Closes the last document when it got sentences, drops it otherwise, and opens the next.
inline void open_document(std::vector<document>& documents, std::string name) {
  if (!documents.empty() && documents.back().sentences.empty()) documents.pop_back();
  documents.push_back({std::move(name), {}});
}

inline void read_lines(const std::vector<text_line>& lines, const std::string& name,
                       std::vector<document>& out) {
  bool inside = false;
  for (const text_line& line : lines) {
    std::string sentence = tidy(line.raw);
    if (!sentence.empty() && !inside) open_document(out, name + ":" + std::to_string(line.number));
    inside = !sentence.empty();
    if (inside) out.back().sentences.push_back(std::move(sentence));
  }
}

/// A line that is no verse goes on with the verse before it.
inline void read_verses(const std::vector<text_line>& lines, const std::string& file,
                        std::vector<document>& out) {
  for (const text_line& line : lines) {
    std::string words = tidy(line.raw);
    const std::size_t end = chapter_length(words);
    if (words.empty()) continue;
    if (end > 0) {
      const std::string chapter = words.substr(0, end);
      if (out.empty() || out.back().name != chapter) open_document(out, chapter);
      out.back().sentences.push_back(words.substr(words.find(' ', end) + 1));
    } else if (!out.empty()) {
      out.back().sentences.back() += ' ' + words;
    } else {
      refuse(file,
             "line " + std::to_string(line.number) +
                 ": no verse; expected \"Book chapter:verse text\" as bible -f prints, or another format");
    }
  }
}

/// Appends the sentences of running text to the open last document, opening one more per
/// top heading if `with_headings`.
/// Lines are joined to paragraphs where the text is wrapped (95 % of its lines within
/// 100 bytes), else each line is a paragraph.
template <SentenceSplitter S>
void read_running(const std::vector<text_line>& lines, bool with_headings, S& splitter,
                  std::vector<document>& out) {
  std::size_t filled = 0, narrow = 0;
  for (const text_line& line : lines) {
    filled += !blank(line.raw);
    narrow += !blank(line.raw) && line.raw.size() <= 100;
  }
  const bool wrapped = narrow * 20 >= filled * 19;
  std::string paragraph;
  const auto close = [&] {
    for (std::string& sentence : splitter(std::string_view(paragraph)))
      out.back().sentences.push_back(std::move(sentence));
    paragraph.clear();
  };
  bool fenced = false, after_gap = true;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string_view raw = lines[i].raw;
    const bool fence = with_headings && raw.starts_with("```");
    fenced ^= fence;
    if (fence || fenced || blank(raw)) {  // code inside ``` is no prose
      close();
      after_gap = true;
      continue;
    }
    const bool before_gap = i + 1 == lines.size() || blank(lines[i + 1].raw);
    const heading head = with_headings && after_gap ? heading_of(raw, before_gap) : heading{};
    if (head.level > 0) {
      if (head.level == 1) open_document(out, head.title);
      continue;  // `after_gap` stays: headings may follow each other
    }
    after_gap = false;
    paragraph.append(raw).push_back('\n');
    if (!wrapped) close();
  }
  close();
}

/// The JSON object on a line. `wanted`: the end of every message, what a line must be.
inline nlohmann::json parse_object(const text_line& line, const std::string& file, const std::string& wanted) {
  const std::string place = "line " + std::to_string(line.number);
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line.raw);
  } catch (const nlohmann::json::exception& e) {  // "[kind] parse error at line 1, column 9: why"
    std::string_view why(e.what());
    for (const char* head : {"] ", "at line 1, "})
      if (const std::size_t at = why.find(head); at < 50) why.remove_prefix(at + std::strlen(head));
    if (const auto* stopped = dynamic_cast<const nlohmann::json::parse_error*>(&e); stopped && stopped->byte > 0) {
      const std::string_view rest = line.raw.substr(std::min(stopped->byte - 1, line.raw.size()));
      for (const char* literal : {"NaN", "Infinity"})
        if (rest.starts_with(literal)) refuse(file, place + ": " + literal + " is no finite number" + wanted);
    }
    refuse(file, place + ": malformed JSON (" + std::string(why) + ")" + wanted);
  }
  if (!object.is_object()) refuse(file, place + ": expected a JSON object, found " + object.type_name() + wanted);
  return object;
}

template <SentenceSplitter S>
void read_json_lines(const std::vector<text_line>& lines, const std::string& file, const std::string& name,
                     S& splitter, std::vector<document>& out) {
  constexpr auto wanted = "; each line must be one object such as {\"text\": \"...\"}";
  for (const text_line& line : lines) {
    if (blank(line.raw)) continue;
    const std::string place = "line " + std::to_string(line.number);
    const nlohmann::json object = parse_object(line, file, wanted);
    const auto text = object.find("text");
    if (text == object.end()) refuse(file, place + ": the object has no field \"text\"" + wanted);
    if (!text->is_string())
      refuse(file, place + ": \"text\" must be a string, found " + text->type_name() + wanted);
    std::string title = name + ":" + std::to_string(line.number);
    for (const char* key : {"name", "title"})
      if (const auto found = object.find(key); found != object.end() && found->is_string()) title = *found;
    open_document(out, std::move(title));
    const auto& value = text->template get_ref<const std::string&>();
    read_running(split_lines(value), false, splitter, out);
  }
}

/// Adds the documents of one file; gives the format it was read in.
template <SentenceSplitter S>
corpus_format read_file(const std::string& file, const std::string& name, corpus_format format, S& splitter,
                        std::vector<document>& documents) {
  const std::string bytes = read_text(file);
  const std::vector<text_line> lines = split_lines(bytes);
  if (std::all_of(lines.begin(), lines.end(), [](const text_line& line) { return blank(line.raw); }))
    refuse(file, "the file has only blank lines; expected UTF-8 text");
  if (format == corpus_format::automatic) format = detect(file, lines);
  std::vector<document> found;
  if (format == corpus_format::lines) read_lines(lines, name, found);
  if (format == corpus_format::verses) read_verses(lines, file, found);
  if (format == corpus_format::json_lines) read_json_lines(lines, file, name, splitter, found);
  if (format == corpus_format::running) {
    open_document(found, name);
    read_running(lines, true, splitter, found);
  }
  std::erase_if(found, [](const document& d) { return d.sentences.empty(); });
  if (found.empty())
    refuse(file, "no sentence in it, only headings or empty texts; give text with sentences");
  std::move(found.begin(), found.end(), std::back_inserter(documents));
  return format;
}

/// The text files below a folder, sorted by path.
inline std::vector<std::filesystem::path> text_files(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files;
  std::error_code failed;
  fs::recursive_directory_iterator it(folder, failed), end;
  for (; !failed && it != end; it.increment(failed)) {
    std::error_code ignored;
    if (it->path().filename().string().starts_with('.')) {
      if (it->is_directory(ignored)) it.disable_recursion_pending();
    } else if (it->is_regular_file(ignored)) {
      const std::string extension = it->path().extension().string();
      for (const char* known : {".txt", ".text", ".md", ".jsonl"})
        if (extension == known && fs::file_size(it->path(), ignored) > 0) files.push_back(it->path());
    }
  }
  if (failed)
    refuse(folder.string(), "cannot be read (" + failed.message() + "); check the folder's permissions");
  if (files.empty())
    refuse(folder.string(),
           "no text in this folder; expected files named .txt, .text, .md or .jsonl, not hidden or empty");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace detail

/// With a sentence splitter of your own.
template <SentenceSplitter S>
corpus read_corpus(const std::filesystem::path& path, S&& splitter,
                   corpus_format format = corpus_format::automatic) {
  std::error_code failed;
  const auto status = std::filesystem::status(path, failed);
  if (status.type() == std::filesystem::file_type::none)
    detail::refuse(path.string(),
                   "cannot be read (" + failed.message() + "); check the path and its permissions");
  if (!std::filesystem::exists(status))
    detail::refuse(path.string(),
                   "no such file or folder; give the path of UTF-8 text, of JSON lines or of a "
                   "folder of them");
  const bool folder = std::filesystem::is_directory(status);
  const auto files = folder ? detail::text_files(path) : std::vector{path};
  corpus out;
  std::string formats;
  for (const auto& file : files) {
    const auto name = folder ? file.lexically_relative(path) : file.filename();
    const auto used = detail::read_file(file.string(), name.string(), format, splitter, out.documents);
    const std::string word = corpus_format_names[static_cast<std::size_t>(used)].first;
    if (formats.find(word) == std::string::npos) formats += (formats.empty() ? "" : ", ") + word;
  }
  out.description = path.string() + " (" + formats +
                    (folder ? ", " + std::to_string(files.size()) + " files): " : "): ") +
                    std::to_string(out.documents.size()) + " documents, " +
                    std::to_string(count_sentences(out)) + " sentences";
  return out;
}

inline corpus read_corpus(const std::filesystem::path& path, read_options options = {}) {
  if (options.splitter == splitter_kind::lines) return read_corpus(path, line_splitter{}, options.format);
  return read_corpus(path, icu_splitter{}, options.format);
}

}  // namespace planlm::text
