// Batches of operations that come again and again (a layer at every decoding step), launched as graphs from their second
// time on: the driver takes one call instead of one per kernel.
#pragma once
#include <cuda_runtime_api.h>

#include <list>
#include <unordered_map>

#include "cuda/run.h"

namespace zi::cuda {

class Replays {
 public:
  /// Launches the graph of a batch with exactly these words; false when there is none yet.
  bool Replay(const double* words, size_t count, Run& run);
  /// Runs a batch that Replay did not know, and makes a graph of it if it came before. Throws as Run::Execute does.
  void Execute(const double* words, size_t count, const std::vector<Decoded>& operations, Run& run);

 private:
  struct Batch {
    size_t hash;
    std::vector<double> words;
    std::vector<std::weak_ptr<Memory>> memories;
    /// When it was launched last, in batches.
    uint64_t used = 0;
    cudaGraphExec_t graph = nullptr;
    bool refused = false;
    ~Batch();
  };
  /// As launched now.
  Batch* Find(size_t hash, const double* words, size_t count);
  /// False while all that are remembered are still launched now and then.
  bool MakeRoom();
  void Remember(size_t hash, const double* words, size_t count, const std::vector<Decoded>& operations);
  bool Capture(Batch& batch, const std::vector<Decoded>& operations, Run& run);
  void Clear();

  /// Least recently used first.
  std::list<Batch> batches_;
  uint64_t launched_ = 0;
  std::unordered_multimap<size_t, std::list<Batch>::iterator> by_hash_;
  /// How often the scratch that the graphs refer to had moved.
  int scratch_moves_ = 0;
};

}  // namespace zi::cuda
