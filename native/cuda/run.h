// What kernels of one stream run with, and the launch function of each operation.
#pragma once
#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "cuda/context.h"
#include "ops/decode.h"

namespace zi::cuda {

class Products;

/// Device memory that grows to the largest need of the first passes and is kept; contents are undefined.
class Scratch {
 public:
  /// @param version counts its moves
  explicit Scratch(int& version) : version_(version) {}
  ~Scratch() { cudaFree(data_); }
  uint8_t* AtLeast(size_t size);

 private:
  int& version_;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

class Run {
 public:
  /// @param computes kernels run on the stream, so that a small copy need not wait for a copy engine
  Run(cudaStream_t stream, Context& context, bool computes);
  ~Run();

  /// Throws CudaError or what products throw. A product of a few tokens may wait for others of the same inputs.
  void Execute(const Decoded& decoded);
  /// Launches what waits; call after the last operation.
  void Flush();

  const cudaStream_t stream;
  Fault* const fault;
  const int multiprocessors;
  const bool computes;
  /// Changes when scratch moves.
  int scratch_version = 0;
  /// For partial results of attention, and logits that are drawn from; for inputs of products in the weight's type; for
  /// products before their epilogue; for a bias in the type of the result.
  Scratch partials{scratch_version}, inputs{scratch_version}, sums{scratch_version}, bias{scratch_version};
  /// For what rounding left of the inputs, and for the choices of a mixture by expert.
  Scratch rests{scratch_version}, groups{scratch_version};
  /// Products of a few tokens that one kernel will compute.
  std::vector<LinearOp> waiting;
  /// Whether a kernel of ours is the last of the stream's work, so that the next may start while it ends.
  bool after_kernel = false;
  bool MayOverlap() const { return after_kernel && generation() >= 9; }
  /// Major version of the compute capability.
  int generation() const { return context_.generation(); }
  /// Loaded at the first product: streams that only copy need no library.
  Products& products();

  /// Which x lies in `inputs` already: the projections of one layer read the same.
  struct Converted {
    View x{};
    DType type = DType::kF32;
    /// Whether `rests` holds what was rounded off.
    bool rest = false;
  } converted;

 private:
  Context& context_;
  std::unique_ptr<Products> products_;
};

/// For switches over types: each has a case of its own, so that a new one is found by the compiler.
[[noreturn]] void UnknownType(DType dtype);

// One per operation, on views that lie where the device reaches them.
void Launch(const GatherRowsOp& op, Run& run);
void Launch(const LayerNormOp& op, Run& run);
void Launch(const RmsNormOp& op, Run& run);
void Launch(const LinearOp& op, Run& run);
void Launch(const GatedOp& op, Run& run);
void Launch(const AddOp& op, Run& run);
void Launch(const RotaryOp& op, Run& run);
void Launch(const KvStoreOp& op, Run& run);
void Launch(const AttentionOp& op, Run& run);
void Launch(const ArgmaxOp& op, Run& run);
void Launch(const NllFoldOp& op, Run& run);
void Launch(const ScaleCapOp& op, Run& run);
void Launch(const RouteOp& op, Run& run);
void Launch(const ExpertLinearOp& op, Run& run);
void Launch(const CombineOp& op, Run& run);
void Launch(const SampleOp& op, Run& run);
void Launch(const NoteNotFiniteOp& op, Run& run);
void Launch(const CopyOp& op, Run& run);
void Launch(const FillOp& op, Run& run);

// Parts of linear and attention, each in a file of its own.
/// Whether reading the weights rules, so that our own kernel takes it.
bool IsFewTokens(const LinearOp& op);
/// A few tokens times [N, K] weights, whole epilogue included: one kernel for up to kMostJoined products of one x.
void LaunchFewTokens(const std::vector<LinearOp>& ops, Run& run);
constexpr size_t kMostJoined = 3;
/// Any types, strides and addresses; for what the library refuses.
void LaunchPlainProduct(const LinearOp& op, Run& run);
/// out = act(from + bias) (+ out). `from` may be out itself.
void LaunchFinish(const LinearOp& op, const View& from, Run& run);
/// Products of 16-bit weights: choices grouped by expert and multiplied on tensor cores. False, and nothing is queued, for
/// what lies or is shaped so that only single values can be read.
bool LaunchExpertTiles(const ExpertLinearOp& op, Run& run);
/// Few bytes, between memories that kernels reach.
void LaunchCopyBytes(const CopyOp& op, Run& run);
/// The values of `from` in the type of `to`; both of one shape.
void LaunchConvert(const View& from, const View& to, Run& run);
/// What `rounded` lacks of `from`, in the type of `rounded` and `to`; all of one shape.
void LaunchRest(const View& from, const View& rounded, const View& to, Run& run);
/// Sequences with at most `most_tokens` new tokens, a warp per token and head.
void LaunchAttentionRows(const AttentionOp& op, int64_t most_tokens, Run& run);
/// Sequences with more than `fewer_tokens` new tokens, on tensor cores: f32 through TF32, or 16-bit types as they are.
void LaunchFloatTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run);
void LaunchHalfTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run);
/// Largest heads the tiles take.
constexpr int64_t kFloatTileDepth = 128, kHalfTileDepth = 256;

}  // namespace zi::cuda
