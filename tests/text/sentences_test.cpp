#include "catch.hpp"

#include <planlm/text/sentences.hpp>
#include <string>
#include <vector>

namespace {
using namespace planlm::text;
using strings = std::vector<std::string>;

static_assert(SentenceSplitter<icu_splitter>);
static_assert(SentenceSplitter<line_splitter>);
static_assert(!SentenceSplitter<std::string>);

strings split(const std::string& paragraph) { return icu_splitter{}(paragraph); }
}  // namespace

TEST_CASE("tidy text has single spaces inside and none around") {
  CHECK(tidy("  a \t b\r\n c  ") == "a b c");
  CHECK(tidy("\u00A0a\u2003\u3000b\u2028") == "a b");  // no-break, em and ideographic space, line separator
  CHECK(tidy("\uFEFFa\u0085b\x07"
             "c") == "a b c");  // byte order mark, next line, bell
  CHECK(tidy("\u4ECA\u65E5 \U0001F600") == "\u4ECA\u65E5 \U0001F600");
  CHECK(tidy(" \t\n ") == "");
  CHECK(tidy("a\xFF"
             "b") ==
        "a\xFF"
        "b");
}

TEST_CASE("code points are read strictly") {
  const auto first = [](std::string_view bytes) {
    std::size_t i = 0;
    const int c = next_code_point(bytes, i);
    CHECK(i == (c < 0 ? 0 : bytes.size()));
    return c;
  };
  CHECK(first("a") == 'a');
  CHECK(first("\u00E9") == 0xE9);
  CHECK(first("\u20AC") == 0x20AC);
  CHECK(first("\U0010FFFF") == 0x10FFFF);
  CHECK(first("\xC0\x80") == -1);  // overlong, two bytes
  CHECK(first("\xC1\xBF") == -1);
  CHECK(first("\xE0\x9F\xBF") == -1);      // overlong, three
  CHECK(first("\xF0\x8F\xBF\xBF") == -1);  // overlong, four
  CHECK(first("\xED\xA0\x80") == -1);      // surrogate
  CHECK(first("\xF4\x90\x80\x80") == -1);  // above U+10FFFF
  CHECK(first("\x80") == -1);              // continuation without a lead
  CHECK(first("\xE2\x82") == -1);          // cut off
  CHECK(first("\xE2\x41\x82") == -1);
  CHECK(first("\xFF") == -1);
}

TEST_CASE("ordinary prose is split behind full stops, marks and closing quotes") {
  CHECK(split("He went there. He loved it! Did he? The leaves fell") ==
        strings{"He went there.", "He loved it!", "Did he?", "The leaves fell"});
  CHECK(split("\"Go!\" he said. \"Why?\" \"Because.\" (He left.) And... so it goes.") ==
        strings{"\"Go!\" he said.", "\"Why?\"", "\"Because.\"", "(He left.)", "And... so it goes."});
  CHECK(split("One line\nand the next. Then\r\nmore.") == strings{"One line and the next.", "Then more."});
  CHECK(split("").empty());
  CHECK(split(" \n ").empty());
}

TEST_CASE("abbreviations, initials and numbers do not end a sentence") {
  CHECK(split("Use tools, e.g. Hammers, i.e. Things. Mr. Smith met Dr. J. R. R. Tolkien on St. John's day. "
              "The end.") == strings{"Use tools, e.g. Hammers, i.e. Things.",
                                     "Mr. Smith met Dr. J. R. R. Tolkien on St. John's day.", "The end."});
  CHECK(split("See No. 5 on p. 12. It is 3.5 m. No. That is wrong.") ==
        strings{"See No. 5 on p. 12.", "It is 3.5 m.", "No.", "That is wrong."});
  CHECK(split("It ended World War I. The peace came.") ==
        strings{"It ended World War I.", "The peace came."});
  CHECK(split("(Mr. Hill) came.") == strings{"(Mr. Hill) came."});
}

TEST_CASE("tokenised WikiText keeps its inner marks and closing quotes") {
  CHECK(split("It is 1 @.@ 5 \u2013 2 @.@ 0 In size . The next .") ==
        strings{"It is 1 @.@ 5 \u2013 2 @.@ 0 In size .", "The next ."});
  CHECK(split("He said \" I am here . \" Then he left . \" Go ! \" she said . Yes .") ==
        strings{"He said \" I am here . \"", "Then he left .", "\" Go ! \" she said .", "Yes ."});
  CHECK(split("He said \" I am . You are . \" Then he left .") ==
        strings{"He said \" I am .", "You are . \"", "Then he left ."});
  CHECK(split("It is big ( 24 in . ) . ( It is . ) Yes .") ==
        strings{"It is big ( 24 in . ) .", "( It is . )", "Yes ."});
  CHECK(split("The <unk> . <unk> went to <unk> . H. <unk> came .") ==
        strings{"The <unk> .", "<unk> went to <unk> .", "H. <unk> came ."});
}

TEST_CASE("sentences of scripts without spaces are split") {
  CHECK(split("\u4ECA\u65E5\u306F\u3002\u5143\u6C17\u3067\u3059\u304B\uFF1F\u306F\u3044\u3002") ==
        strings{"\u4ECA\u65E5\u306F\u3002", "\u5143\u6C17\u3067\u3059\u304B\uFF1F", "\u306F\u3044\u3002"});
}

TEST_CASE("splitting loses and adds nothing but white space") {
  const std::string text =
      "A. B c.d! \" ( ] ) \" <unk> . <unk> \" x ? y \u201CZ.\u201D W ... ! \" ) Mr. 5 @.@ 6 . . . The ) . "
      "End \" . \"";
  std::string joined;
  for (const auto& s : split(text)) {
    CHECK(s == tidy(s));
    CHECK(!s.empty());
    joined += (joined.empty() ? "" : " ") + s;
  }
  CHECK(joined == text);
}

TEST_CASE("the line splitter gives the lines that are not blank") {
  CHECK(line_splitter{}("a b. C d.\r\n\n  e \rf") == strings{"a b. C d.", "e", "f"});
  CHECK(line_splitter{}("").empty());
}

TEST_CASE("a locale without data still has the root rules") {
  CHECK(icu_splitter("xx")("One. Two.") == strings{"One.", "Two."});
}
