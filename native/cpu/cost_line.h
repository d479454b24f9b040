// CostLine: what a number of like things takes as something fixed and something for each, from measurements that go on.
#pragma once
#include <algorithm>

namespace zi {

class CostLine {
 public:
  CostLine() = default;
  CostLine(double fixed_ms, double each_ms) : fixed_ms_(fixed_ms), each_ms_(each_ms) {}

  double fixed_ms() const { return fixed_ms_; }
  double each_ms() const { return each_ms_; }

  /// A measurement that is much longer than expected counts as kMostTimes that: a thread that lost its core once says little, while a
  /// rate that has changed is met again and again.
  /// What is sooner than expected counts more: nothing takes less time than it needs, and who seems slow is seldom tried again.
  void Add(int count, double took_ms) {
    const double expected_ms = fixed_ms_ + count * each_ms_;
    if (expected_ms > 0) took_ms = std::min(took_ms, kMostTimes * expected_ms);
    const double n = count, part = took_ms < expected_ms ? kSooner : kLater;
    const auto mix = [part](double* kept, double now) { *kept += (now - *kept) * part; };
    mix(&weight_, 1);
    mix(&n_, n);
    mix(&nn_, n * n);
    mix(&ms_, took_ms);
    mix(&n_ms_, n * took_ms);
    Fit();
  }

 private:
  static constexpr double kMostTimes = 2;
  /// What one measurement counts beside those before.
  static constexpr double kSooner = 1.0 / 8, kLater = 1.0 / 32;
  /// What the fixed part until now counts beside the measurements, of which all may be of one number.
  static constexpr double kKept = 1.0 / 16;
  /// What each takes falls by no more of itself with one measurement, beside the whole.
  static constexpr double kFall = 1.0 / 32;

  /// Least squares, where no part is negative. More that take less time mean that both parts have changed meanwhile.
  void Fit() {
    const double kept = kKept * weight_;
    const double of_fixed = weight_ + kept, fixed_ms = ms_ + kept * fixed_ms_;
    const double determinant = of_fixed * nn_ - n_ * n_;
    if (nn_ == 0) {
      fixed_ms_ = ms_ / weight_;
      return;
    }
    const double each_ms = (n_ms_ * of_fixed - fixed_ms * n_) / determinant;
    const double expected_ms = fixed_ms_ * weight_ + each_ms_ * n_;
    const double least_ms = expected_ms > 0 ? (1 - kFall) * each_ms_ * ms_ / expected_ms : 0;
    each_ms_ = std::max(least_ms, each_ms);
    fixed_ms_ = (fixed_ms - n_ * each_ms_) / of_fixed;
    if (fixed_ms_ >= 0) return;
    fixed_ms_ = 0;
    each_ms_ = n_ms_ / nn_;
  }

  double fixed_ms_ = 0, each_ms_ = 0;
  double weight_ = 0, n_ = 0, nn_ = 0, ms_ = 0, n_ms_ = 0;
};

}  // namespace zi
