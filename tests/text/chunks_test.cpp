#include "catch.hpp"

#include <algorithm>
#include <planlm/text/chunks.hpp>
#include <string>
#include <vector>

namespace {
using namespace planlm::text;
using ints = std::vector<int>;

constexpr int bos = 0;

/// A document whose sentences have these lengths; its tokens are 1, 2, 3, ... + `offset`.
tokenised_document make_document(const ints& lengths, int offset = 0) {
  tokenised_document d{{bos}, {1}};
  for (const int n : lengths) {
    for (int i = 0; i < n; ++i) d.tokens.push_back(offset + static_cast<int>(d.tokens.size()));
    d.sentence_begin.push_back(static_cast<int>(d.tokens.size()));
  }
  return d;
}

/// "He went there. | He loved it. | The leaves fell." with words as tokens 1 .. 9.
tokenised_document worked_example() { return make_document({3, 3, 3}); }

/// gamma by definition: search all sentences for the target of position t.
int sentence_of_target(const tokenised_document& d, int t) {
  for (int s = 0; s < d.sentences(); ++s)
    if (d.sentence_begin[static_cast<std::size_t>(s)] <= t + 1 &&
        t + 1 < d.sentence_begin[static_cast<std::size_t>(s) + 1])
      return s;
  return -1;
}

/// gamma of every row of the batch, as sentence numbers.
ints gamma(const batch& b) {
  ints numbers;
  for (const int row : b.sentence) numbers.push_back(b.sentences.at(static_cast<std::size_t>(row)).sentence);
  return numbers;
}

batch one_document_batch(const tokenised_document& d, int length) {
  const std::vector<tokenised_document> documents{d};
  return make_batch(documents, cut_chunks(d, 0, length));
}

const std::vector<ints> shapes{{3, 3, 3}, {1}, {1, 1, 1, 1}, {7, 1, 2}, {2, 9, 1, 4, 3}, {1, 8}, {20}};
}  // namespace

TEST_CASE("fact 19: the worked example labels BOS with the first sentence and a last token with the next") {
  const batch b = one_document_batch(worked_example(), 9);
  // inputs:              BOS He went there. He loved it. The leaves
  CHECK(b.tokens == ints{0, 1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(b.targets == ints{1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(gamma(b) == ints{0, 0, 0, 1, 1, 1, 2, 2, 2});
  CHECK(b.positions == ints{0, 1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(b.sequence_offsets == ints{0, 9});
  CHECK(b.document == ints{0});
  CHECK(b.sentences == std::vector<sentence_ref>{{0, 0}, {0, 1}, {0, 2}});
}

TEST_CASE("fact 19: a one-token sentence labels the row before it and no other") {
  CHECK(gamma(one_document_batch(make_document({2, 1, 2}), 5)) == ints{0, 0, 1, 2, 2});
  CHECK(gamma(one_document_batch(make_document({1, 1, 1}), 3)) == ints{0, 1, 2});
}

TEST_CASE("fact 19: the first sentence of a document labels its BOS row") {
  CHECK(gamma(one_document_batch(make_document({1}), 4)) == ints{0});
  CHECK(gamma(one_document_batch(make_document({4}), 4)) == ints{0, 0, 0, 0});
}

TEST_CASE("fact 19: a chunk boundary inside a sentence leaves the sentence one row of the batch") {
  const batch b = one_document_batch(worked_example(), 2);
  CHECK(b.sequence_offsets == ints{0, 2, 4, 6, 8, 9});
  CHECK(b.positions == ints{0, 1, 0, 1, 0, 1, 0, 1, 0});
  CHECK(b.sentence == ints{0, 0, 0, 1, 1, 1, 2, 2, 2});
  CHECK(b.sentences == std::vector<sentence_ref>{{0, 0}, {0, 1}, {0, 2}});
}

TEST_CASE("fact 19: a chunk that ends exactly at a sentence end brings no sentence too many") {
  const tokenised_document d = worked_example();
  const std::vector<tokenised_document> documents{d};
  const std::vector<chunk> chunks = cut_chunks(d, 0, 3);
  REQUIRE(chunks == std::vector<chunk>{{0, 0, 3}, {0, 3, 3}, {0, 6, 3}});
  const batch first = make_batch(documents, std::vector<chunk>{chunks[0]});
  CHECK(first.targets == ints{1, 2, 3});  // the last target is "there.", the end of sentence 0
  CHECK(first.sentences == std::vector<sentence_ref>{{0, 0}});
  const batch second = make_batch(documents, std::vector<chunk>{chunks[1]});
  CHECK(second.tokens == ints{3, 4, 5});  // "there." is an input again, and predicts sentence 1
  CHECK(second.sentences == std::vector<sentence_ref>{{0, 1}});
}

TEST_CASE("fact 19: gamma agrees with its definition for every shape and chunk length") {
  for (const ints& shape : shapes) {
    const tokenised_document d = make_document(shape);
    ints expected;
    for (int t = 0; t + 1 < static_cast<int>(d.tokens.size()); ++t)
      expected.push_back(sentence_of_target(d, t));
    for (int length = 1; length <= 9; ++length) CHECK(gamma(one_document_batch(d, length)) == expected);
  }
}

TEST_CASE("fact 21: every token but BOS is a target exactly once, for chunk lengths 1 to 9") {
  for (const ints& shape : shapes) {
    const tokenised_document d = make_document(shape);
    for (int length = 1; length <= 9; ++length) {
      const batch b = one_document_batch(d, length);
      CHECK(b.targets == ints(d.tokens.begin() + 1, d.tokens.end()));
      CHECK(b.tokens == ints(d.tokens.begin(), d.tokens.end() - 1));
      for (const chunk& c : cut_chunks(d, 0, length)) CHECK((c.length >= 1 && c.length <= length));
    }
  }
}

TEST_CASE("fact 21: chunks of several documents never cross a document") {
  std::vector<tokenised_document> documents;
  for (std::size_t i = 0; i < shapes.size(); ++i)
    documents.push_back(make_document(shapes[i], 1000 * static_cast<int>(i)));
  const ints chosen{4, 0, 2};
  const std::vector<chunk> chunks = cut_chunks(documents, chosen, 4);
  const batch b = make_batch(documents, chunks);
  ints expected;
  for (const int d : chosen) {
    const auto& tokens = documents[static_cast<std::size_t>(d)].tokens;
    expected.insert(expected.end(), tokens.begin() + 1, tokens.end());
  }
  CHECK(b.targets == expected);
  REQUIRE(b.document.size() == chunks.size());
  for (std::size_t c = 0; c < chunks.size(); ++c)
    for (int row = b.sequence_offsets[c]; row < b.sequence_offsets[c + 1]; ++row)
      CHECK(b.sentences[static_cast<std::size_t>(b.sentence[static_cast<std::size_t>(row)])].document ==
            b.document[c]);
}

TEST_CASE("a batch names each sentence once in order of first use, however its chunks are ordered") {
  const std::vector<tokenised_document> documents{make_document({3, 3, 3}), make_document({2, 5, 2}, 100)};
  const std::vector<chunk> chunks{{1, 4, 4}, {0, 4, 4}, {1, 0, 4}, {0, 0, 4}, {0, 8, 1}, {1, 8, 1}};
  const batch b = make_batch(documents, chunks);
  CHECK(b.sentences == std::vector<sentence_ref>{{1, 1}, {1, 2}, {0, 1}, {0, 2}, {1, 0}, {0, 0}});
  CHECK(b.tokens == ints{104, 105, 106, 107, 4, 5, 6, 7, 0, 101, 102, 103, 0, 1, 2, 3, 8, 108});
  CHECK(b.sentence == ints{0, 0, 0, 1, 2, 2, 3, 3, 4, 4, 0, 0, 5, 5, 5, 2, 3, 1});
  CHECK(b.sequence_offsets == ints{0, 4, 8, 12, 16, 17, 18});
  CHECK(b.document == ints{1, 0, 1, 0, 0, 1});
}

TEST_CASE("a refilled batch equals a fresh one and keeps its memory") {
  std::vector<tokenised_document> documents;
  for (const ints& shape : shapes) documents.push_back(make_document(shape));
  const std::vector<chunk> large{{4, 0, 19}, {6, 0, 20}, {3, 0, 10}}, small{{0, 3, 4}};
  batch reused;
  context_rows contexts;
  const ints first_row = first_rows(documents);
  make_batch(documents, large, reused);
  planner_contexts(reused.sentences, first_row, 3, 99, contexts);
  const auto memory = [&] {
    return std::vector<const void*>{
        reused.tokens.data(),   reused.targets.data(),   reused.positions.data(),
        reused.sentence.data(), reused.sentences.data(), reused.document.data(),
        contexts.rows.data(),   contexts.offsets.data(), reused.sequence_offsets.data()};
  };
  const auto before = memory();
  for (const auto& chunks : {small, large}) {
    make_batch(documents, chunks, reused);
    planner_contexts(reused.sentences, first_row, 3, 99, contexts);
    const batch fresh = make_batch(documents, chunks);
    CHECK(memory() == before);
    CHECK(reused.tokens == fresh.tokens);
    CHECK(reused.targets == fresh.targets);
    CHECK(reused.sentence == fresh.sentence);
    CHECK(reused.sentences == fresh.sentences);
    CHECK(reused.sequence_offsets == fresh.sequence_offsets);
  }
}

TEST_CASE("a chunk outside its document is refused with its numbers") {
  const std::vector<tokenised_document> documents{worked_example()};
  for (const chunk wrong :
       {chunk{1, 0, 1}, chunk{-1, 0, 1}, chunk{0, -1, 2}, chunk{0, 0, 10}, chunk{0, 9, 1}})
    CHECK_THROWS_AS(make_batch(documents, std::vector<chunk>{wrong}), planlm::shape_error);
  try {
    make_batch(documents, std::vector<chunk>{{0, 8, 2}});
    FAIL("accepted");
  } catch (const planlm::shape_error& e) {
    CHECK(std::string(e.what()).find(
              "make_batch: chunk (document 0, begin 8, length 2) leaves its document") == 0);
    CHECK(std::string(e.what()).find("chunks_test.cpp:") != std::string::npos);
  }
  CHECK_THROWS_AS(cut_chunks(documents[0], 0, 0), planlm::shape_error);
}

TEST_CASE("planner contexts are the sentences before, oldest first, or the empty row") {
  const ints first_row{10, 20};
  const std::vector<sentence_ref> wanted{{0, 0}, {0, 1}, {0, 4}, {1, 2}, {1, 0}};
  const context_rows c = planner_contexts(wanted, first_row, 3, 77);
  CHECK(c.offsets == ints{0, 1, 2, 5, 7, 8});
  CHECK(c.rows == ints{77, 10, 11, 12, 13, 20, 21, 77});
  CHECK_THROWS_AS(planner_contexts(wanted, first_row, 0, 77), planlm::shape_error);
  CHECK_THROWS_AS(planner_contexts(std::vector<sentence_ref>{{2, 0}}, first_row, 3, 77), planlm::shape_error);
}

TEST_CASE("fact 20: no token of sentence i or later can be seen in the context of sentence i") {
  // What the planner sees of a row is modelled as the sentence's tokens themselves.
  const auto seen = [](const tokenised_document& d, int sentence, int length) {
    const std::vector<tokenised_document> documents{d};
    const context_rows c = planner_contexts(std::vector<sentence_ref>{{0, sentence}}, first_rows(documents),
                                            length, d.sentences());
    std::vector<ints> content;
    for (const int row : c.rows) {
      if (row == d.sentences()) {
        content.push_back({-1});
        continue;
      }
      const auto begin = d.tokens.begin() + d.sentence_begin.at(static_cast<std::size_t>(row));
      content.emplace_back(begin, d.tokens.begin() + d.sentence_begin.at(static_cast<std::size_t>(row) + 1));
    }
    return content;
  };
  for (const ints& shape : shapes) {
    const tokenised_document d = make_document(shape);
    for (int length : {1, 2, 16})
      for (int i = 0; i < d.sentences(); ++i)
        for (std::size_t t = 1; t < d.tokens.size(); ++t) {
          tokenised_document changed = d;
          changed.tokens[t] += 5000;
          const int of_token = sentence_of_target(d, static_cast<int>(t) - 1);
          const bool visible = of_token < i && of_token >= i - length;
          CHECK((seen(changed, i, length) != seen(d, i, length)) == visible);
        }
  }
}

TEST_CASE("first rows count sentences from the given row on") {
  const std::vector<tokenised_document> documents{make_document({1, 2}), make_document({3}),
                                                  make_document({1, 1, 1})};
  CHECK(first_rows(documents) == ints{0, 2, 3, 6});
  CHECK(first_rows(documents, 1) == ints{1, 3, 4, 7});
}
