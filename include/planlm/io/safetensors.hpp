/// Named arrays in the safetensors format, which NumPy, PyTorch and others read.
///
/// File: 8 bytes, little-endian length N of the header; N bytes of JSON
///   {"__metadata__": {string: string}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin,
///   end]}, ...};
/// then the values, row-major, little-endian, without gaps; offsets count from the end of the header.
/// Element types here: F64, F32, I64, I32, U8.
///
/// Writing replaces the file whole or not at all (atomic_file). Reading trusts nothing: lengths are held
/// against the size of the file before memory is asked for, and every offset, shape and name is checked when
/// the file is opened.
///
/// Errors: input_error naming file, place and remedy; shape_error where the program hands over values that do
/// not fit.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/io/atomic_file.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace planlm {

static_assert(std::endian::native == std::endian::little,
              "planlm writes safetensors as the machine stores numbers");

template <class T>
concept TensorElement = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, std::int64_t> ||
    std::same_as<T, std::int32_t> || std::same_as<T, std::uint8_t> ||
    because<"TensorElement: double, float, int64, int32 or uint8", T>();

/// An array to be written; the values stay where they are. `{"planner.head", {64, 128}, values}`.
struct tensor_ref {
  std::string name;
  std::vector<index_t> shape;  ///< empty for a single number
  std::variant<std::span<const float>, std::span<const double>, std::span<const std::int64_t>,
               std::span<const std::int32_t>, std::span<const std::uint8_t>>
      values;
};

namespace detail {

template <TensorElement T>
constexpr std::string_view element_name() {
  if constexpr (std::same_as<T, double>) return "F64";
  if constexpr (std::same_as<T, float>) return "F32";
  if constexpr (std::same_as<T, std::int64_t>) return "I64";
  if constexpr (std::same_as<T, std::int32_t>) return "I32";
  return "U8";
}

/// Bytes of one element, nothing for a type that is not read here.
inline std::optional<std::uint64_t> element_size(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64") return 8;
  if (dtype == "F32" || dtype == "I32") return 4;
  if (dtype == "U8") return 1;
  return std::nullopt;
}

/// Product of the extents; nothing for a negative extent or a product beyond 2^63 - 1.
inline std::optional<index_t> shape_product(const std::vector<index_t>& shape) {
  index_t product = 1;
  // Zeros first: an empty array is empty whatever its other extents multiply to.
  for (const index_t extent : shape)
    if (extent < 0) return std::nullopt;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  for (const index_t extent : shape)
    if (__builtin_mul_overflow(product, extent, &product)) return std::nullopt;
  return product;
}

inline std::string shape_text(const std::vector<index_t>& shape) {
  std::string text = "[";
  const std::size_t shown =
      std::min<std::size_t>(shape.size(), 8);  // a damaged file may claim a million axes
  for (std::size_t axis = 0; axis < shown; ++axis)
    text += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
  return text + (shown < shape.size() ? ", ...]" : "]");
}

/// A name out of a file, in quotes, on one line and not endless.
inline std::string quoted_name(std::string_view name) {
  const bool long_name = name.size() > 80;
  const std::string text = nlohmann::json(std::string(name.substr(0, 80)))
                               .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return long_name ? text + "..." : text;
}

}  // namespace detail

/// Writes all tensors to `path`. The bytes depend on the arguments alone.
inline void write_safetensors(const std::filesystem::path& path, const std::vector<tensor_ref>& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  struct piece {
    const tensor_ref* tensor;
    std::string_view dtype;
    std::size_t element;
    std::span<const std::byte> bytes;
  };
  std::vector<piece> pieces;
  std::set<std::string> names = {"__metadata__"};
  for (const tensor_ref& tensor : tensors) {
    std::visit(
        [&]<class T>(std::span<const T> values) {
          pieces.push_back({&tensor, detail::element_name<T>(), sizeof(T), std::as_bytes(values)});
        },
        tensor.values);
    const auto product = detail::shape_product(tensor.shape);
    const std::size_t count = pieces.back().bytes.size() / pieces.back().element;
    if (!product || static_cast<std::size_t>(*product) != count)
      throw shape_error("write_safetensors: tensor " + detail::quoted_name(tensor.name) + " has shape " +
                        detail::shape_text(tensor.shape) + " and " + std::to_string(count) + " values");
    if (!names.insert(tensor.name).second)
      throw error("write_safetensors: the name " + detail::quoted_name(tensor.name) +
                  " is taken; names are unique");
  }
  // Larger elements first: then every array is aligned to its element, and readers may map the file.
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const piece& a, const piece& b) { return a.element > b.element; });

  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const piece& p : pieces) {
    const std::uint64_t end = offset + p.bytes.size();
    header[p.tensor->name] = {
        {"dtype", p.dtype}, {"shape", p.tensor->shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    throw error("write_safetensors: a name or a metadata text is not UTF-8, which the format demands");
  }
  text.append((8 - text.size() % 8) % 8, ' ');

  const std::uint64_t length = text.size();
  atomic_file file(path, static_cast<index_t>(8 + length + offset));
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(std::as_bytes(std::span(text)));
  for (const piece& p : pieces) file.write(p.bytes);
  file.commit();
}

/// An open safetensors file. The header is read and checked at once, values when they are asked for.
class tensor_file {
 public:
  explicit tensor_file(std::filesystem::path path) : path_(std::move(path)) {
    file_ = detail::descriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file_.open())
      refuse("cannot be opened: " + detail::reason(errno), "check the path and its permissions");
    struct stat status = {};
    if (::fstat(file_.number(), &status) != 0 || !S_ISREG(status.st_mode))
      refuse("is not a plain file", "name a safetensors file");
    read_header(static_cast<std::uint64_t>(status.st_size));
  }

  /// In the order of the values in the file.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return entries_.contains(name); }
  const std::vector<index_t>& shape(const std::string& name) const { return entry_of(name).shape; }
  /// "F32", "F64", "I32", "I64" or "U8".
  const std::string& dtype(const std::string& name) const { return entry_of(name).dtype; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  template <TensorElement T>
  std::vector<T> read(const std::string& name) const {
    // The bytes were found to be in the file, so the allocation is no larger than the file.
    std::vector<T> values(static_cast<std::size_t>(typed_entry<T>(name).bytes() / sizeof(T)));
    read(name, std::span<T>(values));
    return values;
  }
  template <TensorElement T>
  void read(const std::string& name, std::span<T> into) const {
    const entry& e = typed_entry<T>(name);
    if (e.bytes() != into.size_bytes())
      refuse("tensor " + detail::quoted_name(name) + " has shape " + detail::shape_text(e.shape) + ", " +
                 std::to_string(e.bytes() / sizeof(T)) + " values; " + std::to_string(into.size()) +
                 " were expected",
             "use the sizes of the model it was saved from");
    read_bytes(data_begin_ + e.begin, std::as_writable_bytes(into));
  }

 private:
  struct entry {
    std::string dtype;
    std::vector<index_t> shape;
    std::uint64_t begin = 0, end = 0;  ///< from the end of the header
    std::uint64_t bytes() const { return end - begin; }
  };
  using json = nlohmann::json;
  static constexpr std::uint64_t longest_header = 100'000'000;  // as in the reference implementation
  static constexpr const char* other_kind = "name a file in the safetensors format";
  static constexpr const char* damaged = "the file is damaged; copy or save it again";

  [[noreturn]] void refuse(const std::string& what, const std::string& remedy) const {
    throw input_error(path_.string() + ": " + what + "; " + remedy);
  }
  [[noreturn]] void refuse_size(std::uint64_t expected, std::uint64_t found) const {
    refuse("is cut short: expected at least " + std::to_string(expected) + " bytes, found " +
               std::to_string(found),
           "copy or save it again");
  }

  void read_bytes(std::uint64_t from, std::span<std::byte> into) const {
    const std::uint64_t wanted = from + into.size();
    while (!into.empty()) {
      const ssize_t got = ::pread(file_.number(), into.data(), into.size(), static_cast<off_t>(from));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0)
        refuse("cannot be read at byte " + std::to_string(from) + ": " + detail::reason(errno), damaged);
      if (got == 0) refuse_size(wanted, from);  // it shrank since it was opened
      into = into.subspan(static_cast<std::size_t>(got));
      from += static_cast<std::uint64_t>(got);
    }
  }

  void read_header(std::uint64_t size) {
    if (size < 9)
      refuse("has " + std::to_string(size) + " bytes, too few for a safetensors file", other_kind);
    std::uint64_t length = 0;
    char first = 0;
    read_bytes(0, std::as_writable_bytes(std::span(&length, 1)));
    read_bytes(8, std::as_writable_bytes(std::span(&first, 1)));
    if (first != '{') refuse("is not a safetensors file (byte 8 does not begin a header)", other_kind);
    if (length > longest_header)
      refuse("is not a safetensors file (a header of " + std::to_string(length) +
                 " bytes; the format allows " + std::to_string(longest_header) + ")",
             other_kind);
    if (length > size - 8) refuse_size(8 + length, size);
    std::string text(static_cast<std::size_t>(length), '\0');
    read_bytes(8, std::as_writable_bytes(std::span(text)));
    data_begin_ = 8 + length;
    const json header = parsed(text);
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__")
        read_metadata(value);
      else
        entries_.emplace(name, checked_entry(name, value));
    }
    check_layout(size - data_begin_);
  }

  json parsed(const std::string& text) const {
    std::vector<std::set<std::string>> keys;  // of the objects that are open
    std::optional<std::string> twice;
    const auto watch = [&](int depth, json::parse_event_t event, json& value) {
      if (depth > 4) refuse("header is nested deeper than the format has it", damaged);
      if (event == json::parse_event_t::object_start) keys.emplace_back();
      if (event == json::parse_event_t::object_end) keys.pop_back();
      if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
        twice = value.get<std::string>();
      return true;
    };
    try {
      json header = json::parse(text, watch);
      if (twice) refuse("header names " + detail::quoted_name(*twice) + " twice", damaged);
      return header;
    } catch (const json::parse_error& e) {
      refuse("header is not JSON at byte " + std::to_string(7 + e.byte), damaged);
    } catch (const json::exception&) {
      refuse("header holds a number out of range", damaged);
    }
  }

  void read_metadata(const json& value) {
    if (!value.is_object()) refuse("header: __metadata__ is not an object", damaged);
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string())
        refuse("header: __metadata__ " + detail::quoted_name(key) + " is not a text", damaged);
      metadata_.emplace(key, text.get<std::string>());
    }
  }

  entry checked_entry(const std::string& name, const json& value) const {
    const std::string who = "tensor " + detail::quoted_name(name);
    const auto whole = [](const json& number) {
      return number.is_number_unsigned() &&
             number.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());
    };
    const auto wholes = [&](const char* key) {
      return value.contains(key) && value[key].is_array() &&
             std::all_of(value[key].begin(), value[key].end(), whole);
    };
    if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() || !wholes("shape") ||
        !wholes("data_offsets") || value["data_offsets"].size() != 2)
      refuse("header: " + who + " needs dtype (a text), shape and two data_offsets (whole numbers)", damaged);
    entry e;
    e.dtype = value["dtype"].get<std::string>();
    for (const json& extent : value["shape"]) e.shape.push_back(extent.get<index_t>());
    e.begin = value["data_offsets"][0].get<std::uint64_t>();
    e.end = value["data_offsets"][1].get<std::uint64_t>();
    const auto element = detail::element_size(e.dtype);
    if (!element)
      refuse(who + " has the element type " + detail::quoted_name(e.dtype) +
                 ", expected F64, F32, I64, I32 or U8",
             "convert it to F32");
    const auto product = detail::shape_product(e.shape);
    if (!product)
      refuse(who + ": the extents of shape " + detail::shape_text(e.shape) + " overflow", damaged);
    if (e.end < e.begin || e.bytes() % *element != 0 ||
        e.bytes() / *element != static_cast<std::uint64_t>(*product))
      refuse(who + " of type " + e.dtype + " and shape " + detail::shape_text(e.shape) +
                 " does not fit data_offsets [" + std::to_string(e.begin) + ", " + std::to_string(e.end) +
                 "]",
             damaged);
    return e;
  }

  /// The values lie one after the other and fill the file.
  void check_layout(std::uint64_t available) {
    for (const auto& [name, e] : entries_) names_.push_back(name);
    std::stable_sort(names_.begin(), names_.end(), [&](const std::string& a, const std::string& b) {
      const entry &left = entries_.at(a), &right = entries_.at(b);
      return std::pair(left.begin, left.end) < std::pair(right.begin, right.end);
    });
    std::uint64_t filled = 0;
    for (const std::string& name : names_) {
      const entry& e = entries_.at(name);
      if (e.begin != filled)
        refuse("tensor " + detail::quoted_name(name) + " begins at offset " + std::to_string(e.begin) +
                   (e.begin < filled ? ", inside the one before, which ends at " : ", after a gap from ") +
                   std::to_string(filled),
               damaged);
      filled = e.end;
    }
    if (filled > available) refuse_size(data_begin_ + filled, data_begin_ + available);
    if (filled < available)
      refuse("has " + std::to_string(available - filled) + " bytes after its last tensor", damaged);
  }

  const entry& entry_of(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end())
      refuse("has no tensor " + detail::quoted_name(name) + " among its " + std::to_string(entries_.size()),
             "use a file saved from the same model");
    return found->second;
  }
  template <TensorElement T>
  const entry& typed_entry(const std::string& name) const {
    const entry& e = entry_of(name);
    if (e.dtype != detail::element_name<T>())
      refuse("tensor " + detail::quoted_name(name) + " holds " + e.dtype + ", expected " +
                 std::string(detail::element_name<T>()),
             "use a file saved with the same number types");
    return e;
  }

  std::filesystem::path path_;
  detail::descriptor file_;
  std::uint64_t data_begin_ = 0;
  std::map<std::string, entry> entries_;
  std::vector<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace planlm
