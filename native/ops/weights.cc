// Implements ops/weights.h and the dense views of ops/operand.h.
#include "ops/weights.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

namespace zi {
namespace {

int64_t Groups(int64_t size, int64_t each) { return (size + each - 1) / each; }

DType ReadFloatType(WordReader& in, const char* name) {
  const uint64_t value = in.Size(name);
  in.Check(value <= static_cast<uint64_t>(DType::kBF16), "a weight's values are f32, f16 or bf16");
  return static_cast<DType>(value);
}

bool IsFloat(DType type) { return type == DType::kF32 || type == DType::kF16 || type == DType::kBF16; }

/// Checks parts against the shape of a weight, one at a time.
class Parts {
 public:
  Parts(const WordReader& in, const Weight& weight) : in_(in), weight_(weight) {}

  void Expect(WeightPart part, DType type, std::initializer_list<int64_t> shape) const {
    const View& view = Required(part);
    if (view.dtype != type) Fail(part, std::string("must be ") + kDTypeNames[static_cast<int>(type)]);
    ExpectShape(part, shape);
  }
  void ExpectOptional(WeightPart part, DType type, std::initializer_list<int64_t> shape) const {
    if (weight_.Part(part).data) Expect(part, type, shape);
  }
  /// Scales of a float type.
  void ExpectFloats(WeightPart part, std::initializer_list<int64_t> shape) const {
    if (!IsFloat(Required(part).dtype)) Fail(part, "must be f32, f16 or bf16");
    ExpectShape(part, shape);
  }
  void ExpectShape(WeightPart part, std::initializer_list<int64_t> shape) const {
    const View& view = weight_.Part(part);
    bool same = view.rank == static_cast<int>(shape.size());
    int d = 0;
    std::string wanted;
    for (const int64_t size : shape) {
      // Scales and zeros may go on behind the last row: rows of a larger weight share them.
      const bool rest = part == WeightPart::kScales || part == WeightPart::kZeros;
      same = same && (rest ? view.shape[d] >= size : view.shape[d] == size);
      wanted += (d++ ? ", " : "") + std::to_string(size);
    }
    if (!same) Fail(part, "must be [" + wanted + "]");
  }
  void ExpectNone(std::initializer_list<WeightPart> parts) const {
    for (const WeightPart part : parts) {
      if (weight_.Part(part).data) Fail(part, "is no part of this format");
    }
  }
  const View& Required(WeightPart part) const {
    const View& view = weight_.Part(part);
    if (!view.data) Fail(part, "is missing");
    return view;
  }
  [[noreturn]] void Fail(WeightPart part, const std::string& what) const {
    in_.Fail(std::string("weight in ") + kWeightFormatNames[static_cast<int>(weight_.format)] + ": " +
             kWeightPartNames[static_cast<int>(part)] + " " + what);
  }

 private:
  const WordReader& in_;
  const Weight& weight_;
};

void CheckGrouped(const Parts& parts, const Weight& w, int64_t per_word) {
  const int64_t rows = w.outputs + w.first_row, groups = Groups(w.inputs, w.input_group);
  parts.Expect(WeightPart::kCodes, DType::kI32, {w.outputs, Groups(w.inputs, per_word)});
  parts.ExpectFloats(WeightPart::kScales, {Groups(rows, w.row_group), groups});
  parts.ExpectOptional(WeightPart::kZeros, DType::kI32, {Groups(Groups(rows, w.row_group), per_word), groups});
  parts.ExpectOptional(WeightPart::kGroups, DType::kI32, {w.inputs});
  parts.ExpectNone({WeightPart::kGlobal, WeightPart::kTable, WeightPart::kNestedScales, WeightPart::kNestedTable});
}

void CheckBlocks(const Parts& parts, const Weight& w, DType codes, bool zeros) {
  const int64_t rows = Groups(w.outputs + w.first_row, w.row_group), groups = Groups(w.inputs, w.input_group);
  parts.Expect(WeightPart::kCodes, codes, {w.outputs, w.inputs});
  if (parts.Required(WeightPart::kScales).dtype == DType::kE8M0) {
    parts.Expect(WeightPart::kScales, DType::kE8M0, {rows, groups});
  } else {
    parts.ExpectFloats(WeightPart::kScales, {rows, groups});
  }
  if (zeros) parts.ExpectOptional(WeightPart::kZeros, DType::kI8, {rows, groups});
  else parts.ExpectNone({WeightPart::kZeros});
  parts.ExpectNone({WeightPart::kGlobal, WeightPart::kGroups, WeightPart::kTable, WeightPart::kNestedScales, WeightPart::kNestedTable});
}

void CheckFp4(const Parts& parts, const Weight& w) {
  const int64_t rows = w.outputs + w.first_row, groups = Groups(w.inputs, w.input_group);
  parts.Expect(WeightPart::kCodes, DType::kU8, {w.outputs, Groups(w.inputs, 2)});
  if (parts.Required(WeightPart::kScales).dtype == DType::kE4M3) {
    parts.Expect(WeightPart::kScales, DType::kE4M3, {rows, groups});
    parts.Expect(WeightPart::kGlobal, DType::kF32, {1});
  } else {
    parts.Expect(WeightPart::kScales, DType::kE8M0, {rows, groups});
    parts.ExpectNone({WeightPart::kGlobal});
  }
  parts.ExpectNone({WeightPart::kZeros, WeightPart::kGroups, WeightPart::kTable, WeightPart::kNestedScales, WeightPart::kNestedTable});
}

void CheckTable4(const Parts& parts, const Weight& w) {
  const int64_t blocks = Groups((w.outputs + w.first_row) * w.inputs, w.input_group);
  parts.Expect(WeightPart::kCodes, DType::kU8, {Groups(w.outputs * w.inputs, 2)});
  parts.Expect(WeightPart::kTable, DType::kF32, {16});
  if (parts.Required(WeightPart::kScales).dtype == DType::kU8) {
    parts.Expect(WeightPart::kScales, DType::kU8, {blocks});
    parts.Expect(WeightPart::kNestedTable, DType::kF32, {256});
    if (parts.Required(WeightPart::kNestedScales).dtype != DType::kF32) parts.Fail(WeightPart::kNestedScales, "must be f32");
    const View& nested = parts.Required(WeightPart::kNestedScales);
    if (nested.rank != 1 || nested.shape[0] < Groups(blocks, 256)) parts.Fail(WeightPart::kNestedScales, "must be one per 256 scales");
  } else {
    parts.Expect(WeightPart::kScales, DType::kF32, {blocks});
    parts.ExpectNone({WeightPart::kNestedScales, WeightPart::kNestedTable});
  }
  parts.ExpectNone({WeightPart::kZeros, WeightPart::kGlobal, WeightPart::kGroups});
}

void CheckAwq(const Parts& parts, const Weight& w) {
  const int64_t rows = w.outputs + w.first_row, groups = Groups(w.inputs, w.input_group);
  parts.Expect(WeightPart::kCodes, DType::kI32, {w.inputs, Groups(w.outputs, 8)});
  parts.ExpectFloats(WeightPart::kScales, {groups, rows});
  parts.Expect(WeightPart::kZeros, DType::kI32, {groups, Groups(rows, 8)});
  parts.ExpectNone({WeightPart::kGlobal, WeightPart::kGroups, WeightPart::kTable, WeightPart::kNestedScales, WeightPart::kNestedTable});
}

void CheckGptq(const Parts& parts, const Weight& w) {
  const int64_t rows = w.outputs + w.first_row, groups = Groups(w.inputs, w.input_group);
  parts.Expect(WeightPart::kCodes, DType::kI32, {Groups(w.inputs * w.bits, 32), w.outputs});
  parts.ExpectFloats(WeightPart::kScales, {groups, rows});
  parts.Expect(WeightPart::kZeros, DType::kI32, {groups, Groups(rows * w.bits, 32)});
  parts.ExpectOptional(WeightPart::kGroups, DType::kI32, {w.inputs});
  parts.ExpectNone({WeightPart::kGlobal, WeightPart::kTable, WeightPart::kNestedScales, WeightPart::kNestedTable});
}

void CheckE4M3In(const Parts& parts, const Weight& w) {
  parts.Expect(WeightPart::kCodes, DType::kE4M3, {w.inputs, w.outputs});
  parts.ExpectFloats(WeightPart::kScales, {Groups(w.inputs, w.input_group), w.outputs + w.first_row});
  parts.ExpectNone({WeightPart::kZeros, WeightPart::kGlobal, WeightPart::kGroups, WeightPart::kTable, WeightPart::kNestedScales,
                    WeightPart::kNestedTable});
}

void CheckDense(const WordReader& in, const Parts& parts, const Weight& w) {
  const bool input_major = w.format == WeightFormat::kDenseIn;
  const DType type = parts.Required(WeightPart::kCodes).dtype;
  if (!IsFloat(type)) in.Fail("weight must be f32, f16 or bf16");
  in.Check(type == w.type, "a dense weight has the type of its values");
  parts.ExpectShape(WeightPart::kCodes, {input_major ? w.inputs : w.outputs, input_major ? w.outputs : w.inputs});
  parts.ExpectNone({WeightPart::kScales, WeightPart::kZeros, WeightPart::kGlobal, WeightPart::kGroups, WeightPart::kTable,
                    WeightPart::kNestedScales, WeightPart::kNestedTable});
}

void CheckParts(const WordReader& in, const Weight& w) {
  const Parts parts(in, w);
  switch (w.format) {
    case WeightFormat::kDense:
    case WeightFormat::kDenseIn:
      return CheckDense(in, parts, w);
    case WeightFormat::kE4M3:
      return CheckBlocks(parts, w, DType::kE4M3, false);
    case WeightFormat::kInt8:
      return CheckBlocks(parts, w, DType::kI8, true);
    case WeightFormat::kPacked8:
      return CheckGrouped(parts, w, 4);
    case WeightFormat::kPacked4:
      return CheckGrouped(parts, w, 8);
    case WeightFormat::kFp4:
      return CheckFp4(parts, w);
    case WeightFormat::kTable4:
      return CheckTable4(parts, w);
    case WeightFormat::kAwq:
      return CheckAwq(parts, w);
    case WeightFormat::kGptq:
      in.Check(w.bits == 2 || w.bits == 3 || w.bits == 4 || w.bits == 8, "gptq codes have 2, 3, 4 or 8 bits");
      return CheckGptq(parts, w);
    case WeightFormat::kE4M3In:
      return CheckE4M3In(parts, w);
  }
}

}  // namespace

Weight ReadWeight(WordReader& in, const char* name) {
  Weight weight{};
  const uint64_t format = in.Size(name), mask = in.Size(name);
  in.Check(format < std::size(kWeightFormatNames), "unknown format of a weight");
  in.Check(mask < uint64_t{1} << kWeightParts, "unknown part of a weight");
  weight.format = static_cast<WeightFormat>(format);
  weight.outputs = static_cast<int64_t>(in.Size("rows"));
  weight.inputs = static_cast<int64_t>(in.Size("inputs"));
  weight.first_row = static_cast<int64_t>(in.Size("firstRow"));
  weight.row_group = static_cast<int64_t>(in.Size("rowGroup"));
  weight.input_group = static_cast<int64_t>(in.Size("inputGroup"));
  weight.product = ReadFloatType(in, "product");
  weight.type = ReadFloatType(in, "type");
  weight.bits = static_cast<int>(in.Size("bits") & 0xff);
  weight.zero_plus_one = in.Flag();
  weight.global_divides = in.Flag();
  weight.factor = in.Number();
  weight.nested_offset = in.Number();
  // So that products of them stay whole numbers.
  constexpr int64_t kMost = int64_t{1} << 40;
  in.Check(weight.outputs < kMost && weight.inputs < kMost && weight.first_row < kMost, "a weight is too large");
  in.Check(weight.outputs + weight.first_row < kMost && (weight.inputs == 0 || (weight.outputs + weight.first_row) < (int64_t{1} << 50) / weight.inputs),
           "a weight is too large");
  in.Check(weight.row_group > 0 && weight.input_group > 0, "groups hold at least one value");
  for (int part = 0; part < kWeightParts; ++part) {
    if (mask >> part & 1) weight.parts[part] = in.Stored(kWeightPartNames[part]);
  }
  CheckParts(in, weight);
  return weight;
}

ExpertParts ReadExperts(WordReader& in, const Weight& first, int64_t count, const char* name) {
  ExpertParts parts;
  const bool nested = first.Part(WeightPart::kNestedScales).data != nullptr;
  for (int64_t i = 0; i < count; ++i) {
    for (int part = 0; part < kWeightParts; ++part) {
      if (!first.parts[part].data) continue;
      const uint8_t* const at = in.Same(first.parts[part], name);
      if (!at && part != static_cast<int>(WeightPart::kGroups)) in.Fail("an expert lacks its " + std::string(kWeightPartNames[part]));
      parts.places[part].push_back(at);
    }
    if (nested) parts.nested_offsets.push_back(in.Number());
  }
  return parts;
}

ExpertParts PlacesInSlots(const ExpertLinearOp& op) {
  ExpertParts parts;
  const auto* const slots = reinterpret_cast<const int32_t*>(op.slots.data);
  const auto* const places = reinterpret_cast<const int32_t*>(op.places.data);
  int64_t column = 2 * op.first_part;
  for (int part = 0; part < kWeightParts; ++part) {
    if (!op.parts[part]) continue;
    for (int64_t e = 0; e < op.expert_count; ++e) {
      const int64_t begin = places ? places[(1 + e) * op.places.strides[0] + column] : 0;
      if (begin < 0 || (places && begin + places[column + 1] > op.slot_bytes)) {
        throw std::runtime_error("a part of expert " + std::to_string(e) + " lies outside its slot");
      }
      parts.places[part].push_back(op.parts[part][0] + std::max(slots[e], 0) * op.slot_bytes + begin);
    }
    column += 2;
  }
  return parts;
}

DenseLinearOp DenseOf(const LinearOp& op) {
  const View& values = op.weight.Part(WeightPart::kCodes);
  return {op.out, op.x, values, op.bias, op.weight.format == WeightFormat::kDenseIn, op.activation, op.accumulate};
}

DenseExpertLinearOp DenseOf(const ExpertLinearOp& op) {
  const View& values = op.weight.Part(WeightPart::kCodes);
  return {op.out,   op.x,          op.experts,   values, op.parts[static_cast<int>(WeightPart::kCodes)], op.expert_count,
          op.slots, op.slot_count, op.slot_bytes};
}

Weight WeightOf(const ExpertLinearOp& op, int64_t expert) {
  Weight weight = op.weight;
  for (int part = 0; part < kWeightParts; ++part) {
    if (op.parts[part]) weight.parts[part].data = const_cast<uint8_t*>(op.parts[part][expert]);
  }
  if (op.nested_offsets) weight.nested_offset = op.nested_offsets[expert];
  return weight;
}

}  // namespace zi
