// Implements ops/words.h.
#include "ops/words.h"

#include <iterator>
#include <stdexcept>

#include "core/exchange.h"
#include "core/io_pieces.h"

namespace zi {
namespace {

std::string Describe(const View& view) {
  std::string text = std::string(kDTypeNames[static_cast<int>(view.dtype)]) + " [";
  for (int d = 0; d < view.rank; ++d) text += (d ? ", " : "") + std::to_string(view.shape[d]);
  return text + "]";
}

/// Whether its elements are numbers to compute with, not codes, scales of codes or indices.
bool IsFloat(const View& view) {
  switch (view.dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return true;
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      return false;
  }
  return false;
}

/// Whether keys and values may be stored as its elements.
bool IsCached(const View& view) {
  switch (view.dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kE4M3:
    case DType::kI8:
    case DType::kU8:
      return true;
    case DType::kI32:
    case DType::kE8M0:
      return false;
  }
  return false;
}

/// An address that nothing has, for operations that are only looked at: it says how views are aligned.
uint8_t* Nowhere(uint64_t offset) { return reinterpret_cast<uint8_t*>((uintptr_t{1} << 52) + offset); }

/// Bytes from the first to one past the last element; 2^53 for more than that.
uint64_t SpanBytes(const View& view) {
  // In 128 bits: four products of 53-bit numbers cannot wrap around.
  unsigned __int128 last = 0;
  for (int d = 0; d < view.rank; ++d) {
    if (view.shape[d] == 0) return 0;
    last += static_cast<unsigned __int128>(view.shape[d] - 1) * static_cast<uint64_t>(view.strides[d]);
  }
  const unsigned __int128 span = (last + 1) * static_cast<uint64_t>(ElementBytes(view.dtype));
  constexpr uint64_t kMost = uint64_t{1} << 53;
  return span > kMost ? kMost : static_cast<uint64_t>(span);
}

}  // namespace

void WordReader::Fail(const std::string& what) const { throw std::invalid_argument(operation_ + ": " + what); }

double WordReader::Word() {
  if (words_ == end_) Fail("the encoded operation ends too early");
  return *words_++;
}

uint64_t WordReader::Size(const char* name) {
  const double word = Word();
  // Not written as a range check alone: NaN must fail too, and whole numbers up to 2^53 are exact.
  if (!(word >= 0 && word <= 9007199254740991.0) || word != static_cast<double>(static_cast<uint64_t>(word))) {
    Fail(std::string(name) + " holds " + std::to_string(word) + ", which is no size");
  }
  return static_cast<uint64_t>(word);
}

std::shared_ptr<IoPieces> WordReader::Pieces(const char* name) {
  const uint64_t id = Size(name);
  if (id == 0) return nullptr;
  if (place_ != kHostPlace) Fail(std::string(name) + " are read by the processor alone");
  auto found = id <= UINT32_MAX ? FindPieces(static_cast<uint32_t>(id)) : nullptr;
  if (!found) Fail(std::string(name) + " refers to pieces " + std::to_string(id) + ", which do not exist or were freed");
  return found;
}

std::shared_ptr<Exchange> WordReader::Exchanging(const char* name) {
  const uint64_t id = Size(name);
  if (place_ == kNoPlace) return nullptr;
  auto found = id <= UINT32_MAX ? FindExchange(static_cast<uint32_t>(id)) : nullptr;
  if (!found) Fail(std::string(name) + " refers to group " + std::to_string(id) + ", which does not exist or was closed");
  if (found->place() != place_) Fail(std::string(name) + " is the end of another device");
  return found;
}

void WordReader::ExpectEnd() {
  if (words_ != end_) Fail("the encoded operation is " + std::to_string(end_ - words_) + " words too long");
}

Memory& WordReader::Find(const char* name, uint64_t id) {
  for (const auto& memory : memories_) {
    if (memory->id() == id) return *memory;
  }
  auto found = id <= UINT32_MAX ? FindMemory(static_cast<uint32_t>(id)) : nullptr;
  if (!found) Fail(std::string(name) + " refers to memory " + std::to_string(id) + ", which does not exist or was freed");
  memories_.push_back(std::move(found));
  return *memories_.back();
}

uint8_t* WordReader::Bytes(const char* name, uint64_t memory_id, uint64_t offset, uint64_t size) {
  const Memory& memory = Find(name, memory_id);
  if (place_ == kHostPlace && memory.place() != kHostPlace) Fail(std::string(name) + " lies in memory of a device");
  if (offset > memory.size() || size > memory.size() - offset) {
    Fail(std::string(name) + " reaches from byte " + std::to_string(offset) + " to " + std::to_string(offset + size) +
         " of memory " + std::to_string(memory_id) + ", which has " + std::to_string(memory.size()));
  }
  return memory.data() + offset;
}

bool WordReader::KernelsReach(const Memory& memory) const {
  const auto* host = dynamic_cast<const HostMemory*>(&memory);
  return memory.place() == place_ || (host && host->pinned());
}

bool WordReader::KernelsReach(uint64_t memory_id) { return KernelsReach(Find("memory", memory_id)); }

uint8_t* WordReader::KernelBytes(const char* name, uint64_t memory_id, uint64_t offset, uint64_t size) {
  if (place_ == kNoPlace) return Nowhere(offset);
  uint8_t* bytes = Bytes(name, memory_id, offset, size);
  const Memory& memory = Find(name, memory_id);
  if (KernelsReach(memory)) return bytes;
  if (memory.place() != kHostPlace) Fail(std::string(name) + " lies in memory of another device");
  Fail(std::string(name) + " lies in host memory that is not pinned");
}

View WordReader::Tensor(const char* name) {
  const uint64_t id = Size(name), offset = Size(name), dtype = Size(name), rank = Size(name);
  View view{};
  uint64_t dimensions[8];
  for (auto& dimension : dimensions) dimension = Size(name);
  if (id == 0) return view;
  if (dtype >= std::size(kDTypeNames) || rank < 1 || rank > 4) Fail(std::string(name) + " has an unknown type or rank");
  view.dtype = static_cast<DType>(dtype);
  view.rank = static_cast<int>(rank);
  for (int d = 0; d < view.rank; ++d) {
    view.shape[d] = static_cast<int64_t>(dimensions[d]);
    view.strides[d] = static_cast<int64_t>(dimensions[4 + d]);
  }
  if (view.strides[view.rank - 1] != 1) Fail(std::string(name) + " must have an innermost stride of 1");
  view.data = KernelBytes((std::string(name) + " " + Describe(view)).c_str(), id, offset, SpanBytes(view));
  return view;
}

const uint8_t* WordReader::Same(const View& first, const char* name) {
  const uint64_t id = Size(name), offset = Size(name);
  return id == 0 ? nullptr : KernelBytes(name, id, offset, SpanBytes(first));
}

View WordReader::Checked(View view, const char* name, int rank, bool aligned) {
  if (rank != 0 && view.rank != rank) {
    Fail(std::string(name) + " " + Describe(view) + " must have " + std::to_string(rank) + " dimensions");
  }
  if (aligned && reinterpret_cast<uintptr_t>(view.data) % 4 != 0) {
    Fail(std::string(name) + " must begin at a multiple of 4 bytes");
  }
  return view;
}

/// At a multiple of an element's size.
void WordReader::CheckAligned(const View& view, const char* name) const {
  const auto element = static_cast<uint64_t>(ElementBytes(view.dtype));
  if (reinterpret_cast<uintptr_t>(view.data) % element != 0) {
    Fail(std::string(name) + " must begin at a multiple of " + std::to_string(element) + " bytes");
  }
}

View WordReader::Activation(const char* name, int rank) {
  if (place_ == kHostPlace) return Floats(name, rank);
  const View view = Weight(name, rank);
  CheckAligned(view, name);
  return view;
}

View WordReader::Values(const char* name, int rank) {
  const View view = Weight(name, rank);
  CheckAligned(view, name);
  return view;
}

View WordReader::OptionalActivation(const char* name, int rank) {
  // A tensor without a memory is none.
  if (words_ != end_ && *words_ == 0) return Tensor(name);
  return Activation(name, rank);
}

View WordReader::Cache(const char* name) {
  const View view = Checked(Tensor(name), name, 4, false);
  if (!view.data || !IsCached(view)) Fail(std::string(name) + " must be f32, f16, bf16, e4m3, i8 or u8");
  CheckAligned(view, name);
  return view;
}

View WordReader::OptionalScales(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kBF16) Fail(std::string(name) + " must be bf16");
  CheckAligned(view, name);
  return Checked(view, name, 4, false);
}

View WordReader::Floats(const char* name, int rank) {
  const View view = Checked(Tensor(name), name, rank, true);
  if (!view.data || view.dtype != DType::kF32) Fail(std::string(name) + " must be f32");
  return view;
}

View WordReader::Stored(const char* name) {
  const View view = Tensor(name);
  if (!view.data) Fail(std::string(name) + " is missing");
  return view;
}

View WordReader::Weight(const char* name, int rank) {
  const View view = Checked(Tensor(name), name, rank, false);
  if (!view.data || !IsFloat(view)) Fail(std::string(name) + " must be f32, f16 or bf16");
  return view;
}

View WordReader::OptionalWeight(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (!IsFloat(view)) Fail(std::string(name) + " must be f32, f16 or bf16");
  return Checked(view, name, 1, false);
}

View WordReader::OptionalFloats(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kF32) Fail(std::string(name) + " must be f32");
  return Checked(view, name, 1, true);
}

View WordReader::OptionalFloatTable(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kF32) Fail(std::string(name) + " must be f32");
  return Checked(view, name, 2, true);
}

View WordReader::OptionalFloatBlock(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kF32) Fail(std::string(name) + " must be f32");
  return Checked(view, name, 3, true);
}

View WordReader::OptionalIndex(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kI32) Fail(std::string(name) + " must be i32");
  return Checked(view, name, 1, true);
}
View WordReader::OptionalIndexTable(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kI32) Fail(std::string(name) + " must be i32");
  return Checked(view, name, 2, true);
}
View WordReader::OptionalIndexWeight(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kI32) Fail(std::string(name) + " must be i32");
  return Checked(view, name, 2, place_ != kHostPlace);
}
View WordReader::ByteRows(const char* name, int rank) {
  const View view = Checked(Tensor(name), name, rank, false);
  if (!view.data || view.dtype != DType::kU8) Fail(std::string(name) + " must be u8");
  return view;
}
View WordReader::OptionalBytes(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kU8) Fail(std::string(name) + " must be u8");
  return Checked(view, name, 1, false);
}
View WordReader::OptionalBytesTable(const char* name) {
  const View view = Tensor(name);
  if (!view.data) return view;
  if (view.dtype != DType::kU8) Fail(std::string(name) + " must be u8");
  return Checked(view, name, 2, false);
}
View WordReader::Index(const char* name) {
  const View view = Checked(Tensor(name), name, 1, true);
  if (!view.data || view.dtype != DType::kI32) Fail(std::string(name) + " must be i32");
  return view;
}

View WordReader::IndexTable(const char* name) {
  const View view = Checked(Tensor(name), name, 2, true);
  if (!view.data || view.dtype != DType::kI32) Fail(std::string(name) + " must be i32");
  return view;
}

void WordReader::CheckSize(const View& view, int dimension, int64_t size, const char* name) const {
  if (view.shape[dimension] == size) return;
  Fail(std::string(name) + " " + Describe(view) + " must have " + std::to_string(size) + " in dimension " +
       std::to_string(dimension));
}

}  // namespace zi
