// For tests: faults of the system, injected one by one.
#include "binding/handles.h"
#include "core/faults.h"

namespace zi {
namespace {

FaultPoint ReadFaultPoint(const Napi::Value& value) {
  const std::string name = value.ToString();
  for (size_t i = 0; i < static_cast<size_t>(FaultPoint::kAfterLast); ++i) {
    if (name == FaultPointName(static_cast<FaultPoint>(i))) return static_cast<FaultPoint>(i);
  }
  throw Napi::RangeError::New(value.Env(), "no fault point is named " + name);
}

/// injectFault({point, nth, times, errno})
void InjectFaultBinding(const Napi::CallbackInfo& info) {
  const auto wish = info[0].ToObject();
  const auto size = [&](const char* name, uint64_t otherwise) {
    const Napi::Value value = wish.Get(name);
    return value.IsUndefined() ? otherwise : ReadSize(value, name);
  };
  InjectFault(ReadFaultPoint(wish.Get("point")), size("nth", 0), size("times", 1), static_cast<int>(size("errno", 0)));
}

Napi::Value PassedFaultPointsBinding(const Napi::CallbackInfo& info) {
  const std::vector<uint64_t> passed = PassedFaultPoints();
  auto object = Napi::Object::New(info.Env());
  for (size_t i = 0; i < passed.size(); ++i) {
    object.Set(FaultPointName(static_cast<FaultPoint>(i)), static_cast<double>(passed[i]));
  }
  return object;
}

}  // namespace

void InitFaults(Napi::Env env, Napi::Object exports) {
  exports.Set("injectFault", Napi::Function::New(env, InjectFaultBinding));
  exports.Set("passedFaultPoints", Napi::Function::New(env, PassedFaultPointsBinding));
}

}  // namespace zi
