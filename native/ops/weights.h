// Reads weights as offload/backends/op-encoding.ts wrote them, and checks that their parts are what their format says.
#pragma once
#include "ops/words.h"

namespace zi {

/// Throws std::invalid_argument that names the part. Contents are not looked at: a group that is none is found by kernels.
Weight ReadWeight(WordReader& in, const char* name);

/// The weights of experts, which are like `first`: where each part of all of them lies, by WeightPart and then by expert. An index of
/// groups may be missing, and then groups follow each other.
struct ExpertParts {
  std::vector<const uint8_t*> places[kWeightParts];
  /// Empty where scales are not nested.
  std::vector<float> nested_offsets;
};
ExpertParts ReadExperts(WordReader& in, const Weight& first, int64_t count, const char* name);
/// Where experts that lie in slots are now, as the host reads the table: those that lie in none are at the first slot.
ExpertParts PlacesInSlots(const ExpertLinearOp& op);

}  // namespace zi
