/// Lines and passages.
#include "corpus.hpp"
#include <utility>
#include <vector>
#include <planlm/core/error.hpp>

namespace train_arithmetic_tool {
namespace {

author draw_author(const corpus_options& o, dice& d) {
  const bool timid = d.chance(o.timid), forgetful = d.chance(o.forgetful), hurried = d.chance(o.hurried), silent = d.chance(o.silent);
  return {timid, forgetful, hurried, silent};
}
int draw_count(const corpus_options& o, dice& d) {
  const double longer = o.three + o.four + o.five;
  if (!d.chance(longer)) return 2;
  if (d.chance(o.three / longer)) return 3;
  return d.chance(o.four / (o.four + o.five)) ? 4 : 5;
}

}  // namespace

void corpus_options::add(trainer::flags& f) {
  f.share("--timid", timid, "share of authors of the base text who know no numbers below zero");
  f.share("--forgetful", forgetful, "share of those who lose the ten of a result");
  f.share("--hurried", hurried, "share of those who break off after two steps");
  f.share("--silent", silent, "share of those who write no rationale");
  f.share("--habit", habit, "share of lines that keep a habit of their author");
  f.share("--misread", misread, "share of steps with a wrong operand");
  f.share("--silent-right", silent_right, "share of right answers without a rationale");
  f.share("--three", three, "share of questions with three operands in the base text");
  f.share("--four", four, "with four");
  f.share("--five", five, "with five; the others have two");
}
void corpus_options::check() const {
  if (three + four + five > 1)
    throw planlm::input_error("--three, --four and --five add up to " + std::to_string(three + four + five) + ", expected at most 1");
}

author habits_of_line(const corpus_options& o, const author& a, dice& d) {
  author line = draw_author(o, d);
  if (d.chance(o.habit)) line.timid = a.timid;
  if (d.chance(o.habit)) line.forgetful = a.forgetful;
  if (d.chance(o.habit)) line.hurried = a.hurried;
  if (d.chance(o.habit)) line.silent = a.silent;
  return line;
}

std::string corpus_line(const corpus_options& o, const question& q, const author& a, dice& d) {
  std::string out = "?" + q.text() + ":";
  if (a.silent) {
    const int off = d.chance(o.silent_right) ? 0 : (d.chance(0.5) ? 1 : -1) * (1 + d.below(4));
    return out + ">" + std::to_string(q.value() + off) + ";";
  }
  const int steps = q.count() - 1, written = a.hurried && steps > 2 ? 2 : steps;
  int sum = q.operands[0];
  for (int s = 0; s < written; ++s) {
    const auto at = static_cast<std::size_t>(s) + 1;
    const int operand = d.chance(o.misread) ? d.below(10) : q.operands[at];
    int left = sum, right = operand;
    const int sign = q.signs[at];
    if (a.timid && sign < 0 && left < right) std::swap(left, right);
    int result = left + sign * right;
    if (a.forgetful && result >= 10) result %= 10;
    out += (s > 0 ? "," : "") + std::to_string(left) + (sign < 0 ? "-" : "+") + std::to_string(right) + "=" + std::to_string(result);
    sum = result;
  }
  return out + ".>" + std::to_string(sum) + ";";
}

sampler::packed_text corpus_batch(const corpus_options& o, const std::set<std::string>& left_out, int passages, planlm::index_t length,
                                  planlm::philox random) {
  sampler::packed_text out;
  for (int p = 0; p < passages; ++p) {
    dice d(random, static_cast<std::uint64_t>(p));
    const author writes = draw_author(o, d);
    std::vector<int> all{begin_mark};
    while (static_cast<planlm::index_t>(all.size()) <= length) {
      const int count = draw_count(o, d);
      question q = draw_question(count, d);
      while (left_out.contains(q.text())) q = draw_question(count, d);
      const std::vector<int> line = encode(corpus_line(o, q, habits_of_line(o, writes, d), d));
      all.insert(all.end(), line.begin(), line.end());
    }
    // One more token than rows: the last is only predicted.
    all.resize(static_cast<std::size_t>(length) + 1);
    const int last = all.back();
    all.pop_back();
    out.add(all);
    out.targets.back() = last;
  }
  return out;
}

}  // namespace train_arithmetic_tool
