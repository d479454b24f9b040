// quantise(): rows of a matrix in host memory to codes and scales in host memory, on the pool, beside the event loop.
#include "binding/handles.h"
#include "core/memory.h"
#include "core/threads.h"
#include "cpu/isa.h"
#include "cpu/quantise.h"

namespace zi {
namespace {

/// A job and the memories that it must not outlive.
struct Held {
  QuantiseJob job;
  std::shared_ptr<HostMemory> values, codes, scales;
};

template <class Enum, size_t kCount>
Enum ReadName(const Napi::Object& wish, const char* field, const char* const (&names)[kCount], const Enum (&values)[kCount]) {
  const std::string name = wish.Get(field).ToString();
  for (size_t i = 0; i < kCount; ++i) {
    if (name == names[i]) return values[i];
  }
  throw Napi::RangeError::New(wish.Env(), std::string(field) + " cannot be " + name);
}

constexpr const char* kFloatNames[] = {"f32", "f16", "bf16"};
constexpr DType kFloats[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr const char* kToNames[] = {"int4", "int8", "e4m3"};
constexpr QuantiseTo kTos[] = {QuantiseTo::kInt4, QuantiseTo::kInt8, QuantiseTo::kE4M3};

struct Place {
  std::shared_ptr<HostMemory> memory;
  uint8_t* data;
};

/// {memory, offsetBytes} under `field`. Throws where `size` bytes from there are not in a live memory.
Place ReadPlace(const Napi::Object& wish, const char* field, uint64_t size) {
  const Napi::Value value = wish.Get(field);
  if (!value.IsObject()) throw Napi::TypeError::New(wish.Env(), std::string(field) + " must be a place in memory");
  const auto place = value.As<Napi::Object>();
  const auto memory = FindHostMemory(static_cast<uint32_t>(ReadSize(place.Get("memory"), "memory id")));
  const uint64_t offset = ReadSize(place.Get("offsetBytes"), "offsetBytes");
  if (!memory || offset > memory->size() || size > memory->size() - offset) {
    throw Napi::RangeError::New(wish.Env(), std::string(field) + " reaches beyond its memory");
  }
  return {memory, memory->data() + offset};
}

Held ReadJob(const Napi::Value& value) {
  if (!value.IsObject()) throw Napi::TypeError::New(value.Env(), "quantise needs a job");
  const auto wish = value.As<Napi::Object>();
  Held held{};
  QuantiseJob& job = held.job;
  job.dtype = ReadName(wish, "dtype", kFloatNames, kFloats);
  job.scale_dtype = ReadName(wish, "scaleDtype", kFloatNames, kFloats);
  job.to = ReadName(wish, "to", kToNames, kTos);
  constexpr uint64_t kMost = uint64_t{1} << 40;
  const uint64_t rows = ReadSize(wish.Get("rows"), "rows"), inputs = ReadSize(wish.Get("inputs"), "inputs");
  const uint64_t group = ReadSize(wish.Get("group"), "group");
  if (rows == 0 || inputs == 0 || group == 0 || rows > kMost / inputs || group > inputs) {
    throw Napi::RangeError::New(wish.Env(), "a job has rows, inputs, and groups of at most all inputs");
  }
  job.rows = static_cast<int64_t>(rows);
  job.inputs = static_cast<int64_t>(inputs);
  job.group = static_cast<int64_t>(group);
  job.code_stride = CodeStride(job.to, job.inputs);
  const uint64_t groups = (inputs + group - 1) / group;
  const Place values = ReadPlace(wish, "values", rows * inputs * static_cast<uint64_t>(ElementBytes(job.dtype)));
  const Place codes = ReadPlace(wish, "codes", rows * static_cast<uint64_t>(job.code_stride));
  const Place scales = ReadPlace(wish, "scales", rows * groups * static_cast<uint64_t>(ElementBytes(job.scale_dtype)));
  job.values = values.data;
  job.codes = codes.data;
  job.scales = scales.data;
  held.values = values.memory;
  held.codes = codes.memory;
  held.scales = scales.memory;
  return held;
}

Napi::Value LossOf(Napi::Env env, const QuantiseLoss& loss) {
  auto object = Napi::Object::New(env);
  object.Set("squares", loss.squares);
  object.Set("lostSquares", loss.lost_squares);
  object.Set("largestLoss", static_cast<double>(loss.largest));
  object.Set("notFinite", static_cast<double>(loss.not_finite));
  return object;
}

Napi::Value QuantiseBinding(const Napi::CallbackInfo& info) {
  const Held held = ReadJob(info[0]);
  const CpuSetup cpu = Guarded(info.Env(), CurrentCpu);
  return Promised(info.Env(), [&](const std::shared_ptr<Completion>& completion) {
    StartDetached("zi-quantise", [held, cpu, completion] {
      try {
        const QuantiseLoss loss = Quantise(held.job, *cpu.kernels, *cpu.pool);
        completion->Resolve([loss](Napi::Env env) { return LossOf(env, loss); });
      } catch (const std::exception& error) {
        const std::string sentence = error.what();
        completion->Reject([sentence](Napi::Env env) { return OperatingError(env, kNoMemory, sentence).Value(); });
      }
    });
  });
}

}  // namespace

void InitQuantise(Napi::Env env, Napi::Object exports) {
  exports.Set("quantise", Napi::Function::New(env, QuantiseBinding));
}

}  // namespace zi
