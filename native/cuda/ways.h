// Which way an operation goes on a GPU, where there are several: decided from types, shapes and addresses alone, in plain C++,
// because the way says how much scratch it takes, and memory is planned on machines without a GPU too.
#pragma once
#include <optional>

#include "ops/operand.h"

namespace zi::cuda {

/// Whether tensor cores take two values of it as they are.
bool IsHalf(DType dtype);

/// What follows a switch over types, each of which has a case of its own so that the compiler finds where a new one is
/// forgotten.
[[noreturn]] void UnknownType(DType dtype);
[[noreturn]] void UnknownFormat(WeightFormat format);

enum class LinearWay {
  kNothing,       // nothing is asked for
  kPlain,         // value by value, any types, strides and addresses
  kFew,           // a few tokens, whose weights are read once; may wait for others of the same inputs
  kFewConverted,  // the same, of inputs that must become f32 first
  kByEights,      // f32 with few outputs: the kernel of a few tokens, for eight of many at a time
  kLibrary,       // many tokens, by the library; plain where it has nothing
};
LinearWay WayOf(const DenseLinearOp& op);
/// Whether reading the weights rules, so that our own kernel takes it.
bool IsFewTokens(const DenseLinearOp& op);
bool IsFewTokens(const LinearOp& op);

/// How tensor cores take what is stored of a weight, where they do; kValues are 16-bit values as they are.
enum class FragmentKind { kE4M3, kInt8, kPacked8, kPacked4, kPacked4Exact, kFp4, kValues };
/// None where codes or scales are or lie so that only single values are made of them.
std::optional<FragmentKind> FragmentsOf(const Weight& weight);
/// And inputs are or lie so that they are taken. For few tokens, dense weights of 16 bits are values.
std::optional<FragmentKind> FragmentsOf(const LinearOp& op);
/// Inputs of fragments that share a scale as a power of two; past all of them where all do.
int GroupShift(const Weight& weight);

enum class StoredWay {
  kNothing,        // nothing is asked for
  kCores,          // a few tokens on tensor cores, codes read once; may wait for others of the same inputs
  kDots,           // a few tokens, value by value, from f32 inputs
  kDotsConverted,  // the same, of inputs that must become f32 first
  kSlabs,          // many tokens: some rows at a time become values, which the library multiplies
};
/// With a weight that is not dense.
StoredWay StoredWayOf(const LinearOp& op);
/// Formats whose codes of neighbouring outputs lie beside each other become matrices [K, N].
bool ExpandsInputMajor(WeightFormat format);
/// Rows that become values at once.
int64_t SlabRows(const Weight& weight);
/// The product of `rows` rows from `first` on, whose values lie at `values`.
DenseLinearOp SlabOf(const LinearOp& op, int64_t first, int64_t rows, uint8_t* values);
size_t SlabBytes(const Weight& weight);

/// What surrounds a product by the library.
struct LibraryProduct {
  /// The inputs are not of the weights' type.
  bool converts;
  /// f32 inputs are f32 for a reason: what rounding them leaves is multiplied as well.
  bool exact;
  /// The product waits in scratch: the library adds nothing after an activation, and writes f32 or its inputs' type.
  bool apart;
  /// The library takes a bias of the type of the result, at a multiple of 16 bytes.
  bool converts_bias;
};
LibraryProduct LibraryProductOf(const DenseLinearOp& op);

/// expert_linear by tiles of choices that are grouped by expert.
struct ExpertTiling {
  /// Rows of a tile: 16, 32, 64 or 128.
  int rows;
  /// As many as there can be, however the choices fall.
  int64_t tiles;
  /// Inputs are copied into scratch, in the weights' type.
  bool packs;
  /// They are f32, of which both halves are multiplied.
  bool exact;
  /// Weights become values in scratch first, so many rows of so many experts at a time; otherwise tiles read them as they are stored.
  bool slabs;
  int64_t slab_experts, slab_rows;
};
/// Whether the weights of every expert can be read in groups of 16 bytes.
bool WeightsAligned(const DenseExpertLinearOp& op);
/// None where every choice reads the rows of its own expert: choices are few, or what is read lies or is shaped so that only
/// single values can be.
std::optional<ExpertTiling> TilingOf(const DenseExpertLinearOp& op);
std::optional<ExpertTiling> TilingOf(const ExpertLinearOp& op);
/// Whether the codes of every expert can be read in groups of eight.
bool CodesAligned(const ExpertLinearOp& op);
/// Values of weights that are expanded into scratch at once, at most; a few rows have more where inputs are many.
constexpr int64_t kSlabBytes = int64_t{64} << 20;
/// Rows of a slab that is a part of one expert: a multiple of what a block of tiles computes.
constexpr int64_t kSlabRows = 256;
constexpr int kMostTileRows = 128;

/// head_linear: up to so many tokens one kernel computes all heads.
constexpr int64_t kFewHeadTokens = 64;
/// Whether the values of its weight lie [inputs, outputs], as they are stored or as they are expanded.
bool HeadsInputMajor(const Weight& weight);
/// The values of all of a weight, as expanding writes them.
View ExpandedHeads(const Weight& weight, uint8_t* values);
size_t ExpandedBytes(const View& values);
/// One head's product.
DenseLinearOp HeadOf(const HeadLinearOp& op, const View& values, int64_t head);

/// attention of wide heads on tensor cores, in tiles of the heads of a key's, of one token or several.
struct WideTiling {
  /// Products of each row: queries of f32 are f32 for a reason, and both halves are multiplied.
  int64_t halves;
  /// Heads and tokens of a tile; tiles that the heads of a key's take.
  int64_t heads, tokens, head_tiles;
  /// Those of sequences with a few new tokens as well, and so many tiles of them at once, whose parts wait in scratch.
  bool few;
  int64_t at_once;
};

/// attention: sequences with a few new tokens go to the kernel that splits the context, those with many to the tiles. Which
/// have many only the device knows; here it is known whether there can be any, or others.
struct AttentionWay {
  bool tiles;
  /// New tokens of the sequences that the kernel with a block per token and head takes.
  int64_t most_tokens;
  /// It has blocks for that many tokens of every sequence, not for every token.
  bool by_sequence;
  int64_t blocks;
  /// Parts of a context that blocks of their own do; 1: a block does all of it.
  int64_t splits;
  /// Where tiles are of wide heads. If they take the few as well, blocks and splits are theirs.
  std::optional<WideTiling> wide;
};
AttentionWay WayOf(const AttentionOp& op);
/// By rows alone, without scratch.
AttentionWay RowsOf(const AttentionOp& op);
/// Parts of contexts that wait in scratch at once, each a row's.
int64_t WideParts(const AttentionOp& op, const AttentionWay& way);
/// The memory that they take at most, with up to so many tokens in up to so many sequences of up to such contexts.
size_t MostWidePartBytes(const AttentionOp& op);
/// The larger size of its keys and values.
int64_t WiderHead(const AttentionOp& op);
/// Largest heads the tiles take.
constexpr int64_t kFloatTileDepth = 128, kHalfTileDepth = 256;
constexpr int kWideDepth = 576, kWideValueDepth = 512, kWideRows = 64;
/// Shared memory that a block of the wide tiles takes on any GPU, at most.
constexpr int kWideSharedBytes = 163 << 10;
/// Contexts are cut at multiples of this.
constexpr int64_t kSplitTokens = 256;
/// And by the wide tiles, whose parts cost more than a block of keys.
constexpr int kWideSplitTokens = 2048;
/// Memory for their parts, as long as one tile's are no more.
constexpr int64_t kWidePartBytes = int64_t{128} << 20;
/// With fewer heads than that to a key's, rows are multiplied in vain and a few tokens go by rows.
constexpr int64_t kFewestWideHeads = 4;

/// state_scan: sequences with many new tokens go in chunks, those with a few token by token. Which have many only the device
/// knows; here it is known whether there can be any.
struct ScanWay {
  /// Sequences of up to so many new tokens go to the kernel of few; 0: none does.
  int64_t few_tokens;
  /// Others go in chunks, not token by token.
  bool chunks;
  /// All that chunks multiply is bf16; otherwise it becomes two parts of that type.
  bool halves;
  /// What is known of a chunk of one head.
  int64_t chunk_bytes;
  /// Numbers of chunks, of which so many at a time are known in scratch.
  int64_t numbers, each;
};
ScanWay WayOf(const StateScanOp& op);
constexpr int64_t kScanChunkTokens = 64;
/// States of fewer rows are gone through token by token; those of more are read and written where they lie.
constexpr int64_t kScanLeastDepth = 32, kScanMostDepth = 256;
constexpr int64_t kPlainScanChunkBytes = 11024, kScanChunkBytes = 21264;
/// As much as scratch has of chunks at once, at most; more where a chunk of all heads takes more.
constexpr int64_t kScanScratchBytes = int64_t{64} << 20;
/// Up to this many new tokens of a sequence, going through them one by one takes no longer than a chunk.
constexpr int64_t kScanFewTokens = 16;

// Where the ways part. As long as the same one is taken, more rows never take less scratch.
/// Up to this many tokens reading the weights rules, and our kernel reads them once at full rate in full precision.
constexpr int64_t kFewTokens = 8;
/// With fewer blocks of attention than this the device idles, and splits run beside each other.
constexpr int64_t kEnoughBlocks = 512;
/// From this many new tokens of a sequence on, a tile of 64 is filled well enough.
constexpr int64_t kTileTokens = 16;
/// Choices for which tiles have so many rows at most, as far as there are more.
int64_t MostChoicesOfTiles(int rows, int64_t experts);
/// Choices, at most, that read the rows of their own experts.
int64_t MostFewChoices(int64_t experts);

}  // namespace zi::cuda
