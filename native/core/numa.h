// Where the machine's memory has several nodes: on which of them a memory's pages come to lie, and workers run.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace zi {

/// Pages that nobody has touched yet come to lie on these nodes in turns, or, where there is one, on that one while it has room.
/// Returns why not; empty when they will.
std::string PlaceOnNodes(void* data, size_t size, const std::vector<int>& nodes);

/// The processors of each node, for pools that are started from then on. No list, or one: threads run anywhere.
void SetNodes(std::vector<std::vector<int>> processors_by_node);

/// The calling thread, one of many of a kind, runs on the processors of one node: neighbours in number on different ones.
void RunOnNode(size_t index);

}  // namespace zi
