/// The file of a fitted sentence encoder: what a program needs to embed new sentences as training did.
///
/// Safetensors with the metadata `kind` "planlm.tfidf_svd 1" and `check`, and four tensors for V words and
/// width C:
///   words       U8  [bytes]  the words' bytes, one after the other
///   word_ends   I64 [V]      where in `words` each word ends
///   weights     F32 [V]
///   components  F32 [V, C]   (text/tfidf_svd.hpp)
///
/// `check` is a 64-bit FNV-1a hash of the four: a number changed by a damaged disk would otherwise still be a
/// number, and give other labels without a word. An encoder read back gives the vectors of the one written,
/// bit for bit. Writing replaces the file whole or not at all.
///
/// errors  input_error, one line with file, finding and remedy, for a file that cannot be written, is no file
///         of an encoder, or is damaged
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/io/safetensors.hpp>
#include <planlm/text/tfidf_svd.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace planlm {
namespace detail {

/// The number in the name changes whenever the tensors or the splitting into words do.
inline constexpr const char* encoder_kind = "planlm.tfidf_svd 1";

class fnv1a {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) hash_ = (hash_ ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3u;
  }
  /// Sixteen hexadecimal digits.
  std::string text() const {
    std::string digits;
    for (int shift = 60; shift >= 0; shift -= 4) digits += "0123456789abcdef"[hash_ >> shift & 15];
    return digits;
  }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

/// The arrays of the file; `words` is the table's text, cut by `ends`.
struct encoder_arrays {
  std::vector<std::uint8_t> words;
  std::vector<std::int64_t> ends;

  explicit encoder_arrays(const tfidf_svd_state& state) {
    for (const std::string& word : state.words) {
      words.insert(words.end(), word.begin(), word.end());
      ends.push_back(static_cast<std::int64_t>(words.size()));
    }
  }
  encoder_arrays(std::vector<std::uint8_t> table, std::vector<std::int64_t> cuts)
      : words(std::move(table)), ends(std::move(cuts)) {}

  std::string check(std::span<const float> weights, std::span<const float> components) const {
    fnv1a hash;
    hash.add(std::as_bytes(std::span(ends)));
    hash.add(std::as_bytes(std::span(words)));
    hash.add(std::as_bytes(weights));
    hash.add(std::as_bytes(components));
    return hash.text();
  }

  /// The words, or none if `ends` does not cut the whole table into at least one.
  std::vector<std::string> cut() const {
    std::vector<std::string> parts;
    std::int64_t begin = 0;
    for (const std::int64_t end : ends) {
      if (end < begin || end > static_cast<std::int64_t>(words.size())) return {};
      parts.emplace_back(words.begin() + begin, words.begin() + end);
      begin = end;
    }
    return begin == static_cast<std::int64_t>(words.size()) ? parts : std::vector<std::string>();
  }
};

}  // namespace detail

/// Writes the fitted encoder to `path`. The bytes depend on the encoder alone.
inline void write_encoder(const std::filesystem::path& path, const tfidf_svd& encoder) {
  const tfidf_svd_state& state = encoder.state();
  const detail::encoder_arrays arrays(state);
  const auto words = static_cast<index_t>(state.words.size());
  write_safetensors(
      path,
      {{"words", {static_cast<index_t>(arrays.words.size())}, arrays.words},
       {"word_ends", {words}, arrays.ends},
       {"weights", {words}, state.weights},
       {"components", {words, state.width}, state.components}},
      {{"kind", detail::encoder_kind}, {"check", arrays.check(state.weights, state.components)}});
}

/// The encoder that `write_encoder` wrote; `threads` are those of `encode`.
inline tfidf_svd read_encoder(const std::filesystem::path& path, int threads = 1) {
  const tensor_file file(path);
  const auto refuse = [&](const std::string& what, const char* remedy) {
    throw input_error(path.string() + ": " + what + "; " + remedy);
  };
  constexpr const char* other_file = "name the encoder's file in the folder of a run";
  constexpr const char* damaged = "the file is damaged; copy it again or train again";
  const auto& about = file.metadata();
  const auto kind = about.find("kind");
  if (kind == about.end())
    refuse("is not the file of a sentence encoder (it does not say its kind)", other_file);
  if (kind->second != detail::encoder_kind)
    refuse("is of the kind " + detail::quoted_name(kind->second) + ", expected " +
               detail::quoted_name(detail::encoder_kind),
           other_file);
  for (const char* name : {"words", "word_ends", "weights", "components"})
    if (!file.contains(name)) refuse("has no tensor " + detail::quoted_name(name), damaged);
  const std::vector<index_t> shape = file.shape("components");
  tfidf_svd_state state;
  state.weights = file.read<float>("weights");
  state.components = file.read<float>("components");
  const detail::encoder_arrays arrays(file.read<std::uint8_t>("words"), file.read<std::int64_t>("word_ends"));
  const std::string words = std::to_string(arrays.ends.size());
  if (arrays.ends.empty() || state.weights.size() != arrays.ends.size())
    refuse(words + " words have " + std::to_string(state.weights.size()) +
               " weights, expected at least one word and a weight for each",
           damaged);
  if (shape.size() != 2 || shape[0] != static_cast<index_t>(arrays.ends.size()) || shape[1] < 1)
    refuse("components have shape " + detail::shape_text(shape) + ", expected [" + words + ", width]",
           damaged);
  state.width = shape[1];
  state.words = arrays.cut();
  if (state.words.empty())
    refuse("word_ends do not ascend to the " + std::to_string(arrays.words.size()) + " bytes of words",
           damaged);
  const auto check = about.find("check");
  if (check == about.end() || check->second != arrays.check(state.weights, state.components))
    refuse("its values are not those that were written (their check sum differs)", damaged);
  return tfidf_svd::from_state(std::move(state), threads);
}

}  // namespace planlm
