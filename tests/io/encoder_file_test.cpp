#include <planlm/core/philox.hpp>
#include <planlm/io/encoder_file.hpp>

#include <cstring>
#include <fstream>

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

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::vector<std::string> sentences() {
  std::vector<std::string> all;
  const philox draws{3};
  for (std::uint64_t i = 0; i < 60; ++i) {
    std::string s = "the";
    for (std::uint32_t w = 0; w < 5; ++w)
      s += (w % 2 == 0 ? " naïve" : " wort") + std::to_string(draws.below(9, i, w));
    all.push_back(s);
  }
  return all;
}

tfidf_svd fitted() {
  tfidf_svd_options options;
  options.width = 4;
  options.passage = 1;
  return tfidf_svd::fit(sentences(), options);
}

/// Two words and a width of three: a file small enough to damage everywhere.
tfidf_svd_state small_state() { return {3, {"sea", "é"}, {1.5f, 0.25f}, {1, 2, 3, 4, 5, 6}}; }

/// The arrays of a file, to be changed before they are written.
struct planted {
  std::vector<std::uint8_t> words;
  std::vector<std::int64_t> ends;
  std::vector<float> weights, components;
  std::vector<index_t> shape;
  std::map<std::string, std::string> about;
  std::string without;  // this tensor stays away

  planted() {
    const tfidf_svd_state state = small_state();
    const detail::encoder_arrays arrays(state);
    words = arrays.words;
    ends = arrays.ends;
    weights = state.weights;
    components = state.components;
    shape = {2, 3};
    about = {{"kind", "planlm.tfidf_svd 1"}, {"check", arrays.check(weights, components)}};
  }
  /// Says what the reader says, after the path.
  std::string said() {
    const scratch::folder folder;
    const std::filesystem::path path = folder / "encoder.safetensors";
    std::vector<tensor_ref> tensors{{"words", {static_cast<index_t>(words.size())}, words},
                                    {"word_ends", {static_cast<index_t>(ends.size())}, ends},
                                    {"weights", {static_cast<index_t>(weights.size())}, weights},
                                    {"components", shape, components}};
    std::erase_if(tensors, [&](const tensor_ref& t) { return t.name == without; });
    write_safetensors(path, tensors, about);
    const std::string message = message_of([&] { read_encoder(path); });
    CHECK(message.find('\n') == std::string::npos);
    return message.starts_with(path.string() + ": ") ? message.substr(path.string().size() + 2) : message;
  }
};

}  // namespace

TEST_CASE("an encoder read back gives the same vectors bit for bit") {
  const scratch::folder folder;
  const tfidf_svd encoder = fitted();
  write_encoder(folder / "e", encoder);
  const tfidf_svd again = read_encoder(folder / "e", 2);
  CHECK(again.state() == encoder.state());
  std::vector<std::string> questions = sentences();
  questions.insert(questions.end(), {"", "nothing known here", "WORT3 naïve1 the"});
  const embeddings expected = encoder.encode(questions), got = again.encode(questions);
  REQUIRE(got.values.size() == expected.values.size());
  CHECK(std::memcmp(got.values.data(), expected.values.data(), got.values.size() * sizeof(float)) == 0);
  CHECK(expected.values[0] != 0);
}

TEST_CASE("an encoder of real text comes back with every word") {
  std::ifstream in(std::string(PLANLM_SHARED_DATA) + "/subjectivity.objective.txt");
  if (!in) {
    WARN("SKIPPED: there is no ../shared/data");
    return;
  }
  std::vector<std::string> text;
  for (std::string line; text.size() < 2000 && std::getline(in, line);) text.push_back(line);
  tfidf_svd_options options;
  options.width = 8;
  options.rounds = 1;
  const tfidf_svd encoder = tfidf_svd::fit(text, options);
  const scratch::folder folder;
  write_encoder(folder / "e", encoder);
  const tfidf_svd again = read_encoder(folder / "e");
  CHECK(again.state() == encoder.state());
  CHECK(again.encode(text) == encoder.encode(text));
}

TEST_CASE("equal encoders give equal bytes, and a second file replaces the first") {
  const scratch::folder folder;
  write_encoder(folder / "a", fitted());
  write_encoder(folder / "b", tfidf_svd::from_state(small_state()));
  write_encoder(folder / "b", fitted());
  CHECK(scratch::contents(folder / "a") == scratch::contents(folder / "b"));
  CHECK(folder.entries() == 2);
}

TEST_CASE("a full disk leaves the encoder that was there") {
  const scratch::folder folder;
  write_encoder(folder / "e", tfidf_svd::from_state(small_state()));
  {
    const scratch::full_disk disk(500);
    CHECK(contains(message_of([&] { write_encoder(folder / "e", fitted()); }),
                   "the file that is there stays as it was"));
  }
  CHECK(read_encoder(folder / "e").state() == small_state());
  CHECK(folder.entries() == 1);
}

TEST_CASE("one byte changed anywhere in the file of an encoder is noticed") {
  const scratch::folder folder;
  write_encoder(folder / "good", tfidf_svd::from_state(small_state()));
  const std::string good = scratch::contents(folder / "good");
  REQUIRE(good.size() > 300);
  int passed = 0;
  for (std::size_t i = 0; i < good.size(); ++i)
    for (const unsigned flip : {0x01u, 0x80u, 0xffu}) {
      std::string bad = good;
      bad[i] = static_cast<char>(static_cast<unsigned char>(bad[i]) ^ flip);
      scratch::put(folder / "bad", bad);
      const std::string message = message_of([&] { read_encoder(folder / "bad"); });
      passed += message == "no input_error" || contains(message, "\n") ||
                !message.starts_with((folder / "bad").string() + ": ") || !contains(message, "; ");
    }
  CHECK(passed == 0);
}

TEST_CASE("the file of an encoder cut short anywhere is noticed") {
  const scratch::folder folder;
  write_encoder(folder / "good", tfidf_svd::from_state(small_state()));
  const std::string good = scratch::contents(folder / "good");
  int passed = 0;
  for (std::size_t size = 0; size < good.size(); ++size) {
    scratch::put(folder / "bad", good.substr(0, size));
    const std::string message = message_of([&] { read_encoder(folder / "bad"); });
    passed += message == "no input_error" || contains(message, "\n");
  }
  CHECK(passed == 0);
  scratch::put(folder / "bad", good + "x");
  CHECK(contains(message_of([&] { read_encoder(folder / "bad"); }), "has 1 bytes after its last tensor"));
}

TEST_CASE("files of another kind are not taken for an encoder") {
  CHECK(planted().said() == "no input_error");
  planted model;
  model.about.clear();
  CHECK(model.said() ==
        "is not the file of a sentence encoder (it does not say its kind); name the encoder's file in the "
        "folder of a "
        "run");
  planted newer;
  newer.about["kind"] = "planlm.tfidf_svd 2";
  CHECK(newer.said() ==
        "is of the kind \"planlm.tfidf_svd 2\", expected \"planlm.tfidf_svd 1\"; name the encoder's file in "
        "the folder "
        "of a run");
  const scratch::folder folder;
  scratch::put(folder / "text", "It was a bright cold day in April.\n");
  CHECK(contains(message_of([&] { read_encoder(folder / "text"); }), "is not a safetensors file"));
  CHECK(contains(message_of([&] { read_encoder(folder / "none"); }), "cannot be opened"));
  CHECK(contains(message_of([&] { read_encoder(folder.path()); }), "is not a plain file"));
}

TEST_CASE("every tensor of an encoder must be there") {
  for (const char* name : {"words", "word_ends", "weights", "components"}) {
    planted file;
    file.without = name;
    CHECK(file.said() ==
          "has no tensor \"" + std::string(name) + "\"; the file is damaged; copy it again or train again");
  }
}

TEST_CASE("the sizes of an encoder's tensors must fit each other") {
  planted fewer_weights;
  fewer_weights.weights.pop_back();
  CHECK(contains(fewer_weights.said(),
                 "2 words have 1 weights, expected at least one word and a weight for each"));
  planted no_words;
  no_words.words.clear();
  no_words.ends.clear();
  no_words.weights.clear();
  CHECK(contains(no_words.said(), "0 words have 0 weights"));
  planted flat;
  flat.shape = {6};
  CHECK(contains(flat.said(), "components have shape [6], expected [2, width]"));
  planted turned;
  turned.shape = {3, 2};
  CHECK(contains(turned.said(), "components have shape [3, 2], expected [2, width]"));
  planted empty;
  empty.shape = {2, 0};
  empty.components.clear();
  CHECK(contains(empty.said(), "components have shape [2, 0], expected [2, width]"));
  for (const std::vector<std::int64_t>& ends :
       {std::vector<std::int64_t>{3, 4}, {3, 6}, {3, -1}, {4, 3}, {6, 5}, {std::int64_t{1} << 62, 5}}) {
    planted cut;
    cut.ends = ends;
    CHECK(contains(cut.said(), "word_ends do not ascend to the 5 bytes of words"));
  }
}

TEST_CASE("values of an encoder that were changed with the format intact are noticed") {
  planted number;
  number.components[4] = 5.5f;
  CHECK(contains(number.said(), "its values are not those that were written (their check sum differs)"));
  planted word;
  word.words[0] = 't';
  CHECK(contains(word.said(), "check sum differs"));
  planted cut;
  cut.ends[0] = 2;
  CHECK(contains(cut.said(), "check sum differs"));
  planted unsigned_file;
  unsigned_file.about.erase("check");
  CHECK(contains(unsigned_file.said(), "check sum differs"));
}
