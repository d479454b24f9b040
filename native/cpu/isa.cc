// Implements cpu/isa.h with cpuid, through the compiler's builtins (which also ask the system whether it saves zmm).
#include "cpu/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

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

/// Whether there are tiles of bf16, and the system lets this process use them: it must be asked, because what threads save grows.
bool PermitTiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kTilesAndBf16 = 1u << 24 | 1u << 22;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & kTilesAndBf16) != kTilesAndBf16) return false;
  // ARCH_REQ_XCOMP_PERM for tile data, of kernels from 5.16 on.
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

struct InstructionSet {
  const char* name;
  bool (*present)();
  const Kernels& (*kernels)();
  /// Taken where none is named: rounds no inputs, and is slower at nothing than what stands above it. With tiles one token takes
  /// longer for weights of 4 bits.
  bool by_itself;
};

bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool HasAvx512Bf16() { return HasAvx512() && __builtin_cpu_supports("avx512bf16"); }
bool HasAmx() {
  static const bool permitted = HasAvx512Bf16() && PermitTiles();
  return permitted;
}

/// Each needs what stands above it.
constexpr InstructionSet kInstructionSets[] = {
    {"avx2", HasAvx2, KernelsAvx2, true},
    {"avx512", HasAvx512, KernelsAvx512, true},
    {"avx512bf16", HasAvx512Bf16, KernelsAvx512Bf16, false},
    {"amx", HasAmx, KernelsAmx, false},
    {"amxbf16", HasAmx, KernelsAmxBf16, false},
};

/// Throws std::invalid_argument.
const Kernels& KernelsOf(const std::string& isa) {
  const InstructionSet* chosen = nullptr;
  __builtin_cpu_init();
  for (const InstructionSet& set : kInstructionSets) {
    if (set.present() && (isa.empty() ? set.by_itself : isa == set.name)) chosen = &set;
  }
  if (chosen) return chosen->kernels();
  if (!HasAvx2()) throw std::invalid_argument("this processor lacks AVX2, FMA or F16C, which the kernels need");
  throw std::invalid_argument("this processor has no kernels for instruction set '" + isa + "'");
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
  for (const InstructionSet& set : kInstructionSets) {
    if (set.present()) sets.push_back(set.name);
  }
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
