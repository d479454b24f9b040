// Implements cuda/replay.h.
#include "cuda/replay.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "cuda/paired.h"
#include "cuda/small_copy.h"
#include "cuda/sum_rows.h"
#include "cuda/turned.h"
#include "cuda/ways_some.h"

namespace zi::cuda {
namespace {

/// Each takes some memory of the device.
constexpr size_t kMostBatches = 512;
/// Who was not launched while so many others were is not coming back. Where a step has more batches than are remembered,
/// the same ones are replayed at every step, while all would be forgotten just before their turn if the newest stayed.
constexpr uint64_t kForgottenAfter = 4 * kMostBatches;

size_t Hash(const double* words, size_t count) {
  uint64_t hash = 0x9e3779b97f4a7c15u ^ count;
  for (size_t i = 0; i < count; ++i) {
    uint64_t bits;
    std::memcpy(&bits, words + i, sizeof(bits));
    hash = (hash ^ bits) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 32;
  }
  return static_cast<size_t>(hash);
}

/// With more tokens launches cost little beside what they start, and prompts rarely come again with the same shape.
bool WorthAGraph(const std::vector<Decoded>& operations, const Run& run) {
  return operations.size() > 2 && std::all_of(operations.begin(), operations.end(), [&](const Decoded& decoded) {
           if (std::holds_alternative<FillOp>(decoded.op) || std::holds_alternative<CopyRowsOp>(decoded.op)) return false;
           const auto* copy = std::get_if<CopyOp>(&decoded.op);
           if (copy && !IsSmallCopy(*copy, run)) return false;
           const auto* linear = std::get_if<LinearOp>(&decoded.op);
           return !linear || linear->x.shape[0] <= kSomeTokens;
         });
}

/// Whether one of them waits for other devices.
bool MeetsOthers(const std::vector<Decoded>& operations) {
  return std::any_of(operations.begin(), operations.end(), [](const Decoded& decoded) { return decoded.exchange != nullptr; });
}

void RunAll(const std::vector<Decoded>& operations, Run& run) {
  for (size_t i = 0; i < operations.size();) {
    if (const auto turned = TurnedStoreAt(operations, i)) {
      Launch(*turned, run);
      i += kTurnedStoreOperations;
    } else if (const auto normed = NormedSumAt(operations, i)) {
      Launch(*normed, run);
      i += kNormedSumOperations;
    } else if (const auto pair = PairAt(operations, i)) {
      Launch(*pair, run);
      i += kPairedOperations;
    } else {
      run.Execute(operations[i++]);
    }
  }
  run.Flush();
}

}  // namespace

Replays::Batch::~Batch() {
  if (graph) cudaGraphExecDestroy(graph);
}

void Replays::Clear() {
  by_hash_.clear();
  kept_.clear();
  batches_.clear();
}

Replays::Batch* Replays::Find(const Words& words) {
  std::list<Batch>::iterator found;
  if (const auto known = kept_.find(words.kept); words.kept != 0 && known != kept_.end()) {
    found = known->second;
  } else {
    const size_t hash = Hash(words.data, words.count);
    const auto [begin, end] = by_hash_.equal_range(hash);
    const auto same = std::find_if(begin, end, [&](const auto& entry) {
      const std::vector<double>& other = entry.second->words;
      return other.size() == words.count && std::memcmp(other.data(), words.data, words.count * sizeof(double)) == 0;
    });
    if (same == end) return nullptr;
    found = same->second;
    Keep(found, words.kept);
  }
  found->used = launched_;
  batches_.splice(batches_.end(), batches_, found);
  return &*found;
}

void Replays::Keep(std::list<Batch>::iterator batch, uint64_t kept) {
  if (kept == 0) return;
  kept_.erase(batch->kept);
  batch->kept = kept;
  kept_[kept] = batch;
}

bool Replays::Replay(const Words& words, Run& run) {
  if (scratch_moves_ != run.scratch().moves()) Clear();
  scratch_moves_ = run.scratch().moves();
  ++launched_;
  const Batch* batch = Find(words);
  if (!batch || !batch->graph) return false;
  // A memory that is gone is reported by the ordinary way.
  for (const auto& memory : batch->memories) {
    if (memory.expired()) return false;
  }
  for (const auto& exchange : batch->exchanges) {
    if (exchange.expired()) return false;
  }
  run.StartAnew();
  Check(cudaGraphLaunch(batch->graph, run.stream()), "cudaGraphLaunch");
  return true;
}

void Replays::Execute(const Words& words, const std::vector<Decoded>& operations, Run& run) {
  const auto run_all = MeetsOthers(operations) ? RunPrepared : RunAll;
  if (!WorthAGraph(operations, run)) return run_all(operations, run);
  Batch* batch = Find(words);
  if (!batch) {
    run_all(operations, run);
    return Remember(words, operations);
  }
  // The scratch has the size it needs since the first time.
  if (batch->graph || batch->refused || !Capture(*batch, operations, run)) return RunAll(operations, run);
  Check(cudaGraphLaunch(batch->graph, run.stream()), "cudaGraphLaunch");
}

bool Replays::MakeRoom() {
  if (batches_.size() < kMostBatches) return true;
  const auto oldest = batches_.begin();
  if (launched_ - oldest->used <= kForgottenAfter) return false;
  const auto [begin, end] = by_hash_.equal_range(oldest->hash);
  by_hash_.erase(std::find_if(begin, end, [&](const auto& entry) { return entry.second == oldest; }));
  kept_.erase(oldest->kept);
  batches_.erase(oldest);
  return true;
}

void Replays::Remember(const Words& words, const std::vector<Decoded>& operations) {
  if (!MakeRoom()) return;
  Batch& batch = batches_.emplace_back();
  batch.hash = Hash(words.data, words.count);
  batch.used = launched_;
  batch.words.assign(words.data, words.data + words.count);
  std::set<std::weak_ptr<Memory>, std::owner_less<>> memories;
  for (const Decoded& decoded : operations) memories.insert(decoded.memories.begin(), decoded.memories.end());
  batch.memories.assign(memories.begin(), memories.end());
  for (const Decoded& decoded : operations) {
    if (decoded.exchange) batch.exchanges.push_back(decoded.exchange);
  }
  by_hash_.emplace(batch.hash, std::prev(batches_.end()));
  Keep(std::prev(batches_.end()), words.kept);
}

/// What the operations queue, as a graph; null where the driver refuses.
cudaGraphExec_t Replays::GraphOf(const std::vector<Decoded>& operations, Run& run) {
  run.StartAnew();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  bool complete = cudaStreamBeginCapture(run.stream(), cudaStreamCaptureModeRelaxed) == cudaSuccess;
  if (complete) {
    try {
      RunAll(operations, run);
    } catch (const std::exception&) {
      complete = false;
      run.Drop();
    }
    complete = cudaStreamEndCapture(run.stream(), &graph) == cudaSuccess && complete;
  }
  if (complete) complete = cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess;
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();  // what the driver refused, the ordinary way does
  run.StartAnew();
  return complete ? executable : nullptr;
}

bool Replays::Capture(Batch& batch, const std::vector<Decoded>& operations, Run& run) {
  batch.refused = true;  // until it has worked
  batch.graph = GraphOf(operations, run);
  batch.refused = !batch.graph;
  return batch.graph != nullptr;
}

void Replays::RunPrepared(const std::vector<Decoded>& operations, Run& run) {
  // A kernel that is loaded, or memory that is allocated, may have to wait until the device idles. It would do so for ever behind one that
  // waits for a device that nothing is queued on yet. So all of that comes before the first of them is launched.
  run.Prepare(operations);
  const cudaGraphExec_t graph = GraphOf(operations, run);
  if (!graph) return RunAll(operations, run);
  Check(cudaGraphLaunch(graph, run.stream()), "cudaGraphLaunch");
  Check(cudaGraphExecDestroy(graph), "cudaGraphExecDestroy");  // when it has run
}

}  // namespace zi::cuda
