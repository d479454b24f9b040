// NativeExchange: the JS handle of one device's end of a group.
#pragma once
#include "binding/handles.h"
#include "core/exchange.h"

namespace zi {

class NativeExchange : public Napi::ObjectWrap<NativeExchange> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeExchange",
                       {InstanceAccessor<&NativeExchange::Id>("id"), InstanceAccessor<&NativeExchange::DeviceBytes>("deviceBytes"),
                        InstanceMethod<&NativeExchange::Close>("close"), InstanceMethod<&NativeExchange::Free>("free")});
  }
  /// An array with a handle of each.
  template <class Exchanges>
  static Napi::Value MakeAll(Napi::Env env, Napi::FunctionReference& constructor, const Exchanges& exchanges) {
    auto array = Napi::Array::New(env, exchanges.size());
    for (uint32_t i = 0; i < exchanges.size(); ++i) {
      Napi::Object object = constructor.New({});
      Unwrap(object)->exchange_ = exchanges[i];
      array.Set(i, object);
    }
    return array;
  }
  using Napi::ObjectWrap<NativeExchange>::ObjectWrap;

 private:
  Napi::Value Id(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), exchange_ ? exchange_->id() : 0); }
  Napi::Value DeviceBytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), exchange_ ? static_cast<double>(exchange_->device_bytes()) : 0);
  }
  void Close(const Napi::CallbackInfo&) {
    if (exchange_) exchange_->Fail("the group of devices was closed");
  }
  void Free(const Napi::CallbackInfo&) { exchange_.reset(); }

  std::shared_ptr<Exchange> exchange_;
};

}  // namespace zi
