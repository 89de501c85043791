#include <planlm/core/philox.hpp>
#include <planlm/io/safetensors.hpp>

#include <cmath>
#include <cstring>
#include <limits>

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

/// A file with this header, padded to nothing, and this many bytes of values.
std::string file_of(const std::string& header, std::size_t values) {
  std::string bytes(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(values, '\1');
}

/// What is said of a file with these bytes, without its path.
std::string said_of(const std::string& bytes) {
  const scratch::folder folder;
  const std::filesystem::path path = folder / "f";
  scratch::put(path, bytes);
  const std::string message = message_of([&] { tensor_file file(path); });
  CHECK(message.find('\n') == std::string::npos);
  return message.starts_with(path.string() + ": ") ? message.substr(path.string().size() + 2) : message;
}

const std::vector<float> weights = {1.5f,  -0.0f, std::numeric_limits<float>::denorm_min(),
                                    3e38f, NAN,   -INFINITY};
const std::vector<double> moments = {1.0 / 3, -1e308};
const std::vector<std::int64_t> counts = {std::numeric_limits<std::int64_t>::min(), 7};
const std::vector<std::int32_t> labels = {-1, 2, 3};
const std::vector<std::uint8_t> bytes = {0, 127, 255};

std::vector<tensor_ref> all_kinds() {
  return {{"text", {3}, bytes},
          {"lm.w", {2, 3}, weights},
          {"adam/m", {2}, moments},
          {"counts", {2, 1}, counts},
          {"labels", {3}, labels},
          {"empty", {0, 4}, std::span<const float>()},
          {"number", {}, std::span(weights).first(1)}};
}

}  // namespace

TEST_CASE("every element type comes back bit for bit, with names, shapes and metadata") {
  const scratch::folder folder;
  write_safetensors(folder / "c.safetensors", all_kinds(), {{"step", "12"}, {"größe", "\"x\"\n"}});
  const tensor_file file(folder / "c.safetensors");

  CHECK(file.names().size() == 7);
  CHECK(file.contains("lm.w"));
  CHECK_FALSE(file.contains("lm"));
  CHECK(file.shape("lm.w") == std::vector<index_t>{2, 3});
  CHECK(file.shape("empty") == std::vector<index_t>{0, 4});
  CHECK(file.shape("number").empty());
  CHECK(file.dtype("labels") == "I32");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"step", "12"}, {"größe", "\"x\"\n"}});

  const auto read = file.read<float>("lm.w");
  REQUIRE(read.size() == weights.size());
  CHECK(std::memcmp(read.data(), weights.data(), sizeof(float) * weights.size()) == 0);
  CHECK(file.read<double>("adam/m") == moments);
  CHECK(file.read<std::int64_t>("counts") == counts);
  CHECK(file.read<std::int32_t>("labels") == labels);
  CHECK(file.read<std::uint8_t>("text") == bytes);
  CHECK(file.read<float>("empty").empty());
  CHECK(file.read<float>("number") == std::vector<float>{1.5f});

  std::vector<std::int32_t> into(3);
  file.read("labels", std::span(into));
  CHECK(into == labels);
}

TEST_CASE("the bytes of a small file are those of the format's description") {
  const scratch::folder folder;
  const std::vector<float> one = {1.0f};
  write_safetensors(folder / "f", {{"a", {1}, one}});
  std::string header = R"({"a":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}})";
  header.append((8 - header.size() % 8) % 8, ' ');
  CHECK(scratch::contents(folder / "f") ==
        file_of(header, 0) + std::string("\x00\x00\x80\x3f", 4));  // 1.0f, little-endian
}

TEST_CASE("values are aligned to their element, and equal arguments give equal bytes") {
  const scratch::folder folder;
  write_safetensors(folder / "a", all_kinds(), {{"k", "v"}});
  write_safetensors(folder / "b", all_kinds(), {{"k", "v"}});
  const std::string text = scratch::contents(folder / "a");
  CHECK(text == scratch::contents(folder / "b"));
  std::uint64_t length = 0;
  std::memcpy(&length, text.data(), 8);
  CHECK(length % 8 == 0);
  const auto header = nlohmann::json::parse(text.substr(8, length));
  for (const auto& [name, entry] : header.items())
    if (name != "__metadata__") {
      const auto size = detail::element_size(entry["dtype"].get<std::string>());
      CHECK(entry["data_offsets"][0].get<std::uint64_t>() % size.value() == 0);
    }
}

TEST_CASE("a file without tensors is a file") {
  const scratch::folder folder;
  write_safetensors(folder / "f", {}, {{"only", "metadata"}});
  const tensor_file file(folder / "f");
  CHECK(file.names().empty());
  CHECK(file.metadata().at("only") == "metadata");
  CHECK(said_of(file_of("{}", 0)) == "no input_error");
}

TEST_CASE("a header as other writers lay it out is read: padding, another order, unknown keys") {
  const scratch::folder folder;
  scratch::put(folder / "f",
               file_of("{ \"z\" : {\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6],\"note\":1},\n"
                       "\"a\":{\"shape\":[1],\"dtype\":\"I32\",\"data_offsets\":[0,4]}}     ",
                       6));
  const tensor_file file(folder / "f");
  CHECK(file.names() == std::vector<std::string>{"a", "z"});
  CHECK(file.read<std::int32_t>("a") == std::vector<std::int32_t>{0x01010101});
  CHECK(file.read<std::uint8_t>("z") == std::vector<std::uint8_t>{1, 1});
}

TEST_CASE("a full disk leaves the old checkpoint byte for byte") {
  const scratch::folder folder;
  const std::vector<float> large(5000, 2.0f);
  write_safetensors(folder / "c", all_kinds());
  const std::string old = scratch::contents(folder / "c");
  for (const rlim_t room : std::vector<rlim_t>{4, 100, 8192, 20000}) {
    std::string message;
    {
      const scratch::full_disk full(room);
      message = message_of([&] { write_safetensors(folder / "c", {{"w", {5000}, large}}); });
    }
    CHECK(message ==
          (folder / "c").string() +
              ": cannot write 20072 bytes: File too large; the file that is there stays as it was; "
              "free some space, or write to another disk");
    CHECK(scratch::contents(folder / "c") == old);
    CHECK(folder.entries() == 1);
  }
  write_safetensors(folder / "c", {{"w", {5000}, large}});
  CHECK(std::filesystem::file_size(folder / "c") == 20072);
  CHECK(tensor_file(folder / "c").read<float>("w") == large);
}

TEST_CASE("a tensor that the program describes wrongly is refused before the file is touched") {
  const scratch::folder folder;
  scratch::put(folder / "c", "old");
  const auto what = [&](const std::vector<tensor_ref>& tensors) {
    try {
      write_safetensors(folder / "c", tensors);
    } catch (const error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK(what({{"w", {2, 2}, weights}}) == "write_safetensors: tensor \"w\" has shape [2, 2] and 6 values");
  CHECK(what({{"w", {-2, -3}, weights}}) ==
        "write_safetensors: tensor \"w\" has shape [-2, -3] and 6 values");
  CHECK(what({{"w", {6}, weights}, {"w", {6}, weights}}) ==
        "write_safetensors: the name \"w\" is taken; names are unique");
  CHECK(what({{"__metadata__", {6}, weights}}).find("is taken") != std::string::npos);
  CHECK(what({{"w\xff", {6}, weights}}).find("not UTF-8") != std::string::npos);
  CHECK_THROWS_AS(write_safetensors(folder / "c", {{"w", {5}, weights}}), shape_error);
  CHECK(scratch::contents(folder / "c") == "old");
}

TEST_CASE("a file cut short at any byte is refused, and says what it lacks") {
  const scratch::folder folder;
  write_safetensors(folder / "c", all_kinds(), {{"k", "v"}});
  const std::string whole = scratch::contents(folder / "c");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::string said = said_of(whole.substr(0, size));
    INFO(size << " bytes: " << said);
    if (size < 9)
      CHECK(said == "has " + std::to_string(size) +
                        " bytes, too few for a safetensors file; name a file in the safetensors format");
    else
      CHECK(said.starts_with("is cut short: expected at least "));
  }
  CHECK(said_of(whole.substr(0, whole.size() - 1)) ==
        "is cut short: expected at least " + std::to_string(whole.size()) + " bytes, found " +
            std::to_string(whole.size() - 1) + "; copy or save it again");
  CHECK(said_of(whole + "xy") ==
        "has 2 bytes after its last tensor; the file is damaged; copy or save it again");
}

TEST_CASE("files of other kinds are told from damaged ones") {
  const std::string other = "; name a file in the safetensors format";
  CHECK(said_of("It was a dark and stormy night.") ==
        "is not a safetensors file (byte 8 does not begin a header)" + other);
  CHECK(said_of(std::string(100, '\0')) ==
        "is not a safetensors file (byte 8 does not begin a header)" + other);
  CHECK(said_of(std::string("PK\3\4\24\0\0\0\10\0zip", 13)).starts_with("is not a safetensors file"));
  CHECK(said_of(std::string(8, '\xff') + "{}") ==
        "is not a safetensors file (a header of 18446744073709551615 bytes; the format allows 100000000)" +
            other);
  CHECK(said_of(std::string("\0\0\0\0\1\0\0\0{}", 10)).find("a header of 4294967296 bytes") !=
        std::string::npos);

  const scratch::folder folder;
  CHECK(message_of([&] { tensor_file file(folder.path()); }) ==
        folder.path().string() + ": is not a plain file; name a safetensors file");
  CHECK(message_of([&] { tensor_file file(folder / "none"); }) ==
        (folder / "none").string() +
            ": cannot be opened: No such file or directory; check the path and its permissions");
  CHECK(message_of([&] { tensor_file file("/dev/zero"); }) ==
        "/dev/zero: is not a plain file; name a safetensors file");
}

TEST_CASE("a damaged header is refused with the place and the numbers") {
  const std::string damaged = "; the file is damaged; copy or save it again";
  CHECK(said_of(file_of("{\"a\":}", 0)) == "header is not JSON at byte 13" + damaged);
  CHECK(said_of(file_of("{\"a\":1e999}", 0)) == "header holds a number out of range" + damaged);
  CHECK(said_of(file_of("{\"a\":\"\xff\"}", 0)).starts_with("header is not JSON at byte"));
  CHECK(said_of(file_of("{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}", 0)) ==
        "header is nested deeper than the format has it" + damaged);

  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  const std::string good = entry("F32", "[2]", "[0,8]");
  CHECK(said_of(file_of("{\"a\":" + good + "}", 8)) == "no input_error");
  CHECK(said_of(file_of("{\"a\":" + good + ",\"a\":" + good + "}", 8)) ==
        "header names \"a\" twice" + damaged);
  CHECK(said_of(file_of("{\"__metadata__\":[1]}", 0)) == "header: __metadata__ is not an object" + damaged);
  CHECK(said_of(file_of("{\"__metadata__\":{\"k\":1}}", 0)) ==
        "header: __metadata__ \"k\" is not a text" + damaged);
  CHECK(
      said_of(file_of("{\"a\\nb\":" + entry("BF16", "[2]", "[0,4]") + "}", 4)) ==
      "tensor \"a\\nb\" has the element type \"BF16\", expected F64, F32, I64, I32 or U8; convert it to F32");

  const std::string needs =
      "header: tensor \"a\" needs dtype (a text), shape and two data_offsets (whole numbers)" + damaged;
  for (const std::string& wrong :
       {std::string("7"), std::string("{}"), entry("F32", "2", "[0,8]"), entry("F32", "[2.0]", "[0,8]"),
        entry("F32", "[-2]", "[0,8]"), entry("F32", "[2]", "[0]"), entry("F32", "[2]", "[0,8,9]"),
        entry("F32", "[2]", "[-8,0]"), entry("F32", "[9223372036854775808]", "[0,8]")})
    CHECK(said_of(file_of("{\"a\":" + wrong + "}", 8)) == needs);

  CHECK(said_of(file_of("{\"a\":" + entry("F32", "[3]", "[0,8]") + "}", 8)) ==
        "tensor \"a\" of type F32 and shape [3] does not fit data_offsets [0, 8]" + damaged);
  CHECK(said_of(file_of("{\"a\":" + entry("F32", "[2]", "[8,0]") + "}", 8)).find("does not fit") !=
        std::string::npos);
  CHECK(said_of(file_of("{\"a\":" + entry("F32", "[2147483648,2147483648,4]", "[0,8]") + "}", 8)) ==
        "tensor \"a\": the extents of shape [2147483648, 2147483648, 4] overflow" + damaged);
  // 2^62 elements of 4 bytes are 2^64 bytes, which must not wrap around to 0.
  CHECK(said_of(file_of("{\"a\":" + entry("F32", "[4611686018427387904]", "[0,0]") + "}", 0))
            .find("does not fit") != std::string::npos);
}

TEST_CASE("tensors that overlap, leave gaps or lie outside the file are refused") {
  const std::string damaged = "; the file is damaged; copy or save it again";
  const auto two = [](const std::string& first, const std::string& second) {
    return "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + first +
           "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + second + "}}";
  };
  CHECK(said_of(file_of(two("[0,4]", "[4,8]"), 8)) == "no input_error");
  CHECK(said_of(file_of(two("[0,4]", "[3,7]"), 7)) ==
        "tensor \"b\" begins at offset 3, inside the one before, which ends at 4" + damaged);
  CHECK(said_of(file_of(two("[0,4]", "[6,10]"), 10)) ==
        "tensor \"b\" begins at offset 6, after a gap from 4" + damaged);
  CHECK(said_of(file_of(two("[2,6]", "[6,10]"), 10)) ==
        "tensor \"a\" begins at offset 2, after a gap from 0" + damaged);
  CHECK(said_of(file_of(two("[0,4]", "[9223372036854775800,9223372036854775804]"), 8)).find("after a gap") !=
        std::string::npos);
  CHECK(said_of(file_of(two("[0,4]", "[4,8]"), 5)).starts_with("is cut short: expected at least "));
}

TEST_CASE("a claim of enormous values asks for no memory") {
  // 2^60 bytes: were they allocated before the size of the file is known, this would be bad_alloc.
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}})";
  CHECK(said_of(file_of(header, 100)).starts_with("is cut short: expected at least 11529215046068"));
}

TEST_CASE("a header with any one byte changed is read or refused, never worse") {
  const scratch::folder folder;
  write_safetensors(folder / "c", all_kinds(), {{"k", "v"}});
  const std::string whole = scratch::contents(folder / "c");
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), 8);
  int refused = 0, read = 0;
  for (std::uint32_t trial = 0; trial < 2000; ++trial) {
    const philox random{5};
    std::string changed = whole;
    const std::uint32_t place = random.below(static_cast<std::uint32_t>(8 + length), trial, 0);
    changed[place] = static_cast<char>(random.below(256, trial, 1));
    scratch::put(folder / "d", changed);
    try {
      const tensor_file file(folder / "d");
      for (const std::string& name : file.names())
        if (file.dtype(name) == "F32") file.read<float>(name);
      ++read;
    } catch (const input_error& e) {
      ++refused;
      CHECK(std::string(e.what()).find('\n') == std::string::npos);
    }
  }
  CHECK(refused > 1000);
  CHECK(read > 50);  // letters of names, padding, bytes that did not change
}

TEST_CASE("a name, a type or a size that the program does not expect is refused with both") {
  const scratch::folder folder;
  write_safetensors(folder / "c", all_kinds());
  const tensor_file file(folder / "c");
  const std::string path = (folder / "c").string();
  CHECK(message_of([&] { file.read<float>("lm.v"); }) ==
        path + ": has no tensor \"lm.v\" among its 7; use a file saved from the same model");
  CHECK(message_of([&] { file.read<double>("lm.w"); }) ==
        path + ": tensor \"lm.w\" holds F32, expected F64; use a file saved with the same number types");
  std::vector<float> eight(8, 9.0f);
  CHECK(
      message_of([&] { file.read("lm.w", std::span(eight)); }) ==
      path +
          ": tensor \"lm.w\" has shape [2, 3], 6 values; 8 were expected; use the sizes of the model it was "
          "saved from");
  CHECK(eight == std::vector<float>(8, 9.0f));
}

TEST_CASE("a file that shrinks while it is open is refused when it is read") {
  const scratch::folder folder;
  write_safetensors(folder / "c", {{"w", {6}, weights}});
  const tensor_file file(folder / "c");
  std::filesystem::resize_file(folder / "c", std::filesystem::file_size(folder / "c") - 4);
  CHECK(message_of([&] { file.read<float>("w"); }).find("is cut short") != std::string::npos);
}

TEST_CASE("a file that is replaced while it is open goes on being read as it was") {
  const scratch::folder folder;
  write_safetensors(folder / "c", {{"n", {3}, labels}});
  const tensor_file file(folder / "c");
  const std::vector<std::int32_t> others = {9, 9, 9};
  write_safetensors(folder / "c", {{"n", {3}, others}});
  CHECK(file.read<std::int32_t>("n") == labels);
  CHECK(tensor_file(folder / "c").read<std::int32_t>("n") == others);
}
