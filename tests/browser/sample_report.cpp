/// Writes a report with one of everything, as large as real ones get, for the test in the browser.
///   sample_report FILE
#include <cmath>
#include <fstream>
#include <iostream>
#include <limits>
#include <planlm/core/philox.hpp>
#include <planlm/io/chart.hpp>
#include <planlm/io/label_map.hpp>
#include <planlm/io/report.hpp>
#include <string>
#include <vector>

using namespace planlm;

namespace {

const philox draw{7};

double noise(std::uint64_t i, std::uint32_t stream) { return draw.uniform(i, stream) - 0.5; }

series curve(const std::string& name, double from, double to, double rate, double rough, std::uint32_t stream,
             int points) {
  series s{name, {}, {}};
  for (int i = 0; i < points; ++i) {
    const double t = static_cast<double>(i) / points;
    s.x.push_back(24000.0 * i / points);
    s.y.push_back(to + (from - to) * std::exp(-rate * t) +
                  rough * noise(static_cast<std::uint64_t>(i), stream));
  }
  return s;
}

std::vector<series> losses() {
  std::vector<series> all = {curve("base model", 6.4, 3.32, 9, 0.5, 1, 6000),
                             curve("mixture-joint", 3.6, 3.05, 5, 0.2, 2, 6000)};
  for (std::size_t i = 3000; i < 3300; ++i) all[0].y[i] = std::numeric_limits<double>::quiet_NaN();
  all[0].y[4200] = 5.9;  // a spike that must stay
  return all;
}

std::vector<series> entropies() {
  std::vector<series> all;
  int i = 0;
  for (const char* name :
       {"mixture-frozen", "mixture-joint", "straight-through", "look-ahead, 4 steps", "fixed"})
    all.push_back(curve(name, 3.9, 1.2 + 0.45 * i, 4, 0.06, 10 + static_cast<std::uint32_t>(i), 120)), ++i;
  return all;
}

std::vector<series> paths() {
  std::vector<series> all;
  for (int steps : {1, 2, 4}) {
    series s{std::to_string(steps) + (steps == 1 ? " step" : " steps"), {}, {}};
    for (double n = 1; n <= 64; n *= 2) {
      s.x.push_back(n);
      s.y.push_back(22.9 - 0.2 * steps + 1.4 / std::sqrt(n) + 0.3 / steps);
    }
    all.push_back(s);
  }
  return all;
}

std::vector<interval_bar> perplexities() {
  return {{"fixed", 24.91, std::nan(""), std::nan("")},
          {"predicted", 24.22, 23.80, 24.66},
          {"mixture-frozen", 24.05, 23.63, 24.47},
          {"mixture-joint", 23.41, 23.01, 23.83, true},
          {"straight-through", 23.77, 23.35, 24.19},
          {"sampled plans, 16 paths of 4 steps, set encoder with mean pooling", 23.28, 22.86, 23.70},
          {"look-ahead, never measured", std::nan(""), 0, 0}};
}

std::vector<bar> usage(int labels) {
  std::vector<bar> bars;
  for (int i = 0; i < labels; ++i)
    bars.push_back({std::to_string(i), 100 * std::exp(-3.0 * i / labels) *
                                           (1 + 0.5 * noise(static_cast<std::uint64_t>(i), 30)) / labels});
  return bars;
}

std::vector<map_point> map_of_labels(int labels) {
  std::vector<map_point> points;
  for (int i = 0; i < labels; ++i) {
    const auto key = static_cast<std::uint64_t>(i);
    const double angle = 2.4 * (i % 7), far = 3 + noise(key, 40);
    points.push_back({far * std::cos(angle) + 2.4 * noise(key, 41),
                      0.8 * far * std::sin(angle) + 2.2 * noise(key, 42), std::pow(draw.uniform(key, 43), 2),
                      std::to_string(i), "And it came to pass in those days"});
  }
  return points;
}

std::vector<label_card> cards(int labels) {
  const std::vector<std::string> sentences = {"And the LORD spake unto Moses, saying,",
                                              "These are the generations of the sons of Noah.",
                                              "And it came to pass in the third month, that the word of the "
                                              "king was heard throughout all the coasts of the land.",
                                              "Then answered the men & said: \"<Nay>\"."};
  std::vector<label_card> all;
  for (int i = 0; i < labels; ++i) {
    label_card card{i, 0.06 * std::exp(-0.05 * i), {}};
    for (int k = 0; k < 3; ++k) card.typical.push_back(sentences[static_cast<std::size_t>(i + k) % 4]);
    all.push_back(card);
  }
  return all;
}

text_sample forced_plan() {
  return {"Sample 1, plan 17, 3, 41",
          "In the beginning God created the heaven and the earth. And the earth was without form, and void.",
          {{"And God said unto the waters, Let them be gathered together.", 17,
            "And the LORD spake unto Moses, saying,", true},
           {"And the sons of the men of the house of the king dwelt in the land of the going down of the "
            "sun, and did eat bread there.",
            3, "These are the generations of the sons of Noah.", false},
           {"The end of all flesh is come.", 41, "Behold, the days come, saith the Lord.", true},
           {"A sentence without a plan, as the baseline writes it.", std::nullopt, "", std::nullopt}}};
}

report sample() {
  report page("Planner-conditioned language models on the book", "train_planner_lm, 64 labels, seed 1 to 3");
  const std::vector<fact> result = {{"best variant", "sampled plans, 16 paths of 4 steps: perplexity 23.28"},
                                    {"text", "the King James Bible, 31,102 verses"}};
  page.section("Results",
               "Perplexity on the test part, lower is better.")
      .facts(result);
  page.chart(interval_chart(
      {.title = "Perplexity of each variant",
       .caption = "Whiskers: 95 % interval of the difference to fixed over documents. A variant whose whiskers "
                  "leave out the line of fixed differs from fixed; two other variants cannot be compared by them.",
       .x_title = "perplexity per token",
       .reference = 24.91,
       .reference_name = "fixed"},
      perplexities()));
  page.chart(line_chart(
      {.title = "More sampled paths",
       .caption = "How perplexity falls with the number of paths that the planner draws at test time.",
       .x_title = "paths",
       .y_title = "perplexity per token",
       .log_x = true},
      paths()));
  using table = text_table;
  page.table({{"variant", table::left},
              {"perplexity"},
              {"nats"},
              {"Δ to fixed"},
              {"ROUGE-2"},
              {"label edit"},
              {"latent ppl"},
              {"followed"},
              {"MAUVE"}},
             {{"fixed", "24.91", "3.2153", "", "0.021", "0.94", "41.2", "", "0.412"},
              {"mixture-joint", "23.41", "3.1532", "−0.0621 [−0.0692, −0.0550]", "0.027", "0.88", "33.9",
               "61.2 %", "0.522"},
              {"sampled plans, 16 paths of 4 steps", "23.28", "3.1476", "−0.0677 [−0.0751, −0.0600]", "0.028",
               "0.87", "32.5", "63.0 %", "0.547"}},
             "Means over three seeds.");
  page.section("Training");
  page.chart(line_chart({.title = "Training loss",
                         .caption = "Loss of each step; where the line breaks, the loss was no number.",
                         .x_title = "step",
                         .y_title = "nats per token",
                         .log_y = true},
                        losses()));
  page.chart(line_chart(
      {.title = "Entropy of the planner",
       .caption = "How undecided the planner is: 0 is one label, the dashed line all labels alike.",
       .x_title = "step",
       .y_title = "nats",
       .reference = std::log(64.0),
       .reference_name = "64 labels alike"},
      entropies()));
  page.chart(line_chart({.title = "A chart without points", .caption = "Nothing was measured here."}, {}));
  page.section("Labels", "What the 64 labels are used for.");
  page.chart(bar_chart({.title = "Label usage",
                        .caption = "Share of the sentences that have each label.",
                        .x_title = "label",
                        .y_title = "% of sentences",
                        .reference = 100.0 / 64,
                        .reference_name = "all alike"},
                       usage(64)));
  page.chart(bar_chart({.title = "Usage of 256 labels",
                        .caption = "The same for a finer clustering.",
                        .x_title = "label",
                        .y_title = "% of sentences"},
                       usage(256)));
  page.chart(map_chart(
      {.title = "Map of the labels",
       .caption =
           "Labels whose sentences are alike lie close together; the area of a dot is the label's share."},
      map_of_labels(64)));
  page.label_cards(cards(64));
  page.section("Generated text",
               "Each sentence with the label that was planned for it and that label's most typical sentence.")
      .sample(forced_plan());
  auto facts = environment_facts();
  facts.insert(facts.begin(), {"command",
                               "train_planner_lm --text book.txt --labels 64 --variants "
                               "fixed,mixture-joint,sampled-plans --seeds 1,2,3 --out run/book",
                               true});
  page.section("How this was made").facts(facts);
  return page;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "usage: sample_report FILE\n";
    return 2;
  }
  std::ofstream file(arguments[1], std::ios::binary);
  file << sample().html();
  return file.flush() ? 0 : 1;
}
