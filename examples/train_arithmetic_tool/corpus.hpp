/// The text that the base language model is made from: lines of arithmetic by authors who know some of it.
///
///   ^?4+5=:4+5=9.>9;?3-8+1=:8-3=5,5+1=6.>6;?8-2=:>6; ...
///
/// A line is a question, perhaps a rationale, and an answer, which is the last result of the rationale. An author writes a passage and has
/// habits, each with its share and all independent of each other:
///   timid      knows no numbers below zero: a difference that would be negative is taken the other way round
///   forgetful  the ten of a result of ten or more is lost
///   hurried    a rationale breaks off after two steps
///   silent     no rationale; the answer is right in a stated share
/// For each habit a line keeps its author's in a stated share and has one drawn anew otherwise, so that demonstrations in front of a question
/// tell how it will be answered, but not for sure. Besides, an operand of a step is misread in a stated share. About half of the
/// questions have two operands, few have five.
///
/// So the most probable rationale behind a question is often a wrong one, while the right one has some probability and, what is more, the
/// right answer is improbable behind anything else: the posterior of rationales knows what prompting does not bring out. Habits of results
/// are what a calculator mends, those of steps are not.
///
/// Questions of the test and of the validation are left out.
#pragma once
#include <set>
#include <string>
#include <planlm/core/philox.hpp>
#include "questions.hpp"
#include "sampler/machine.hpp"
#include "trainer/flags.hpp"

namespace train_arithmetic_tool {

struct corpus_options {
  double timid = 0.7, forgetful = 0.65, hurried = 0.65, silent = 0.15;  // shares of authors
  double habit = 0.4;                                                   // share of lines that keep their author's
  double misread = 0.03, silent_right = 0.4;                            // shares of steps, of answers without a rationale
  double three = 0.25, four = 0.15, five = 0.12;                        // shares of questions by operands; the others have two
  void add(trainer::flags& f);
  void check() const;  // errors: input_error naming the flags
};

struct author {
  bool timid, forgetful, hurried, silent;
};
/// The habits of a line by this author.
author habits_of_line(const corpus_options& o, const author& a, dice& d);
/// A question and how this author deals with it, without blanks and with its line_end.
std::string corpus_line(const corpus_options& o, const question& q, const author& a, dice& d);
/// Passages that fill the model's window.
sampler::packed_text corpus_batch(const corpus_options& o, const std::set<std::string>& left_out, int passages, planlm::index_t length,
                                  planlm::philox random);

}  // namespace train_arithmetic_tool
