// Which products of more than a few tokens go by codes as they are stored, on GPUs of compute capability 9.0 (some_stored.h): decided
// without where operands lie, so that more tokens never take less scratch.
#pragma once
#include "cuda/ways.h"

namespace zi::cuda {

class Run;

/// With more tokens the weights' bytes rule no longer.
constexpr int64_t kSomeTokens = 128;
/// How it takes a weight that goes in slabs elsewhere; none where it goes so here as well.
std::optional<FragmentKind> SomeKindOf(const LinearOp& op);
/// What the inputs take, as that kernel's stages take them.
size_t PlacedBytes(const LinearOp& op);
/// Whether fragments of a kind need nothing but codes, and scales of two or four bytes.
bool HasPlainScales(const Weight& weight, FragmentKind kind);
/// False where SomeKindOf says none, or on other GPUs.
bool LaunchSomeStored(const LinearOp& op, Run& run);

}  // namespace zi::cuda
