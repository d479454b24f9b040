// NativeStream, and the setup of the CPU that streams compute with.
#include "binding/events.h"
#include "binding/exchange.h"
#include "core/numa.h"
#include "core/stream.h"
#include "cpu/dispatch.h"
#include "cpu/host_exchange.h"
#include "cpu/isa.h"
#include "cpu/measure.h"
#include "ops/decode.h"

namespace zi {
namespace {

/// The classes of one environment, for the functions that make instances.
struct StreamClasses {
  Napi::FunctionReference stream, event, exchange;
};

/// Closes when collected, so that no thread outlives its environment.
class NativeStream : public Napi::ObjectWrap<NativeStream> {
 public:
  static Napi::Function Define(Napi::Env env, StreamClasses* classes) {
    return DefineClass(env, "NativeStream",
                       {InstanceMethod<&NativeStream::Launch>("launch"),
                        InstanceMethod<&NativeStream::LaunchAll>("launchAll"),
                        InstanceMethod<&NativeStream::Record>("record", napi_default, classes),
                        InstanceMethod<&NativeStream::Wait>("wait"), InstanceMethod<&NativeStream::Close>("close")});
  }
  explicit NativeStream(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeStream>(info) {
    const std::string name = info[0].ToString();
    stream_ = Guarded(info.Env(), [&] { return std::make_unique<Stream>(name); });
  }

  Stream& stream() { return *stream_; }

 private:
  void Launch(const Napi::CallbackInfo& info) {
    const auto words = ReadWords(info[0]);
    Guarded(info.Env(), [&] { stream_->Launch(WorkFor(words.Data(), words.ElementLength())); });
  }
  void LaunchAll(const Napi::CallbackInfo& info) {
    const auto words = ReadWords(info[0]);
    Guarded(info.Env(), [&] { stream_->Launch(WorkForAll(words.Data(), words.ElementLength())); });
  }
  Napi::Value Record(const Napi::CallbackInfo& info) {
    auto event = Guarded(info.Env(), [&] { return stream_->Record(); });
    return NativeEvent::Make(static_cast<StreamClasses*>(info.Data())->event, std::move(event));
  }
  void Wait(const Napi::CallbackInfo& info) {
    auto event = NativeEvent::Read(info[0]);
    Guarded(info.Env(), [&] { stream_->Wait(std::move(event)); });
  }
  void Close(const Napi::CallbackInfo&) { stream_->Close(); }

  std::unique_ptr<Stream> stream_;
};

Napi::Value CreateStream(const Napi::CallbackInfo& info) {
  return static_cast<StreamClasses*>(info.Data())->stream.New({info[0]});
}

/// openHostExchange(streams, sizeBytes): a group in which a stream that fails or is closed fails all.
Napi::Value OpenHostExchangeBinding(const Napi::CallbackInfo& info) {
  auto* classes = static_cast<StreamClasses*>(info.Data());
  std::vector<Stream*> streams;
  const auto array = info[0].As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value stream = array.Get(i);
    if (!stream.IsObject() || !stream.As<Napi::Object>().InstanceOf(classes->stream.Value())) {
      throw Napi::TypeError::New(info.Env(), "not a stream of the processor");
    }
    streams.push_back(&NativeStream::Unwrap(stream.As<Napi::Object>())->stream());
  }
  const size_t room = ReadSize(info[1], "sizeBytes");
  const auto exchanges = Guarded(info.Env(), [&] { return OpenHostExchange(static_cast<int>(streams.size()), room); });
  for (size_t i = 0; i < streams.size(); ++i) {
    streams[i]->Tell([exchange = std::weak_ptr<HostExchange>(exchanges[i])](const std::string& reason) {
      if (const auto live = exchange.lock()) live->Fail(reason);
    });
  }
  return NativeExchange::MakeAll(info.Env(), classes->exchange, exchanges);
}

Napi::Value ArrayOf(Napi::Env env, const std::vector<std::string>& texts) {
  auto array = Napi::Array::New(env, texts.size());
  for (uint32_t i = 0; i < texts.size(); ++i) array.Set(i, texts[i]);
  return array;
}

Napi::Value OperationTableBinding(const Napi::CallbackInfo& info) { return ArrayOf(info.Env(), OperationTable()); }

Napi::Value InstructionSetsBinding(const Napi::CallbackInfo& info) { return ArrayOf(info.Env(), InstructionSets()); }

Napi::Value ConfigureCpuBinding(const Napi::CallbackInfo& info) {
  const auto options = info[0].ToObject();
  const auto isa = options.Get("isa");
  const auto threads = static_cast<unsigned>(ReadSize(options.Get("threads"), "threads"));
  const std::string chosen = isa.IsString() ? isa.As<Napi::String>().Utf8Value() : "";
  std::vector<std::vector<int>> nodes;
  const auto lists = options.Get("processorsByNode");
  for (uint32_t i = 0; lists.IsArray() && i < lists.As<Napi::Array>().Length(); ++i) {
    nodes.push_back(ReadNumbers(lists.As<Napi::Array>().Get(i), "a processor"));
  }
  SetNodes(std::move(nodes));
  return Napi::String::New(info.Env(), Guarded(info.Env(), [&] { return ConfigureCpu(threads, chosen); }));
}

Napi::Value MeasureReadBinding(const Napi::CallbackInfo& info) {
  const auto size = ReadSize(info[0], "bytes"), threads = ReadSize(info[1], "threads");
  return Guarded(info.Env(), [&] {
    return Napi::Number::New(info.Env(), MeasureReadBandwidth(size, static_cast<unsigned>(threads)));
  });
}

/// Beside the event loop, which has other things to do meanwhile.
Napi::Value MeasureReadBesideBinding(const Napi::CallbackInfo& info) {
  const auto size = ReadSize(info[0], "bytes");
  const auto threads = static_cast<unsigned>(ReadSize(info[1], "threads"));
  const double ms = info[2].ToNumber();
  return PromisedAside(info.Env(), "zi:measure", [=]() -> MakeValue {
    const double rate = MeasureReadBandwidthFor(ms, size, threads);
    return [rate](Napi::Env env) { return Napi::Number::New(env, rate); };
  });
}

Napi::Value MeasureFlopsBinding(const Napi::CallbackInfo& info) {
  const auto threads = static_cast<unsigned>(ReadSize(info[0], "threads"));
  return Guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), MeasureFlops(threads)); });
}

}  // namespace

void InitStream(Napi::Env env, Napi::Object exports) {
  auto* classes = new StreamClasses();
  classes->event = Napi::Persistent(NativeEvent::Define(env));
  classes->stream = Napi::Persistent(NativeStream::Define(env, classes));
  classes->exchange = Napi::Persistent(NativeExchange::Define(env));
  env.AddCleanupHook([classes] { delete classes; });
  exports.Set("openHostExchange", Napi::Function::New(env, OpenHostExchangeBinding, "openHostExchange", classes));
  exports.Set("createStream", Napi::Function::New(env, CreateStream, "createStream", classes));
  exports.Set("operationTable", Napi::Function::New(env, OperationTableBinding));
  exports.Set("instructionSets", Napi::Function::New(env, InstructionSetsBinding));
  exports.Set("configureCpu", Napi::Function::New(env, ConfigureCpuBinding));
  exports.Set("measureReadBandwidth", Napi::Function::New(env, MeasureReadBinding));
  exports.Set("measureReadBandwidthBeside", Napi::Function::New(env, MeasureReadBesideBinding));
  exports.Set("measureFlops", Napi::Function::New(env, MeasureFlopsBinding));
}

}  // namespace zi
