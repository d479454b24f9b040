// Implements core/numa.h by the system's own calls: what libnuma does beside them is not needed here.
#include "core/numa.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "core/io_types.h"

namespace zi {
namespace {

/// Policies of mbind(2), whose header comes with libnuma.
constexpr int kPreferred = 1, kInterleave = 3;
constexpr int kMostNodes = 1024;
constexpr int kWordBits = 8 * sizeof(unsigned long);

std::mutex nodes_mutex;
std::vector<std::vector<int>> processors_by_node;  // guarded by nodes_mutex

}  // namespace

std::string PlaceOnNodes(void* data, size_t size, const std::vector<int>& nodes) {
  unsigned long mask[kMostNodes / kWordBits] = {};
  for (const int node : nodes) {
    if (node < 0 || node >= kMostNodes) return "node " + std::to_string(node) + " is none";
    mask[node / kWordBits] |= 1ul << node % kWordBits;
  }
  const int policy = nodes.size() == 1 ? kPreferred : kInterleave;
  // The kernel takes one bit less than it is told of.
  if (syscall(SYS_mbind, data, size, policy, mask, kMostNodes + 1, 0) == 0) return {};
  return "mbind: " + DescribeErrno(errno);
}

void SetNodes(std::vector<std::vector<int>> by_node) {
  std::lock_guard<std::mutex> lock(nodes_mutex);
  processors_by_node = std::move(by_node);
}

void RunOnNode(size_t index) {
  cpu_set_t set;
  CPU_ZERO(&set);
  {
    std::lock_guard<std::mutex> lock(nodes_mutex);
    if (processors_by_node.size() < 2) return;
    for (const int processor : processors_by_node[index % processors_by_node.size()]) {
      if (processor >= 0 && processor < CPU_SETSIZE) CPU_SET(processor, &set);
    }
  }
  // Where the system refuses, the thread runs anywhere.
  sched_setaffinity(0, sizeof set, &set);
}

}  // namespace zi
