// NativeStream and NativeEvent, and the setup of the CPU that streams compute with.
#include <stdexcept>

#include "binding/handles.h"
#include "core/stream.h"
#include "cpu/decode.h"
#include "cpu/isa.h"
#include "cpu/measure.h"

namespace zi {
namespace {

constexpr napi_type_tag kEventTag = {0x7a65726f2d696e66, 0x6576656e74000001};

/// Calls `f`; what core throws becomes a JS error.
template <class F>
auto Guarded(Napi::Env env, F f) {
  try {
    return f();
  } catch (const std::invalid_argument& error) {
    throw Napi::RangeError::New(env, error.what());
  } catch (const std::exception& error) {
    throw Napi::Error::New(env, error.what());
  }
}

class NativeEvent : public Napi::ObjectWrap<NativeEvent> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeEvent",
                       {InstanceAccessor<&NativeEvent::Done>("done"), InstanceAccessor<&NativeEvent::TimeMs>("timeMs"),
                        InstanceMethod<&NativeEvent::Promise>("promise")});
  }
  static Napi::Object Make(Napi::FunctionReference& constructor, std::shared_ptr<Event> event) {
    Napi::Object object = constructor.New({});
    object.TypeTag(&kEventTag);
    Unwrap(object)->event_ = std::move(event);
    return object;
  }
  static std::shared_ptr<Event> Read(const Napi::Value& value) {
    if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kEventTag)) {
      throw Napi::TypeError::New(value.Env(), "not an event of a stream");
    }
    return Unwrap(value.As<Napi::Object>())->event_;
  }
  using Napi::ObjectWrap<NativeEvent>::ObjectWrap;

 private:
  Napi::Value Done(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), event_->state() == Event::State::kReached);
  }
  Napi::Value TimeMs(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), event_->time_ms()); }
  Napi::Value Promise(const Napi::CallbackInfo& info) {
    PendingPromise pending = NewPromise(info.Env());
    event_->Observe([completion = pending.completion](const std::string& failure) {
      if (failure.empty()) {
        completion->Resolve(nullptr);
      } else {
        completion->Reject([failure](Napi::Env env) { return Napi::Error::New(env, failure).Value(); });
      }
    });
    return pending.promise;
  }

  // An event that JS made itself never settles.
  std::shared_ptr<Event> event_ = std::make_shared<Event>();
};

/// The classes of one environment, for the functions that make instances.
struct StreamClasses {
  Napi::FunctionReference stream, event;
};

/// Closes when collected, so that no thread outlives its environment.
class NativeStream : public Napi::ObjectWrap<NativeStream> {
 public:
  static Napi::Function Define(Napi::Env env, StreamClasses* classes) {
    return DefineClass(env, "NativeStream",
                       {InstanceMethod<&NativeStream::Launch>("launch"),
                        InstanceMethod<&NativeStream::Record>("record", napi_default, classes),
                        InstanceMethod<&NativeStream::Wait>("wait"), InstanceMethod<&NativeStream::Close>("close")});
  }
  explicit NativeStream(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<NativeStream>(info), stream_(info[0].ToString().Utf8Value()) {}

 private:
  void Launch(const Napi::CallbackInfo& info) {
    if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
      throw Napi::TypeError::New(info.Env(), "an encoded operation is a Float64Array");
    }
    const auto words = info[0].As<Napi::Float64Array>();
    Guarded(info.Env(), [&] { stream_.Launch(DecodeOperation(words.Data(), words.ElementLength())); });
  }
  Napi::Value Record(const Napi::CallbackInfo& info) {
    auto event = Guarded(info.Env(), [&] { return stream_.Record(); });
    return NativeEvent::Make(static_cast<StreamClasses*>(info.Data())->event, std::move(event));
  }
  void Wait(const Napi::CallbackInfo& info) {
    auto event = NativeEvent::Read(info[0]);
    Guarded(info.Env(), [&] { stream_.Wait(std::move(event)); });
  }
  void Close(const Napi::CallbackInfo&) { stream_.Close(); }

  Stream stream_;
};

Napi::Value CreateStream(const Napi::CallbackInfo& info) {
  return static_cast<StreamClasses*>(info.Data())->stream.New({info[0]});
}

Napi::Value InstructionSetsBinding(const Napi::CallbackInfo& info) {
  const auto sets = InstructionSets();
  auto array = Napi::Array::New(info.Env(), sets.size());
  for (uint32_t i = 0; i < sets.size(); ++i) array.Set(i, sets[i]);
  return array;
}

void ConfigureCpuBinding(const Napi::CallbackInfo& info) {
  const auto options = info[0].ToObject();
  const auto isa = options.Get("isa");
  const auto threads = static_cast<unsigned>(ReadSize(options.Get("threads"), "threads"));
  Guarded(info.Env(), [&] { ConfigureCpu(threads, isa.IsString() ? isa.As<Napi::String>().Utf8Value() : ""); });
}

Napi::Value MeasureReadBinding(const Napi::CallbackInfo& info) {
  const auto size = ReadSize(info[0], "bytes"), threads = ReadSize(info[1], "threads");
  return Napi::Number::New(info.Env(), MeasureReadBandwidth(size, static_cast<unsigned>(threads)));
}

Napi::Value MeasureFlopsBinding(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), MeasureFlops(static_cast<unsigned>(ReadSize(info[0], "threads"))));
}

}  // namespace

void InitStream(Napi::Env env, Napi::Object exports) {
  auto* classes = new StreamClasses();
  classes->event = Napi::Persistent(NativeEvent::Define(env));
  classes->stream = Napi::Persistent(NativeStream::Define(env, classes));
  env.AddCleanupHook([classes] { delete classes; });
  exports.Set("createStream", Napi::Function::New(env, CreateStream, "createStream", classes));
  exports.Set("instructionSets", Napi::Function::New(env, InstructionSetsBinding));
  exports.Set("configureCpu", Napi::Function::New(env, ConfigureCpuBinding));
  exports.Set("measureReadBandwidth", Napi::Function::New(env, MeasureReadBinding));
  exports.Set("measureFlops", Napi::Function::New(env, MeasureFlopsBinding));
}

}  // namespace zi
