// Which GPUs run what this build compiled, so that one without code for it is named before it fails at its first kernel.
#pragma once
#include <string_view>

namespace zi::cuda {

/// `name` is of CMAKE_CUDA_ARCHITECTURES: `80-real` is machine code for 8.0 and what follows within the generation, `90a-real`
/// for 9.0 alone, `90-virtual` what the driver compiles for 9.0 and all that follow.
constexpr bool Runs(std::string_view name, int major, int minor) {
  int number = 0;
  size_t at = 0;
  for (; at < name.size() && name[at] >= '0' && name[at] <= '9'; ++at) number = number * 10 + (name[at] - '0');
  const bool exact = at < name.size() && name[at] == 'a';
  const int device = major * 10 + minor;
  if (exact) return device == number;
  if (name.substr(at) == "-virtual") return device >= number;
  return device >= number && major == number / 10;
}

/// `names` with commas between them.
constexpr bool RunsAny(std::string_view names, int major, int minor) {
  while (!names.empty()) {
    const size_t comma = names.find(',');
    if (Runs(names.substr(0, comma), major, minor)) return true;
    if (comma == std::string_view::npos) return false;
    names.remove_prefix(comma + 1);
  }
  return false;
}

constexpr std::string_view kAll = "80-real,90a-real,90-virtual";
static_assert(RunsAny(kAll, 8, 0) && RunsAny(kAll, 8, 6) && RunsAny(kAll, 8, 9) && RunsAny(kAll, 9, 0));
static_assert(RunsAny(kAll, 10, 0) && RunsAny(kAll, 12, 1) && !RunsAny(kAll, 7, 5));
static_assert(!RunsAny("90a-real", 8, 0) && !RunsAny("90a-real", 10, 0) && RunsAny("90a-real", 9, 0));
static_assert(!RunsAny("80-real", 9, 0) && !RunsAny("", 8, 0) && !RunsAny("90-virtual,90a-real", 8, 9));

}  // namespace zi::cuda
