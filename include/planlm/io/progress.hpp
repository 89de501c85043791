/// How far a run has come, on stderr.
///
/// On a terminal one line is redrawn at most ten times a second:
///   mixture-joint  42% |████████▍           | 126/300  loss 4.4627  12.3k tok/s  1:23 left
/// It is drawn with a carriage return and spaces, without escape sequences. What does not fit the width goes:
/// first the bar, then the end of the line. Elsewhere (a file, a pipe) a plain line appears every few seconds
/// and one at the end.
///
/// Units: tokens/s and time left are means since the bar was made. Errors: planlm::error for a negative
/// count.
#pragma once
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <limits>
#include <ostream>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/io/table.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace planlm {

/// Where a progress bar is drawn and what tells it the time. A test replaces what it wants to drive.
struct progress_output {
  std::ostream* stream = &std::cerr;
  bool redraws = false;           ///< a terminal: one line, redrawn
  bool utf8 = false;              ///< block characters may be used
  std::function<int()> columns;   ///< width of the terminal, asked at each redraw: windows change their size
  std::function<double()> clock;  ///< seconds from any origin, never going back
  double redraw_seconds = 0.1;
  double line_seconds = 5;

  static progress_output standard_error() {
    progress_output output;
    const char* terminal = std::getenv("TERM");
    output.redraws =
        ::isatty(STDERR_FILENO) == 1 && !(terminal != nullptr && std::string_view(terminal) == "dumb");
    output.utf8 = locale_is_utf8();
    output.columns = [] {
      winsize size = {};
      return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? int{size.ws_col} : 80;
    };
    output.clock = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
    return output;
  }

 private:
  // From the environment, as setlocale would decide, without changing the locale of the program.
  static bool locale_is_utf8() {
    for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
      const char* value = std::getenv(name);
      if (value == nullptr || *value == '\0') continue;
      const std::string_view locale = value;
      for (const std::string_view codeset : {"UTF-8", "utf8", "UTF8", "utf-8"})
        if (locale.find(codeset) != std::string_view::npos) return true;
      return false;
    }
    return false;
  }
};

namespace detail {

/// 950, 12.3k, 4.5M.
inline std::string short_count(double value) {
  if (!std::isfinite(value)) return "-";
  if (value < 999.5) return with_digits(value, 0);
  if (value < 999950) return with_digits(value / 1e3, 1) + "k";
  return with_digits(value / 1e6, 1) + "M";
}

/// 0:07, 1:23, 2:03:04; unknown when there is nothing to go by.
inline std::string clock_time(double seconds) {
  if (!std::isfinite(seconds) || seconds > 3.6e9) return "-:--";
  const auto whole = static_cast<long long>(std::max(0.0, seconds) + 0.5);
  const auto two = [](long long n) { return std::to_string(100 + n).substr(1); };  // 7 -> "07"
  const long long hours = whole / 3600, minutes = whole / 60 % 60;
  return (hours > 0 ? std::to_string(hours) + ":" + two(minutes) : std::to_string(minutes)) + ":" +
         two(whole % 60);
}

/// The first `width` columns of UTF-8 text.
inline std::string_view cut_to_width(std::string_view text, std::size_t width) {
  std::size_t end = 0;
  for (std::size_t columns = 0; end < text.size(); ++end) {
    const bool begins = (static_cast<unsigned char>(text[end]) & 0xC0u) != 0x80u;
    if (begins && columns++ == width) break;
  }
  return text.substr(0, end);
}

/// `width` columns filled from the left, to an eighth of a column where UTF-8 allows.
inline std::string drawn_bar(double fraction, std::size_t width, bool utf8) {
  static constexpr std::string_view eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
  const std::size_t parts = utf8 ? 8 : 1;
  const auto filled = static_cast<std::size_t>(fraction * static_cast<double>(width * parts));
  std::string bar = "|";
  for (std::size_t column = 0; column < width; ++column) {
    const std::size_t here = std::min(parts, filled - std::min(filled, column * parts));
    bar += utf8 ? eighths[here] : here > 0 ? "#" : " ";
  }
  return bar + "|";
}

}  // namespace detail

class progress_bar {
 public:
  /// `total` steps, of which `first` were done before (a resumed run).
  progress_bar(std::string label, index_t total, index_t first = 0,
               progress_output output = progress_output::standard_error())
      : label_(std::move(label)), total_(total), first_(first), done_(first), output_(std::move(output)) {
    if (total < 0 || first < 0)
      throw error("progress_bar: total = " + std::to_string(total) + ", first = " + std::to_string(first) +
                  ", expected 0 or more");
    begun_ = output_.clock();
    drawn_ = output_.redraws ? -std::numeric_limits<double>::infinity() : begun_;
  }
  /// Leaves the cursor on a fresh line, so that what is printed next (an error, say) is not glued to the bar.
  ~progress_bar() { finish(); }
  progress_bar(const progress_bar&) = delete;
  progress_bar& operator=(const progress_bar&) = delete;

  /// After each step: steps done in all, the loss to show (NaN: none yet), tokens seen since the bar was
  /// made.
  void update(index_t done, double loss, index_t tokens) {
    if (done < 0 || tokens < 0)
      throw error("progress_bar: done = " + std::to_string(done) + ", tokens = " + std::to_string(tokens) +
                  ", expected 0 or more");
    done_ = done;
    loss_ = loss;
    tokens_ = tokens;
    pending_ = true;
    const double now = output_.clock();
    if (now - drawn_ < (output_.redraws ? output_.redraw_seconds : output_.line_seconds)) return;
    draw(now);
  }

  /// Prints a line of its own, above the bar.
  void note(std::string_view line) {
    clear();
    *output_.stream << std::string(line) + "\n" << std::flush;
    if (output_.redraws && !finished_) draw(output_.clock());
  }

  /// The last state, and the end of the line. Nothing is drawn afterwards.
  void finish() noexcept {
    if (finished_) return;
    try {
      if (pending_) draw(output_.clock());
      if (shown_ > 0) *output_.stream << "\n" << std::flush;
    } catch (...) {  // a progress bar that cannot be drawn is no reason to lose a run
    }
    shown_ = 0;
    finished_ = true;
  }

 private:
  void draw(double now) {
    if (finished_) return;
    drawn_ = now;
    pending_ = false;
    if (!output_.redraws) {
      *output_.stream << line(now, 0) + "\n" << std::flush;
      return;
    }
    // One column stays free: many terminals wrap when the last one is written.
    const int columns = std::max(2, output_.columns()) - 1;
    const std::string whole = line(now, static_cast<std::size_t>(columns));
    const std::string shown(detail::cut_to_width(whole, static_cast<std::size_t>(columns)));
    const std::size_t width = detail::display_width(shown);
    *output_.stream << "\r" + shown + std::string(shown_ > width ? shown_ - width : 0, ' ') << std::flush;
    shown_ = width;
  }

  void clear() {
    if (shown_ > 0) *output_.stream << std::string("\r").append(shown_, ' ') + "\r";
    shown_ = 0;
  }

  /// The line with a bar that fills `columns`, or without one where there is no room.
  std::string line(double now, std::size_t columns) const {
    const double fraction =
        total_ > 0 ? std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0) : 1;
    const double seconds = now - begun_;
    const std::string percent = std::to_string(static_cast<int>(100 * fraction)) + "%";
    const std::string before =
        label_ + std::string(percent.size() < 4 ? 5 - percent.size() : 1, ' ') + percent + " ";
    std::string after = std::string(" ") + std::to_string(done_) + "/" + std::to_string(total_);
    const auto add = [&after](std::string_view before_it, const std::string& value,
                              std::string_view after_it) {
      after.append(before_it).append(value).append(after_it);
    };
    if (!std::isnan(loss_)) add("  loss ", with_digits(loss_, 4), "");
    if (tokens_ > 0 && seconds > 0)
      add("  ", detail::short_count(static_cast<double>(tokens_) / seconds), " tok/s");
    if (done_ >= total_) {
      add("  ", detail::clock_time(seconds), " in all");
    } else if (done_ > first_) {
      const double per_step = seconds / static_cast<double>(done_ - first_);
      add("  ", detail::clock_time(per_step * static_cast<double>(total_ - done_)), " left");
    } else {
      add("  ", detail::clock_time(std::numeric_limits<double>::quiet_NaN()), " left");
    }
    const std::size_t taken = detail::display_width(before) + detail::display_width(after) + 2;
    if (columns < taken + 5) return before.substr(0, before.size() - 1) + after;
    // In strides of five columns, so that one more digit in a number seldom changes the length of the bar.
    const std::size_t width = std::min<std::size_t>((columns - taken) / 5 * 5, 30);
    return before + detail::drawn_bar(fraction, width, output_.utf8) + after;
  }

  std::string label_;
  index_t total_, first_, done_, tokens_ = 0;
  double loss_ = std::numeric_limits<double>::quiet_NaN();
  progress_output output_;
  double begun_ = 0, drawn_ = 0;
  std::size_t shown_ = 0;  ///< columns of the line on the terminal now
  bool pending_ = false, finished_ = false;
};

}  // namespace planlm
