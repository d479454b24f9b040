// Facts about this process and machine that Node does not tell, and locks that it does not know.
#include <sys/file.h>

#include <cerrno>

#include "binding/handles.h"
#include "core/clock.h"
#include "core/io_types.h"
#include "core/interrupt.h"
#include "core/threads.h"

namespace zi {
namespace {

Napi::Value NowMsBinding(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), NowMs()); }

/// flock(2) on a file that Node has opened. The kernel gives the lock back when the last descriptor of that opening is
/// closed, however its process ends. False: somebody else holds it.
Napi::Value LockFileBinding(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int descriptor = static_cast<int>(ReadSize(info[0], "descriptor"));
  int result;
  do {
    result = flock(descriptor, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  const int error = result == 0 ? 0 : errno;
  if (error == 0 || error == EWOULDBLOCK) return Napi::Boolean::New(env, error == 0);
  Napi::Error thrown = Napi::Error::New(env, "flock: " + DescribeErrno(error));
  thrown.Set("code", Napi::String::New(env, ErrnoName(error)));
  throw thrown;
}

/// (texts by signal number, patience in ms, exit status)
void WatchSignalsBinding(const Napi::CallbackInfo& info) {
  const Napi::Object texts = info[0].As<Napi::Object>();
  std::vector<EndingSignal> signals;
  for (const auto& [key, value] : texts) {
    signals.push_back({std::stoi(key.As<Napi::String>().Utf8Value()),
                       static_cast<Napi::Value>(value).As<Napi::String>().Utf8Value()});
  }
  Guarded(info.Env(), [&] {
    WatchSignals(signals, info[1].As<Napi::Number>().DoubleValue(), info[2].As<Napi::Number>().Int32Value());
  });
}

Napi::Value StartableThreadsBinding(const Napi::CallbackInfo& info) {
  const auto wanted = static_cast<unsigned>(ReadSize(info[0], "wanted"));
  return Guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), StartableThreads(wanted)); });
}

void SignalToldBinding(const Napi::CallbackInfo&) { SignalTold(); }

}  // namespace

void InitSystem(Napi::Env env, Napi::Object exports) {
  exports.Set("nowMs", Napi::Function::New(env, NowMsBinding));
  exports.Set("startableThreads", Napi::Function::New(env, StartableThreadsBinding));
  exports.Set("lockFile", Napi::Function::New(env, LockFileBinding));
  exports.Set("watchSignals", Napi::Function::New(env, WatchSignalsBinding));
  exports.Set("signalTold", Napi::Function::New(env, SignalToldBinding));
}

}  // namespace zi
