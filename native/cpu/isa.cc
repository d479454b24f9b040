// Implements cpu/isa.h with cpuid, through the compiler's builtins (which also ask the system whether it saves zmm).
#include "cpu/isa.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "core/threads.h"

namespace zi {
namespace {

std::mutex setup_mutex;

/// Never destroyed: at process exit its threads may still be asleep in it.
CpuSetup& Setup() {
  static auto* setup = new CpuSetup{nullptr, nullptr};
  return *setup;
}

/// The last that rounds nothing.
std::string BestExact(const std::vector<std::string>& known) {
  return known.back() == "avx512bf16" ? known[known.size() - 2] : known.back();
}

/// Throws std::invalid_argument.
const Kernels& KernelsOf(const std::string& isa) {
  const std::vector<std::string> known = InstructionSets();
  if (known.empty()) throw std::invalid_argument("this processor lacks AVX2, FMA or F16C, which the kernels need");
  const std::string chosen = isa.empty() ? BestExact(known) : isa;
  if (std::find(known.begin(), known.end(), chosen) == known.end()) {
    throw std::invalid_argument("this processor has no kernels for instruction set '" + chosen + "'");
  }
  if (chosen == "avx2") return KernelsAvx2();
  return chosen == "avx512" ? KernelsAvx512() : KernelsAvx512Bf16();
}

/// @param refusal why there are fewer threads than wanted
CpuSetup MakeSetup(unsigned threads, const std::string& isa, std::string& refusal) {
  const Kernels& kernels = KernelsOf(isa);
  const unsigned count = threads ? threads : std::max(1u, std::thread::hardware_concurrency());
  auto pool = std::make_shared<ThreadPool>(count);
  if (!pool->refusal().empty()) {
    const unsigned possible = pool->threads();
    refusal = pool->refusal();
    pool.reset();
    pool = std::make_shared<ThreadPool>(std::max(1u, possible - std::min(possible, kThreadsLeftToOthers)));
  }
  return {&kernels, std::move(pool)};
}

}  // namespace

std::vector<std::string> InstructionSets() {
  __builtin_cpu_init();
  std::vector<std::string> sets;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) {
    return sets;
  }
  sets.push_back("avx2");
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return sets;
  }
  sets.push_back("avx512");
  if (__builtin_cpu_supports("avx512bf16")) sets.push_back("avx512bf16");
  return sets;
}

std::string ConfigureCpu(unsigned threads, const std::string& isa) {
  {
    std::lock_guard<std::mutex> lock(setup_mutex);
    const CpuSetup& current = Setup();
    if (current.kernels && current.kernels == &KernelsOf(isa) && current.pool->threads() == threads) return {};
  }
  std::string refusal;
  CpuSetup setup = MakeSetup(threads, isa, refusal);
  std::lock_guard<std::mutex> lock(setup_mutex);
  std::swap(Setup(), setup);
  return refusal;
}

CpuSetup CurrentCpu() {
  std::lock_guard<std::mutex> lock(setup_mutex);
  CpuSetup& setup = Setup();
  if (!setup.kernels) {
    std::string refusal;
    setup = MakeSetup(0, "", refusal);
  }
  return setup;
}

}  // namespace zi
