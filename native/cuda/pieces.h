// Host memory is page-locked in pieces, several at a time, and a copy may not cross from one registration into the next.
#pragma once
#include <cstddef>
#include <cstdint>

namespace zi::cuda {

/// Large enough that copies run at the link's full rate (from 16 MiB), small enough that a layer has several.
constexpr size_t kPieceBytes = size_t{64} << 20;

/// Where the piece that holds this address ends: pieces lie at multiples of their size, wherever the memory begins.
inline uint8_t* PieceEnd(const uint8_t* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return reinterpret_cast<uint8_t*>((at / kPieceBytes + 1) * kPieceBytes);
}

}  // namespace zi::cuda
