// Stands in for the GPU part where the addon was built without it: says so.
#include <unistd.h>

#include <stdexcept>

#include "cuda/api.h"

namespace zi::cuda {
namespace {
constexpr const char* kSentence =
    "this build has no GPU part, because there was no GPU or no nvcc when it was made: with the CUDA toolkit (12 or later), "
    "set up again (npm run setup, or node native/setup.mjs of the installed package)";

/// The driver makes a file for each GPU. A container may see the fourth alone.
bool SeesGpu() {
  constexpr int kMost = 32;
  for (int device = 0; device < kMost; ++device) {
    if (access(("/dev/nvidia" + std::to_string(device)).c_str(), F_OK) == 0) return true;
  }
  return access("/dev/dxg", F_OK) == 0;
}
}  // namespace

Status Probe() { return {kSentence, SeesGpu(), {}, {}}; }
std::shared_ptr<Queue> OpenQueue(int, const std::string&, bool) { throw std::runtime_error(kSentence); }
std::shared_ptr<Gatherer> OpenGatherer(const std::vector<int>&) { throw std::runtime_error(kSentence); }
std::vector<std::shared_ptr<Exchange>> OpenExchange(const std::vector<int>&, size_t, bool) { throw std::runtime_error(kSentence); }
std::string GathererProblem() { return kSentence; }
std::vector<std::vector<bool>> PeerAccess(const std::vector<int>&) { throw std::runtime_error(kSentence); }
std::shared_ptr<Memory> Allocate(int, size_t) { throw std::runtime_error(kSentence); }
size_t FreeBytes(int) { throw std::runtime_error(kSentence); }
void Pin(const std::shared_ptr<HostMemory>&) { throw std::runtime_error(kSentence); }

}  // namespace zi::cuda
