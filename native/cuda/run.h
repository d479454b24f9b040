// What kernels of one stream run with, and the launch function of each operation.
#pragma once
#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "cuda/context.h"
#include "cuda/inputs.h"
#include "cuda/joined.h"
#include "cuda/scratch.h"
#include "cuda/ways.h"
#include "ops/decode.h"

namespace zi::cuda {

class Products;

/// Owns what one operation of a stream leaves to the next: scratch and which inputs lie there, products that wait for
/// others, and whether a kernel of ours was queued last.
class Run {
 public:
  /// @param computes kernels run on the stream, so that a small copy need not wait for a copy engine
  Run(cudaStream_t stream, Context& context, bool computes);
  ~Run();

  /// Throws CudaError or what products throw. A product of a few tokens may wait for others of the same inputs.
  void Execute(const Decoded& decoded);
  /// Has all memory that these will take, and the library for products where they use it: afterwards they only launch.
  void Prepare(const std::vector<Decoded>& operations);
  /// Launches what waits; call after the last operation.
  void Flush();
  /// What waits is not launched: its batch is given up.
  void Drop();
  /// What was known of work queued before holds no more: a graph comes in between.
  void StartAnew();

  cudaStream_t stream() const { return stream_; }
  /// Where kernels report tables that cannot be.
  Fault* fault() const { return context_.fault(); }
  int multiprocessors() const { return context_.multiprocessors(); }
  const SharedMemory& shared_memory() const { return context_.shared_memory(); }
  /// Major version of the compute capability.
  int generation() const { return context_.generation(); }
  bool computes() const { return computes_; }

  // For what launches operations.
  /// Has room for the operation that is executed.
  const Scratch& scratch() const { return scratch_; }
  ConvertedInputs& inputs() { return inputs_; }
  /// Loaded at the first product: streams that only copy need no library.
  Products& products();
  /// The product waits for others that one kernel computes with it; those before that it cannot join are launched.
  void Join(const LinearOp& op);
  /// The norm waits for products that take what it gives, or is launched.
  void Join(const NormOp& op);
  /// Whether a kernel that begins with Begin() may start while the work before it ends.
  bool MayOverlap() const { return after_kernel_ && generation() >= 9; }
  /// Such a kernel is now the last of the stream's work.
  void KernelQueued() { after_kernel_ = true; }
  /// Other work than our kernels is: a copy, what the library queues, an event that is waited for.
  void OtherQueued() { after_kernel_ = false; }

 private:
  const cudaStream_t stream_;
  Context& context_;
  const bool computes_;
  Scratch scratch_;
  ConvertedInputs inputs_;
  JoinedProducts joined_;
  bool after_kernel_ = false;
  std::unique_ptr<Products> products_;
};

// One per operation, on views that lie where the device reaches them.
void Launch(const GatherRowsOp& op, Run& run);
void Launch(const LayerNormOp& op, Run& run);
void Launch(const RmsNormOp& op, Run& run);
void Launch(const LinearOp& op, Run& run);
void Launch(const HeadLinearOp& op, Run& run);
void Launch(const GatedOp& op, Run& run);
void Launch(const AddOp& op, Run& run);
void Launch(const RotaryOp& op, Run& run);
void Launch(const KvStoreOp& op, Run& run);
void Launch(const AttentionOp& op, Run& run);
void Launch(const ArgmaxOp& op, Run& run);
void Launch(const TopTokensOp& op, Run& run);
void Launch(const NllFoldOp& op, Run& run);
void Launch(const ScaleCapOp& op, Run& run);
void Launch(const PositionScaleOp& op, Run& run);
void Launch(const ClampOp& op, Run& run);
void Launch(const RouteOp& op, Run& run);
void Launch(const ExpertLinearOp& op, Run& run);
void Launch(const CombineOp& op, Run& run);
void Launch(const ExpertBiasOp& op, Run& run);
void Launch(const GatedPairsOp& op, Run& run);
void Launch(const CausalConvOp& op, Run& run);
void Launch(const StateScanOp& op, Run& run);
void Launch(const GatedRmsOp& op, Run& run);
void Launch(const CompressOp& op, Run& run);
void Launch(const WindowAttentionOp& op, Run& run);
void Launch(const HyperWeightsOp& op, Run& run);
void Launch(const HyperMixOp& op, Run& run);
void Launch(const GateSigmoidOp& op, Run& run);
void Launch(const ScaleRowsOp& op, Run& run);
void Launch(const SampleOp& op, Run& run);
void Launch(const NoteNotFiniteOp& op, Run& run);
void Launch(const TokenRowsOp& op, Run& run);
void Launch(const BringExpertsOp& op, Run& run);
void Launch(const AskHostOp& op, Run& run);
void Launch(const TakeHostOp& op, Run& run);
void Launch(const FindExpertsOp& op, Run& run);
void Launch(const CopyOp& op, Run& run);
void Launch(const CopyRowsOp& op, Run& run);
void Launch(const ReduceOp& op, Run& run);
void Launch(const FillOp& op, Run& run);

// Parts of linear and attention, each in a file of its own.
/// A product with a weight that is stored as its values, of many tokens.
void LaunchMany(const DenseLinearOp& op, Run& run);
/// Products of a few tokens that were joined, of dense weights or of stored ones, and the norm of their inputs.
void LaunchJoined(const Joined& joined, Run& run);
void LaunchNorm(const NormOp& op, Run& run);
/// A few tokens times [N, K] weights, whole epilogue included: one kernel for up to kMostJoined products of one x.
void LaunchFewTokens(const std::vector<DenseLinearOp>& ops, Run& run);
/// Any types, strides and addresses; for what the library refuses.
void LaunchPlainProduct(const DenseLinearOp& op, Run& run);
/// out = act(from + bias) (+ out). `from` may be out itself.
void LaunchFinish(const DenseLinearOp& op, const View& from, Run& run);
/// Products of 16-bit weights: choices grouped by expert and multiplied on tensor cores.
void LaunchExpertTiles(const DenseExpertLinearOp& op, const ExpertTiling& tiling, Run& run);
/// Few bytes, between memories that kernels reach.
void LaunchCopyBytes(const CopyOp& op, Run& run);
/// The values of `from` in the type of `to`; both of one shape.
void LaunchConvert(const View& from, const View& to, Run& run);
/// What `rounded` lacks of `from`, in the type of `rounded` and `to`; all of one shape.
void LaunchRest(const View& from, const View& rounded, const View& to, Run& run);
/// Sequences with a few new tokens, a block per token and head. "Stored": over a cache that is not of the type of q and out.
void LaunchAttentionRows(const AttentionOp& op, const AttentionWay& way, Run& run);
void LaunchStoredRows(const AttentionOp& op, const AttentionWay& way, Run& run);
/// Sequences with more than `fewer_tokens` new tokens, on tensor cores: f32 through TF32, or 16-bit types as they are.
void LaunchFloatTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run);
void LaunchHalfTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run);
void LaunchStoredHalfTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run);
/// Wide heads on tensor cores: sequences with more than way.most_tokens new tokens, and those with up to so many, in parts.
void LaunchWideTiles(const AttentionOp& op, const AttentionWay& way, Run& run);
void LaunchWideParts(const AttentionOp& op, const AttentionWay& way, Run& run);
/// k and v as codes beside their scales.
void LaunchStoreCodes(const KvStoreOp& op, Run& run);

}  // namespace zi::cuda
