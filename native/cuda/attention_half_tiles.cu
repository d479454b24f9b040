// attention of sequences with many new tokens in 16-bit types, over a cache of the type of q and out: copied as it is.
#include "cuda/attention_half_kernel.h"

namespace zi::cuda {
namespace {

using namespace half_tiles;

template <class T, int kDepth>
struct CopyLoader {
  using Arguments = AttentionArguments;

  /// Whether groups of eight values can be copied without registers.
  static bool Groups(const AttentionOp& op, const Arguments& a) {
    return a.depth % 8 == 0 && a.value_depth % 8 == 0 && RowsAligned(op.keys, 16) && RowsAligned(op.values, 16);
  }
  __device__ void Load(const Arguments& a, const CacheLayout& layout, const Arguments::Sequence& sequence, int kv_head,
                       int block, int begin, int end, int stage, Shared<T, kDepth>& shared) {
    LoadKeys<T, kDepth>(a, layout, sequence, kv_head, block, begin, end, stage, shared);
  }
  __device__ void Expand(const Arguments&, const CacheLayout&, int, Shared<T, kDepth>&) {}
  __device__ void Advance() {}
};

}  // namespace

void LaunchHalfTiles(const AttentionOp& op, int64_t fewer_tokens, Run& run) {
  LaunchAnyType<CopyLoader>(op, fewer_tokens, run);
}

}  // namespace zi::cuda
