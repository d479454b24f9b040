// Reads the numbers that offload/backends/op-encoding.ts wrote, and checks that every view lies inside live
// memory that the device can reach.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/memory.h"
#include "ops/operand.h"

namespace zi {

class WordReader {
 public:
  /// `place`: where the operation runs.
  WordReader(const double* words, size_t count, int place) : words_(words), end_(words + count), place_(place) {}

  /// Prefixes the errors that follow.
  void SetOperation(const char* name) { operation_ = name; }

  // Each throws std::invalid_argument that names the operand.
  View Activation(const char* name, int rank);        // f32, on a device also f16 or bf16; elements lie aligned
  View Cache(const char* name);                       // floats or codes of rank 4; elements lie aligned
  View OptionalScales(const char* name);              // bf16 of rank 4; data is null when absent
  View Floats(const char* name, int rank);            // f32, at a multiple of 4 bytes
  View Weight(const char* name, int rank);            // f32, f16 or bf16 at any offset
  View Stored(const char* name);                      // any type, at any offset
  View ByteRows(const char* name, int rank);          // u8
  View OptionalBytes(const char* name);               // u8 of rank 1; data is null when absent
  View OptionalBytesTable(const char* name);          // u8 of rank 2; data is null when absent
  View Index(const char* name);                       // i32 [n], at a multiple of 4 bytes
  View IndexTable(const char* name);                  // i32 [n, m]
  View OptionalIndex(const char* name);               // i32 [n]; data is null when absent
  View OptionalIndexTable(const char* name);          // i32 [n, m]; data is null when absent
  View OptionalIndexWeight(const char* name);         // i32 [n, m] as files have it, so at any address of the host; may be absent
  View OptionalFloatBlock(const char* name);          // f32 of rank 3; data is null when absent
  View OptionalFloatTable(const char* name);          // f32 of rank 2; data is null when absent
  View OptionalWeight(const char* name);              // rank 1; data is null when absent
  View OptionalFloats(const char* name);              // the same, f32
  View OptionalActivation(const char* name, int rank);  // data is null when absent
  /// Where a further tensor of the type, shape and strides of `first` lies: two words. Null where there is none.
  const uint8_t* Same(const View& first, const char* name);
  View Values(const char* name, int rank);            // f32, f16 or bf16 on every device; elements lie aligned
  uint64_t Size(const char* name);
  /// One device's end of a group by its id, of the device that it runs on; null where nothing is to run.
  std::shared_ptr<Exchange> Exchanging(const char* name);
  /// Pieces of files by their id, for operations that run on the host; null for an id of 0.
  std::shared_ptr<IoPieces> Pieces(const char* name);
  float Number() { return static_cast<float>(Word()); }
  bool Flag() { return Word() != 0; }
  /// What copies move: `size` bytes at `offset` of a memory of any place that copies of this device reach.
  uint8_t* Bytes(const char* name, uint64_t memory_id, uint64_t offset, uint64_t size);
  /// Whether kernels read and write it where it lies; after `Bytes` of that memory.
  bool KernelsReach(uint64_t memory_id);
  /// Where a memory is; after `Bytes` of it.
  int PlaceOf(uint64_t memory_id) { return Find("memory", memory_id).place(); }
  void ExpectEnd();

  [[noreturn]] void Fail(const std::string& what) const;
  void Check(bool holds, const char* what) const {
    if (!holds) Fail(what);
  }
  /// Requires dimension `dimension` of `view` to be `size`.
  void CheckSize(const View& view, int dimension, int64_t size, const char* name) const;

  /// The memories that the views lie in; holding them keeps the views valid.
  std::vector<std::shared_ptr<Memory>> TakeMemories() { return std::move(memories_); }

 private:
  double Word();
  View Tensor(const char* name);
  View Checked(View view, const char* name, int rank, bool aligned);
  void CheckAligned(const View& view, const char* name) const;
  Memory& Find(const char* name, uint64_t id);
  bool KernelsReach(const Memory& memory) const;
  /// The bytes, where kernels read and write them.
  uint8_t* KernelBytes(const char* name, uint64_t memory_id, uint64_t offset, uint64_t size);

  const double* words_;
  const double* end_;
  int place_;
  std::string operation_ = "operation";
  std::vector<std::shared_ptr<Memory>> memories_;
};

}  // namespace zi
