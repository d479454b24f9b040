// NativeMemory: the JS handle of one HostMemory.
#include "binding/handles.h"
#include "core/memory.h"
#include "core/numa.h"

namespace zi {
namespace {

class NativeMemory : public Napi::ObjectWrap<NativeMemory> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeMemory",
                       {InstanceAccessor<&NativeMemory::Id>("id"),
                        InstanceAccessor<&NativeMemory::SizeBytes>("sizeBytes"),
                        InstanceMethod<&NativeMemory::View>("view"),
                        InstanceMethod<&NativeMemory::Populate>("populate"),
                        InstanceMethod<&NativeMemory::Soon>("populateSoon"),
                        InstanceMethod<&NativeMemory::Place>("placeOnNodes"),
                        InstanceMethod<&NativeMemory::Free>("free")});
  }

  /// new NativeMemory(sizeBytes, hugePages)
  explicit NativeMemory(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeMemory>(info) {
    const uint64_t size = ReadSize(info[0], "sizeBytes");
    try {
      memory_ = AllocateHost(size, info[1].ToBoolean());
    } catch (const std::bad_alloc&) {
      throw Napi::Error::New(info.Env(), "the system refused to map " + std::to_string(size) + " bytes");
    }
  }

 private:
  HostMemory& Live(Napi::Env env) {
    if (!memory_) throw Napi::Error::New(env, "memory used after free()");
    return *memory_;
  }
  Napi::Value Id(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), Live(info.Env()).id()); }
  Napi::Value SizeBytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(Live(info.Env()).size()));
  }

  /// view(offset, size) → ArrayBuffer over the memory; the buffer keeps it mapped.
  Napi::Value View(const Napi::CallbackInfo& info) {
    HostMemory& memory = Live(info.Env());
    const uint64_t offset = ReadSize(info[0], "offsetBytes");
    const uint64_t size = ReadSize(info[1], "sizeBytes");
    if (offset > memory.size() || size > memory.size() - offset) {
      throw Napi::RangeError::New(info.Env(), "view reaches beyond the memory");
    }
    // Each view is a distinct external buffer; V8 allows only one per address, so callers keep the view they made.
    auto* owner = Guarded(info.Env(), [&] { return new std::shared_ptr<HostMemory>(memory_); });
    return Napi::ArrayBuffer::New(
        info.Env(), memory.data() + offset, size,
        [](Napi::Env, void*, std::shared_ptr<HostMemory>* held) { delete held; }, owner);
  }

  void Populate(const Napi::CallbackInfo& info) {
    HostMemory& memory = Live(info.Env());
    Guarded(info.Env(), [&] { memory.Populate(info[0].As<Napi::Number>().Uint32Value()); });
  }
  void Soon(const Napi::CallbackInfo& info) {
    Live(info.Env());
    Guarded(info.Env(), [&] { PopulateSoon(memory_); });
  }
  Napi::Value Place(const Napi::CallbackInfo& info) {
    HostMemory& memory = Live(info.Env());
    const std::vector<int> nodes = ReadNumbers(info[0], "a node");
    return Napi::String::New(info.Env(), Guarded(info.Env(), [&] { return PlaceOnNodes(memory.data(), memory.size(), nodes); }));
  }
  void Free(const Napi::CallbackInfo&) { memory_.reset(); }

  std::shared_ptr<HostMemory> memory_;
};

}  // namespace

std::shared_ptr<HostMemory> ReadHostMemory(const Napi::Value& id) {
  auto memory = FindHostMemory(static_cast<uint32_t>(ReadSize(id, "memory id")));
  if (!memory) throw Napi::TypeError::New(id.Env(), "no host memory with this id");
  return memory;
}

void InitMemory(Napi::Env env, Napi::Object exports) { exports.Set("NativeMemory", NativeMemory::Define(env)); }

}  // namespace zi
