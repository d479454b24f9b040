// NativeEvent: the JS handle of an event of any stream.
#pragma once
#include "binding/handles.h"
#include "core/event.h"

namespace zi {

inline constexpr napi_type_tag kEventTag = {0x7a65726f2d696e66, 0x6576656e74000001};

/// What the encoder of operations made. Throws a TypeError for anything else.
inline Napi::Float64Array ReadWords(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    throw Napi::TypeError::New(value.Env(), "an encoded operation is a Float64Array");
  }
  return value.As<Napi::Float64Array>();
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
    if (info[0].ToBoolean()) event_->Urge();
    return Promised(info.Env(), [&](const std::shared_ptr<Completion>& completion) {
      event_->Observe([completion](const std::string& failure) {
        if (failure.empty()) {
          completion->Resolve(nullptr);
        } else {
          completion->Reject([failure](Napi::Env env) { return Napi::Error::New(env, failure).Value(); });
        }
      });
    });
  }

  // An event that JS made itself never settles.
  std::shared_ptr<Event> event_ = std::make_shared<Event>();
};

}  // namespace zi
