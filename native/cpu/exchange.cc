// Implements cpu/exchange.h.
#include "cpu/exchange.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "cpu/host_part.h"
#include "ops/exchange.h"

namespace zi {
namespace {

int32_t* Words(const View& view) { return reinterpret_cast<int32_t*>(view.data); }

/// What one thread moves at a time.
constexpr int64_t kPieceBytes = 256 << 10;

/// One expert's parts, in its slot of the device and where the host said.
struct Move {
  const BringExpertsOp& op;
  uint8_t* slot;
  const int32_t* row;

  int64_t PartBytes(int64_t part) const { return Words(op.places)[2 * part + 1]; }
  int64_t Pieces(int64_t part) const { return (PartBytes(part) + kPieceBytes - 1) / kPieceBytes; }
  int64_t From(int64_t part) const {
    const int32_t* words = row + kFoundHead + 2 * part;
    return static_cast<int64_t>(static_cast<uint32_t>(words[1])) << 32 | static_cast<uint32_t>(words[0]);
  }

  void Check() const {
    const int64_t most = op.behind.slots.shape[0] * op.behind.slots.shape[1];
    for (int64_t part = 0; part < op.part_count(); ++part) {
      const int64_t offset = Words(op.places)[2 * part], bytes = PartBytes(part), from = From(part);
      const bool fits = offset >= 0 && bytes >= 0 && offset + bytes <= op.slots.shape[1] && from >= 0 && from + bytes <= most;
      if (!fits) throw std::runtime_error("a part of an expert lies outside");
    }
  }

  void Do(int64_t piece) const {
    int64_t part = 0;
    while (piece >= Pieces(part)) piece -= Pieces(part++);
    const int64_t first = piece * kPieceBytes, bytes = std::min(kPieceBytes, PartBytes(part) - first);
    uint8_t* const here = slot + Words(op.places)[2 * part] + first;
    uint8_t* const there = op.behind.slots.data + From(part) + first;
    if (row[kFoundSwaps] != 0) {
      std::swap_ranges(here, here + bytes, there);
    } else {
      std::memcpy(here, there, static_cast<size_t>(bytes));
    }
  }
};

void MoveOne(const Move& move, Run& run) {
  move.Check();
  int64_t pieces = 0;
  for (int64_t part = 0; part < move.op.part_count(); ++part) pieces += move.Pieces(part);
  run.pool.ParallelFor(
      static_cast<size_t>(pieces), 1, run.cancel,
      [](void* context, size_t begin, size_t end) {
        for (size_t piece = begin; piece < end; ++piece) static_cast<const Move*>(context)->Do(static_cast<int64_t>(piece));
      },
      const_cast<Move*>(&move));
}

}  // namespace

void ExchangeExperts(const BringExpertsOp& op, const Exchanged* all, int32_t count, Run& run) {
  const HostSlots& behind = op.behind;
  const int32_t calls = *Words(op.calls);
  int32_t* const asked = Words(behind.asked);
  asked[kAskedCount] = count;
  asked[kAskedCalls] = calls;
  asked[kAskedFirstKey] = static_cast<int32_t>(op.first_key);
  for (int32_t i = 0; i < count; ++i) {
    int32_t* const words = asked + kAskedHead + kAskedEach * i;
    words[kComesKey] = all[i].comes;
    words[kComesUses] = all[i].comes_uses;
    words[kLeavesKey] = all[i].leaves;
    words[kLeavesUses] = all[i].leaves_uses;
    words[kLeavesStamp] = all[i].leaves_stamp;
  }
  NoteAsked(behind.mail, count, 0);
  Ask(behind.mail, behind.job);
  for (int32_t told = 0; told < count; ++told) {
    const int32_t* const row = Words(behind.found) + told * behind.found.strides[0];
    AwaitWord(behind.mail, row + kFoundTurn, calls, run.cancel);
    if (run.cancel) return;
    const int32_t which = row[kFoundWhich];
    if (which < 0 || which >= count) throw std::runtime_error("the host found an expert that nobody asked for");
    uint8_t* const slot = op.slots.data + Words(op.list)[2 + 2 * which] * op.slots.strides[0];
    MoveOne({op, slot, row}, run);
  }
}

}  // namespace zi
