// The GPU part's surface: what is there, device memory, page-locking of host memory, and streams.
#include "binding/events.h"
#include "binding/exchange.h"
#include "core/memory.h"
#include "cuda/api.h"

namespace zi {
namespace {

int ReadDevice(const Napi::Value& value) { return static_cast<int>(ReadSize(value, "device")); }

class NativeDeviceMemory : public Napi::ObjectWrap<NativeDeviceMemory> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeDeviceMemory",
                       {InstanceAccessor<&NativeDeviceMemory::Id>("id"),
                        InstanceAccessor<&NativeDeviceMemory::SizeBytes>("sizeBytes"),
                        InstanceMethod<&NativeDeviceMemory::Free>("free")});
  }
  /// new NativeDeviceMemory(device, sizeBytes)
  explicit NativeDeviceMemory(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeDeviceMemory>(info) {
    const int device = ReadDevice(info[0]);
    const uint64_t size = ReadSize(info[1], "sizeBytes");
    Guarded(info.Env(), [&] {
      try {
        memory_ = cuda::Allocate(device, size);
      } catch (const std::bad_alloc&) {
        throw std::runtime_error("the device has less than that free");
      }
    });
  }

 private:
  Memory& Live(Napi::Env env) {
    if (!memory_) throw Napi::Error::New(env, "memory used after free()");
    return *memory_;
  }
  Napi::Value Id(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), Live(info.Env()).id()); }
  Napi::Value SizeBytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(Live(info.Env()).size()));
  }
  void Free(const Napi::CallbackInfo&) { memory_.reset(); }

  std::shared_ptr<Memory> memory_;
};

/// The classes of one environment, for the functions that make instances.
struct CudaClasses {
  Napi::FunctionReference stream, event, memory, gatherer, exchange;
};

std::vector<int> ReadDevices(const Napi::Value& value) {
  std::vector<int> devices;
  const auto array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) devices.push_back(ReadDevice(array.Get(i)));
  return devices;
}

class NativeCudaStream : public Napi::ObjectWrap<NativeCudaStream> {
 public:
  static Napi::Function Define(Napi::Env env, CudaClasses* classes) {
    return DefineClass(env, "NativeCudaStream",
                       {InstanceMethod<&NativeCudaStream::Launch>("launch"),
                        InstanceMethod<&NativeCudaStream::LaunchAll>("launchAll"),
                        InstanceMethod<&NativeCudaStream::Record>("record", napi_default, classes),
                        InstanceMethod<&NativeCudaStream::Wait>("wait"),
                        InstanceMethod<&NativeCudaStream::Close>("close")});
  }
  /// new NativeCudaStream(device, name, computes)
  explicit NativeCudaStream(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeCudaStream>(info) {
    const int device = ReadDevice(info[0]);
    const std::string name = info[1].ToString();
    const bool computes = info[2].ToBoolean();
    Guarded(info.Env(), [&] { queue_ = cuda::OpenQueue(device, name, computes); });
  }
  const std::shared_ptr<cuda::Queue>& queue() const { return queue_; }

 private:
  void Launch(const Napi::CallbackInfo& info) {
    const auto words = ReadWords(info[0]);
    Guarded(info.Env(), [&] { queue_->Launch(words.Data(), words.ElementLength()); });
  }
  void LaunchAll(const Napi::CallbackInfo& info) {
    const auto words = ReadWords(info[0]);
    const uint64_t kept = info[1].IsNumber() ? ReadSize(info[1], "kept") : 0;
    Guarded(info.Env(), [&] { queue_->LaunchAll(words.Data(), words.ElementLength(), kept); });
  }
  Napi::Value Record(const Napi::CallbackInfo& info) {
    auto event = Guarded(info.Env(), [&] { return queue_->Record(); });
    return NativeEvent::Make(static_cast<CudaClasses*>(info.Data())->event, std::move(event));
  }
  void Wait(const Napi::CallbackInfo& info) {
    auto event = NativeEvent::Read(info[0]);
    Guarded(info.Env(), [&] { queue_->Wait(event); });
  }
  Napi::Value Close(const Napi::CallbackInfo& info) {
    return Promised(info.Env(), [&](const std::shared_ptr<Completion>& completion) {
      queue_->Close([completion] { completion->Resolve(nullptr); });
    });
  }

  std::shared_ptr<cuda::Queue> queue_;
};

class NativeGatherer : public Napi::ObjectWrap<NativeGatherer> {
 public:
  static Napi::Function Define(Napi::Env env, CudaClasses* classes) {
    return DefineClass(env, "NativeGatherer",
                       {InstanceAccessor<&NativeGatherer::DeviceBytes>("deviceBytes"),
                        InstanceMethod<&NativeGatherer::Gather>("gather", napi_default, classes),
                        InstanceMethod<&NativeGatherer::Close>("close")});
  }
  /// new NativeGatherer(devices)
  explicit NativeGatherer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeGatherer>(info) {
    const auto devices = ReadDevices(info[0]);
    Guarded(info.Env(), [&] { gatherer_ = cuda::OpenGatherer(devices); });
  }

 private:
  Napi::Value DeviceBytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(gatherer_->device_bytes()));
  }
  /// gather(streams, memoryIds, shardBytes)
  void Gather(const Napi::CallbackInfo& info) {
    const auto& stream_class = static_cast<CudaClasses*>(info.Data())->stream;
    const auto streams = info[0].As<Napi::Array>(), ids = info[1].As<Napi::Array>();
    std::vector<std::shared_ptr<cuda::Queue>> queues;
    std::vector<std::shared_ptr<Memory>> memories;
    for (uint32_t i = 0; i < streams.Length(); ++i) {
      const Napi::Value stream = streams.Get(i);
      if (!stream.IsObject() || !stream.As<Napi::Object>().InstanceOf(stream_class.Value())) {
        throw Napi::TypeError::New(info.Env(), "not a stream of a GPU");
      }
      queues.push_back(NativeCudaStream::Unwrap(stream.As<Napi::Object>())->queue());
    }
    for (uint32_t i = 0; i < ids.Length(); ++i) {
      auto memory = FindMemory(static_cast<uint32_t>(ReadSize(ids.Get(i), "memory id")));
      if (!memory) throw Napi::TypeError::New(info.Env(), "no memory with this id");
      memories.push_back(std::move(memory));
    }
    const size_t shard = ReadSize(info[2], "shardBytes");
    Guarded(info.Env(), [&] { gatherer_->Gather(queues, memories, shard); });
  }
  /// On a thread of its own: NCCL may take its time.
  Napi::Value Close(const Napi::CallbackInfo& info) {
    return PromisedAside(info.Env(), "zi:nccl close", [gatherer = gatherer_]() -> MakeValue {
      gatherer->Close();
      return nullptr;
    });
  }

  std::shared_ptr<cuda::Gatherer> gatherer_;
};

/// openCudaExchange(devices, sizeBytes, throughHost)
Napi::Value OpenExchangeBinding(const Napi::CallbackInfo& info) {
  const auto devices = ReadDevices(info[0]);
  const size_t room = ReadSize(info[1], "sizeBytes");
  const bool through_host = info[2].ToBoolean();
  const auto exchanges = Guarded(info.Env(), [&] { return cuda::OpenExchange(devices, room, through_host); });
  return NativeExchange::MakeAll(info.Env(), static_cast<CudaClasses*>(info.Data())->exchange, exchanges);
}

Napi::Value PeerAccessBinding(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto devices = ReadDevices(info[0]);
  const auto access = Guarded(env, [&] { return cuda::PeerAccess(devices); });
  auto rows = Napi::Array::New(env, access.size());
  for (uint32_t i = 0; i < access.size(); ++i) {
    auto row = Napi::Array::New(env, access[i].size());
    for (uint32_t j = 0; j < access[i].size(); ++j) row.Set(j, Napi::Boolean::New(env, access[i][j]));
    rows.Set(i, row);
  }
  return rows;
}

Napi::Value StatusBinding(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const cuda::Status status = cuda::Probe();
  auto devices = Napi::Array::New(env, status.devices.size());
  for (uint32_t i = 0; i < status.devices.size(); ++i) {
    const auto& from = status.devices[i];
    auto to = Napi::Object::New(env);
    to.Set("name", from.name);
    to.Set("busId", from.bus_id);
    to.Set("totalBytes", static_cast<double>(from.total_bytes));
    to.Set("freeBytes", static_cast<double>(from.free_bytes));
    to.Set("computeCapability", std::to_string(from.major) + "." + std::to_string(from.minor));
    to.Set("multiprocessors", from.multiprocessors);
    devices.Set(i, to);
  }
  auto result = Napi::Object::New(env);
  result.Set("problem", status.problem);
  result.Set("present", status.present);
  result.Set("products", status.products);
  result.Set("devices", devices);
  return result;
}

/// Drivers take a third of a second to start, and longer beside other work, which this can hide. Resolves with nothing.
Napi::Value WarmBinding(const Napi::CallbackInfo& info) {
  return Promised(info.Env(), [&](const std::shared_ptr<Completion>& completion) {
    std::shared_ptr<std::thread> thread;
    try {
      thread = std::make_shared<std::thread>(StartThread("zi:cuda start", [completion] {
        cuda::Probe();
        completion->Resolve(nullptr);
      }));
    } catch (const CodedError&) {
      // Then whoever asks first waits for the driver.
      return completion->Resolve(nullptr);
    }
    info.Env().AddCleanupHook([thread] { thread->join(); });
  });
}

Napi::Value FreeBytesBinding(const Napi::CallbackInfo& info) {
  const int device = ReadDevice(info[0]);
  return Guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), static_cast<double>(cuda::FreeBytes(device))); });
}

Napi::Object ToObject(Napi::Env env, const cuda::ScratchBytes& bytes) {
  using Use = cuda::ScratchUse;
  auto object = Napi::Object::New(env);
  const std::pair<const char*, Use> uses[] = {{"inputs", Use::kInputs},   {"rests", Use::kRests},
                                              {"sums", Use::kSums},       {"bias", Use::kBias},
                                              {"choices", Use::kChoices}, {"weights", Use::kWeights},
                                              {"partials", Use::kPartials}};
  for (const auto& [name, use] : uses) object.Set(name, static_cast<double>(bytes[use]));
  object.Set("products", static_cast<double>(cuda::kProductsWorkspaceBytes));
  return object;
}

/// cudaScratchBytes(operations, reach?): what they take as they are, or, where they are those of one token, within reach.
Napi::Value ScratchBytesBinding(const Napi::CallbackInfo& info) {
  const auto words = ReadWords(info[0]);
  return Guarded(info.Env(), [&] {
    const bool most = info[1].IsObject();
    int64_t rows = 0, context_tokens = 0;
    if (most) {
      const auto reach = info[1].As<Napi::Object>();
      rows = static_cast<int64_t>(ReadSize(reach.Get("rows"), "rows"));
      context_tokens = static_cast<int64_t>(ReadSize(reach.Get("contextTokens"), "contextTokens"));
    }
    cuda::ScratchBytes bytes;
    for (const Decoded& decoded : DecodeOperations(words.Data(), words.ElementLength(), kNoPlace)) {
      bytes.TakeIn(most ? cuda::MostScratchOf(decoded.op, rows, context_tokens) : cuda::ScratchOf(decoded.op));
    }
    return ToObject(info.Env(), bytes);
  });
}

void PinBinding(const Napi::CallbackInfo& info) {
  const auto memory = ReadHostMemory(info[0]);
  Guarded(info.Env(), [&] { cuda::Pin(memory); });
}

/// On a thread of its own: it takes tens of milliseconds per gigabyte.
Napi::Value PinSoonBinding(const Napi::CallbackInfo& info) {
  const auto memory = ReadHostMemory(info[0]);
  return PromisedAside(info.Env(), "zi:pin", [memory]() -> MakeValue {
    cuda::Pin(memory);
    return nullptr;
  });
}

}  // namespace

void InitCuda(Napi::Env env, Napi::Object exports) {
  auto* classes = new CudaClasses();
  classes->event = Napi::Persistent(NativeEvent::Define(env));
  classes->stream = Napi::Persistent(NativeCudaStream::Define(env, classes));
  classes->memory = Napi::Persistent(NativeDeviceMemory::Define(env));
  classes->gatherer = Napi::Persistent(NativeGatherer::Define(env, classes));
  classes->exchange = Napi::Persistent(NativeExchange::Define(env));
  env.AddCleanupHook([classes] { delete classes; });
  exports.Set("openCudaExchange", Napi::Function::New(env, OpenExchangeBinding, "openCudaExchange", classes));
  exports.Set("NativeGatherer", classes->gatherer.Value());
  exports.Set("ncclProblem", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Napi::String::New(info.Env(), cuda::GathererProblem());
              }));
  exports.Set("cudaPeerAccess", Napi::Function::New(env, PeerAccessBinding));
  exports.Set("NativeCudaStream", classes->stream.Value());
  exports.Set("NativeDeviceMemory", classes->memory.Value());
  exports.Set("cudaStatus", Napi::Function::New(env, StatusBinding));
  exports.Set("warmCuda", Napi::Function::New(env, WarmBinding));
  exports.Set("cudaScratchBytes", Napi::Function::New(env, ScratchBytesBinding));
  exports.Set("cudaFreeBytes", Napi::Function::New(env, FreeBytesBinding));
  exports.Set("pinMemory", Napi::Function::New(env, PinBinding));
  exports.Set("pinMemorySoon", Napi::Function::New(env, PinSoonBinding));
}

}  // namespace zi
