// Which instruction sets this processor has, and which kernels and threads are in use.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/kernels.h"

namespace zi {

/// Those that the kernels know, best last: avx2, avx512, avx512bf16, amx, amxbf16. Empty below the floor.
std::vector<std::string> InstructionSets();

/// What operations run with from now on; those running keep what they started with.
/// `threads` 0 means one per processor; `isa` empty means the best that rounds nothing. Throws std::invalid_argument. Returns why there are fewer
/// threads than wanted, or nothing.
std::string ConfigureCpu(unsigned threads, const std::string& isa);

struct CpuSetup {
  const Kernels* kernels;
  std::shared_ptr<ThreadPool> pool;
};
/// The current setup; made with the defaults on first use.
CpuSetup CurrentCpu();

}  // namespace zi
