#include <planlm/io/table.hpp>

#include <cmath>
#include <limits>

#include "../catch.hpp"

using namespace planlm;

TEST_CASE("numbers are rounded to the digits asked for, without a minus before zero") {
  CHECK(with_digits(87.3849, 2) == "87.38");
  CHECK(with_digits(2.0, 0) == "2");
  CHECK(with_digits(-0.00004, 4) == "0.0000");
  CHECK(with_digits(-0.00006, 4) == "-0.0001");
  CHECK(with_digits(std::nan(""), 3) == "nan");
  CHECK(with_digits(-std::numeric_limits<double>::infinity(), 3) == "-inf");
  CHECK(with_digits(std::numeric_limits<double>::max(), 2).size() == 312);
  CHECK(with_sign(0.0076, 4) == "+0.0076");
  CHECK(with_sign(-0.00001, 4) == "+0.0000");
  CHECK(with_sign(-0.0076, 4) == "-0.0076");
  CHECK(with_interval(-0.0076, -0.0096, 0.0001, 4) == "-0.0076 [-0.0096, +0.0001]");
}

TEST_CASE("a table aligns its columns and leaves no spaces at the ends of lines") {
  text_table table({{"variant", text_table::left}, {"ppl"}, {"note", text_table::left}});
  table.row({"fixed", "91.82", ""}).row({"mixture-joint", "8.7", "best"});
  CHECK(table.text() ==
        "variant          ppl  note\n"
        "-------------  -----  ----\n"
        "fixed          91.82\n"
        "mixture-joint    8.7  best\n");
}

TEST_CASE("a table without rows is its titles") {
  CHECK(text_table({{"a"}, {"bc"}}).text() == "a  bc\n-  --\n");
}

TEST_CASE("letters of several bytes take one column") {
  text_table table({{"Δ vs fixed"}, {"x"}});
  table.row({"-0.05", "1"});
  CHECK(table.text() ==
        "Δ vs fixed  x\n"
        "----------  -\n"
        "     -0.05  1\n");
}

TEST_CASE("a row with a wrong number of cells is refused with both numbers") {
  text_table table({{"a"}, {"b"}});
  table.row({"1", "2"});
  try {
    table.row({"1", "2", "3"});
    FAIL("the row was accepted");
  } catch (const shape_error& e) {
    CHECK(std::string(e.what()) == "text_table: row 1 has 3 cells, the table has 2 columns");
  }
  CHECK(table.text() == "a  b\n-  -\n1  2\n");
}
