// Tiles of AMX beside AVX-512: 16 rows of 16 pairs of bf16 times 16 pairs of up to 16 columns, sums in f32.
#pragma once
#define ZI_ISA amx
/// Inputs of a block of products with pairs: what 32 rows of it take stays in the nearest cache.
#define ZI_DEPTH_VECTORS 16
#include "cpu/simd_avx512bf16.h"

namespace zi::amx {

/// What a tile's rows and bytes are, for tiles 0 … 7.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  /// Tiles 4 … last_row_tile have 64 bytes in each row, the others `column_bytes`.
  TileShapes(int64_t column_bytes, int last_row_tile) {
    for (int tile = 0; tile < 8; ++tile) {
      rows[tile] = 16;
      row_bytes[tile] = tile >= 4 && tile <= last_row_tile ? 64 : static_cast<uint16_t>(column_bytes);
    }
  }
};

// Tiles are named by number where they are used: no compiler keeps them. Memory is a clobber, so that stores stay before loads.
#define ZI_TILE_LOAD(tile, from, distance) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"(static_cast<int64_t>(distance)) : "memory")
#define ZI_TILE_STORE(tile, to, distance) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(static_cast<int64_t>(distance)) : "memory")
#define ZI_TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile ::)
/// sums += a · b
#define ZI_TILE_PRODUCT(sums, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sums ::)

inline void SetTiles(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
inline void ReleaseTiles() { asm volatile("tilerelease" ::); }

}  // namespace zi::amx
