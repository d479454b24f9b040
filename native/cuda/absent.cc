// Stands in for the GPU part where the addon was built without nvcc: says so.
#include <stdexcept>

#include "cuda/api.h"

namespace zi::cuda {
namespace {
constexpr const char* kSentence =
    "this build has no GPU part, because nvcc was not found when it was built: install the CUDA toolkit and run "
    "npm run setup";
}

Status Probe() { return {kSentence, false, {}, {}}; }
std::shared_ptr<Queue> OpenQueue(int, const std::string&, bool) { throw std::runtime_error(kSentence); }
std::shared_ptr<Gatherer> OpenGatherer(const std::vector<int>&) { throw std::runtime_error(kSentence); }
std::string GathererProblem() { return kSentence; }
std::vector<std::vector<bool>> PeerAccess(const std::vector<int>&) { throw std::runtime_error(kSentence); }
std::shared_ptr<Memory> Allocate(int, size_t) { throw std::runtime_error(kSentence); }
size_t FreeBytes(int) { throw std::runtime_error(kSentence); }
void Pin(const std::shared_ptr<HostMemory>&) { throw std::runtime_error(kSentence); }

}  // namespace zi::cuda
