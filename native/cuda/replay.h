// Batches of operations that come again and again (a layer at every decoding step), launched as graphs from their second
// time on: the driver takes one call instead of one per kernel.
#pragma once
#include <cuda_runtime_api.h>

#include <list>
#include <unordered_map>

#include "cuda/run.h"

namespace zi::cuda {

/// Operations as they come: encoded, each after a word with its length.
struct Words {
  const double* data;
  size_t count;
  /// What stands for exactly these words, so that nobody has to look at them again; 0 where nothing does.
  uint64_t kept;
};

class Replays {
 public:
  /// Launches the graph of a batch with exactly these words; false when there is none yet.
  bool Replay(const Words& words, Run& run);
  /// Runs a batch that Replay did not know, and makes a graph of it if it came before. Throws as Run::Execute does.
  void Execute(const Words& words, const std::vector<Decoded>& operations, Run& run);

 private:
  struct Batch {
    size_t hash;
    uint64_t kept = 0;
    std::vector<double> words;
    std::vector<std::weak_ptr<Memory>> memories;
    std::vector<std::weak_ptr<Exchange>> exchanges;
    /// When it was launched last, in batches.
    uint64_t used = 0;
    cudaGraphExec_t graph = nullptr;
    bool refused = false;
    ~Batch();
  };
  /// As launched now.
  Batch* Find(const Words& words);
  /// From now on the batch is found by what stands for its words.
  void Keep(std::list<Batch>::iterator batch, uint64_t kept);
  /// False while all that are remembered are still launched now and then.
  bool MakeRoom();
  void Remember(const Words& words, const std::vector<Decoded>& operations);
  bool Capture(Batch& batch, const std::vector<Decoded>& operations, Run& run);
  static cudaGraphExec_t GraphOf(const std::vector<Decoded>& operations, Run& run);
  /// Runs operations of which one waits for other devices.
  static void RunPrepared(const std::vector<Decoded>& operations, Run& run);
  void Clear();

  /// Least recently used first.
  std::list<Batch> batches_;
  uint64_t launched_ = 0;
  std::unordered_multimap<size_t, std::list<Batch>::iterator> by_hash_;
  /// By what stood for their words last.
  std::unordered_map<uint64_t, std::list<Batch>::iterator> kept_;
  /// How often the scratch that the graphs refer to had moved.
  int scratch_moves_ = 0;
};

}  // namespace zi::cuda
