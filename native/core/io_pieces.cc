// Implements core/io_pieces.h.
#include "core/io_pieces.h"

#include <chrono>
#include <stdexcept>

#include "core/clock.h"
#include "core/memory.h"
#include "core/weak_table.h"

namespace zi {
namespace {

/// How soon a wait sees that its stream is closed.
constexpr std::chrono::milliseconds kLook{20};

WeakTable<IoPieces> all_pieces;

}  // namespace

/// What is known of all batches; reads that nobody waits for any more still write here.
struct IoPieces::Record {
  mutable std::mutex mutex;
  IoPieceStats stats;
  std::optional<IoFailure> failure;
};

/// Pieces that were begun together, in the order in which they were asked for.
struct IoPieces::Batch {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<uint64_t> pieces;
  std::vector<bool> arrived;
  size_t left = 0;
  std::optional<IoFailure> failure;
  double start_ms = 0;
};

IoPieces::IoPieces(std::shared_ptr<IoReader> reader, std::vector<std::vector<IoRead>> pieces, std::shared_ptr<HostMemory> memory)
    : id_(all_pieces.NextId()), reader_(std::move(reader)), pieces_(std::move(pieces)), memory_(std::move(memory)),
      record_(std::make_shared<Record>()) {
  for (const auto& piece : pieces_) {
    if (piece.empty()) throw std::invalid_argument("a piece of files has no read");
    for (const IoRead& read : piece) {
      if (read.memory != memory_) throw std::invalid_argument("pieces of files are read into one memory");
    }
  }
}

void IoPieces::Begin(const std::vector<Wanted>& wanted, const std::atomic<bool>& cancel) {
  AwaitAll(cancel);
  if (cancel || wanted.empty()) return;
  std::vector<std::vector<IoRead>> all;
  auto batch = std::make_shared<Batch>();
  for (const auto& [piece, offset] : wanted) {
    if (piece >= pieces_.size()) throw std::runtime_error("piece " + std::to_string(piece) + " of files is none of " + std::to_string(count()));
    std::vector<IoRead> reads = pieces_[piece];
    for (IoRead& read : reads) {
      read.memory_offset += offset;
      if (read.memory_offset > memory_->size() || read.size_bytes > memory_->size() - read.memory_offset) {
        throw std::runtime_error("a piece of files reaches beyond its memory");
      }
    }
    all.push_back(std::move(reads));
    batch->pieces.push_back(piece);
  }
  batch->arrived.resize(wanted.size());
  batch->left = wanted.size();
  batch->start_ms = NowMs();
  batch_ = batch;
  for (size_t i = 0; i < all.size(); ++i) {
    // Neither this object nor its reader, whose last owner must not be a thread of the reader's own.
    reader_->Submit(std::move(all[i]), true, [batch, i, record = record_](IoOutcome outcome) {
      std::lock_guard<std::mutex> lock(batch->mutex);
      --batch->left;
      std::lock_guard<std::mutex> record_lock(record->mutex);
      record->stats.bytes += outcome.bytes;
      if (batch->left == 0) record->stats.busy_ms += outcome.end_ms - batch->start_ms;
      if (outcome.failure) {
        if (!record->failure) record->failure = outcome.failure;
        if (!batch->failure) batch->failure = std::move(outcome.failure);
      } else {
        batch->arrived[i] = true;
      }
      batch->changed.notify_all();
    });
  }
}

bool IoPieces::IsAwaited(uint64_t piece) const {
  if (!batch_) return false;
  std::lock_guard<std::mutex> lock(batch_->mutex);
  for (size_t i = 0; i < batch_->pieces.size(); ++i) {
    if (batch_->pieces[i] == piece) return !batch_->arrived[i];
  }
  return false;
}

void IoPieces::Await(uint64_t piece, const std::atomic<bool>& cancel) {
  if (!batch_) return;
  for (size_t i = 0; i < batch_->pieces.size(); ++i) {
    if (batch_->pieces[i] == piece) return Await(i, i + 1, cancel);
  }
}

void IoPieces::AwaitAll(const std::atomic<bool>& cancel) {
  if (!batch_) return;
  Await(0, batch_->pieces.size(), cancel);
  if (!cancel) batch_.reset();
}

void IoPieces::Await(size_t first, size_t last, const std::atomic<bool>& cancel) {
  std::unique_lock<std::mutex> lock(batch_->mutex);
  for (size_t i = first; i < last; ++i) {
    while (!batch_->arrived[i] && !batch_->failure && !cancel) batch_->changed.wait_for(lock, kLook);
  }
  if (batch_->failure && !cancel) throw std::runtime_error(batch_->failure->message);
}

std::optional<IoFailure> IoPieces::failure() const {
  std::lock_guard<std::mutex> lock(record_->mutex);
  return record_->failure;
}

IoPieceStats IoPieces::stats() const {
  std::lock_guard<std::mutex> lock(record_->mutex);
  return record_->stats;
}

std::shared_ptr<IoPieces> MakePieces(std::shared_ptr<IoReader> reader, std::vector<std::vector<IoRead>> pieces,
                                     std::shared_ptr<HostMemory> memory) {
  auto made = std::make_shared<IoPieces>(std::move(reader), std::move(pieces), std::move(memory));
  all_pieces.Enter(made);
  return made;
}

std::shared_ptr<IoPieces> FindPieces(uint32_t id) { return all_pieces.Find(id); }

}  // namespace zi
