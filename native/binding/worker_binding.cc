// NativeHostWorker: the JS handle of one HostWorker.
#include "binding/events.h"
#include "cpu/host_worker.h"

namespace zi {
namespace {

ShareRule ReadRule(const Napi::Value& value) {
  const std::string name = value.ToString();
  if (name == "none") return ShareRule::kNone;
  if (name == "all") return ShareRule::kAll;
  if (name == "balanced") return ShareRule::kBalanced;
  throw Napi::RangeError::New(value.Env(), "no rule of shares is called " + name);
}

double ReadMs(const Napi::Object& rates, const char* name) {
  const double ms = rates.Get(name).ToNumber();
  if (!(ms >= 0 && ms < 1e9)) throw Napi::RangeError::New(rates.Env(), std::string(name) + " must be milliseconds");
  return ms;
}

/// Closes when collected, so that no thread outlives its environment.
class NativeHostWorker : public Napi::ObjectWrap<NativeHostWorker> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeHostWorker",
                       {InstanceAccessor<&NativeHostWorker::Failure>("failure"), InstanceAccessor<&NativeHostWorker::Rates>("rates"),
                        InstanceMethod<&NativeHostWorker::DefineJob>("define"), InstanceMethod<&NativeHostWorker::Forget>("forget"),
                        InstanceMethod<&NativeHostWorker::Begin>("begin"), InstanceMethod<&NativeHostWorker::End>("end"),
                        InstanceMethod<&NativeHostWorker::Share>("share"), InstanceMethod<&NativeHostWorker::Close>("close")});
  }
  /// new NativeHostWorker(name, mailbox)
  explicit NativeHostWorker(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeHostWorker>(info) {
    const std::string name = info[0].ToString();
    auto mail = ReadHostMemory(info[1]);
    Guarded(info.Env(), [&] { worker_ = std::make_unique<HostWorker>(name, std::move(mail)); });
  }

 private:
  Napi::Value Failure(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), worker_->failure()); }
  Napi::Value Rates(const Napi::CallbackInfo& info) {
    const ShareRates rates = worker_->rates();
    auto object = Napi::Object::New(info.Env());
    object.Set("bringMs", rates.bring_ms);
    object.Set("computeMs", rates.compute_ms);
    object.Set("deviceMs", rates.device_ms);
    object.Set("hostMs", rates.host_ms);
    return object;
  }
  Napi::Value DefineJob(const Napi::CallbackInfo& info) {
    const auto words = ReadWords(info[0]);
    return Guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), worker_->Define(words.Data(), words.ElementLength())); });
  }
  void Forget(const Napi::CallbackInfo& info) { worker_->Forget(static_cast<uint32_t>(ReadSize(info[0], "job"))); }
  void Begin(const Napi::CallbackInfo&) { worker_->Begin(); }
  void End(const Napi::CallbackInfo&) { worker_->End(); }
  void Share(const Napi::CallbackInfo& info) {
    const auto rates = info[1].ToObject();
    const ShareRates read{ReadMs(rates, "bringMs"), ReadMs(rates, "computeMs"), ReadMs(rates, "deviceMs"), ReadMs(rates, "hostMs")};
    worker_->Share(ReadRule(info[0]), read);
  }
  void Close(const Napi::CallbackInfo&) { worker_->Close(); }

  std::unique_ptr<HostWorker> worker_;
};

}  // namespace

void InitWorker(Napi::Env env, Napi::Object exports) { exports.Set("NativeHostWorker", NativeHostWorker::Define(env)); }

}  // namespace zi
