// Reads and checks what moves bytes as they are.
#include "ops/decode_parts.h"

namespace zi {

namespace {

/// Bytes from the first row's begin to the last one's end.
uint64_t StretchOf(const WordReader& in, uint64_t stride, uint64_t row, uint64_t rows) {
  in.Check(row > 0 && rows > 0, "there must be a byte to copy");
  in.Check(stride >= row, "rows overlap each other");
  constexpr uint64_t kMost = uint64_t{1} << 53;
  in.Check(stride <= kMost / rows, "rows reach further than memory does");
  return (rows - 1) * stride + row;
}

}  // namespace

Operation Copy(Reader& in) {
  const uint64_t to = in.Size("to"), to_offset = in.Size("to"), from = in.Size("from"), from_offset = in.Size("from");
  const uint64_t size = in.Size("size");
  CopyOp op{in.Bytes("to", to, to_offset, size), in.Bytes("from", from, from_offset, size), size, false};
  op.in_reach = in.KernelsReach(to) && in.KernelsReach(from);
  in.Check(op.to + size <= op.from || op.from + size <= op.to, "source and destination overlap");
  return op;
}

Operation CopyRows(Reader& in) {
  const uint64_t to = in.Size("to"), to_offset = in.Size("to"), to_stride = in.Size("toStrideBytes");
  const uint64_t from = in.Size("from"), from_offset = in.Size("from"), from_stride = in.Size("fromStrideBytes");
  const uint64_t row = in.Size("rowBytes"), rows = in.Size("rows");
  const uint64_t to_size = StretchOf(in, to_stride, row, rows), from_size = StretchOf(in, from_stride, row, rows);
  CopyRowsOp op{in.Bytes("to", to, to_offset, to_size),       to_stride,       in.Bytes("from", from, from_offset, from_size),
                from_stride, row, rows, in.PlaceOf(to), in.PlaceOf(from)};
  in.Check(op.to + to_size <= op.from || op.from + from_size <= op.to, "source and destination overlap");
  return op;
}

Operation Fill(Reader& in) {
  const uint64_t to = in.Size("to"), offset = in.Size("to"), size = in.Size("size"), value = in.Size("value");
  in.Check(value <= 255, "the value must be a byte");
  FillOp op{in.Bytes("to", to, offset, size), size, static_cast<uint8_t>(value)};
  return op;
}

}  // namespace zi
