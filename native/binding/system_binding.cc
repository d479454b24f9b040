// Facts about this process and machine that Node does not tell.
#include "binding/handles.h"
#include "core/clock.h"

namespace zi {
namespace {

Napi::Value NowMsBinding(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), NowMs()); }

}  // namespace

void InitSystem(Napi::Env env, Napi::Object exports) { exports.Set("nowMs", Napi::Function::New(env, NowMsBinding)); }

}  // namespace zi
