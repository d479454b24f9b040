// The only header that includes napi.h: what each binding file registers, and what they share.
#pragma once
#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/coded_error.h"
#include "core/memory.h"
#include "core/threads.h"

namespace zi {

void InitAsync(Napi::Env env, Napi::Object exports);
void InitSystem(Napi::Env env, Napi::Object exports);
void InitMemory(Napi::Env env, Napi::Object exports);
void InitIo(Napi::Env env, Napi::Object exports);
void InitStream(Napi::Env env, Napi::Object exports);
void InitWorker(Napi::Env env, Napi::Object exports);
void InitQuantise(Napi::Env env, Napi::Object exports);
void InitCuda(Napi::Env env, Napi::Object exports);
void InitFaults(Napi::Env env, Napi::Object exports);

/// Makes the value a promise resolves with; runs on the JS thread.
using MakeValue = std::function<Napi::Value(Napi::Env)>;

/// One promise that any native thread settles exactly once. Settling after the environment is gone is a no-op.
class Completion {
 public:
  virtual ~Completion() = default;
  virtual void Resolve(MakeValue value) = 0;
  /// `error` builds the reason on the JS thread.
  virtual void Reject(MakeValue error) = 0;
};

struct PendingPromise {
  Napi::Promise promise;
  std::shared_ptr<Completion> completion;
};

/// Creates a promise on the JS thread. The event loop stays alive while any such promise is pending.
PendingPromise NewPromise(Napi::Env env);

/// An OperatingError, as the function makes it that JavaScript has set; a plain Error before that.
Napi::Error OperatingError(Napi::Env env, const char* code, const std::string& sentence);

/// Calls `f`; what core throws becomes a JS error.
template <class F>
auto Guarded(Napi::Env env, F f) {
  try {
    return f();
  } catch (const Napi::Error&) {
    throw;
  } catch (const CodedError& error) {
    throw OperatingError(env, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    throw OperatingError(env, kNoMemory, kNoMemorySentence);
  } catch (const std::invalid_argument& error) {
    throw Napi::RangeError::New(env, error.what());
  } catch (const std::exception& error) {
    throw Napi::Error::New(env, error.what());
  }
}

/// A promise that whatever `start(completion)` begins settles; what `start` throws rejects it.
template <class F>
Napi::Value Promised(Napi::Env env, F start) {
  const PendingPromise pending = NewPromise(env);
  try {
    Guarded(env, [&] { start(pending.completion); });
  } catch (const Napi::Error& error) {
    auto reason = std::make_shared<Napi::ObjectReference>(Napi::Persistent(error.Value()));
    pending.completion->Reject([reason](Napi::Env) { return reason->Value(); });
  }
  return pending.promise;
}

/// A promise of what `work()` gives, a MakeValue; what it throws rejects the promise. It runs on a thread of its own, or here and now
/// where the system refuses one: what must be done is done.
template <class F>
Napi::Value PromisedAside(Napi::Env env, const char* name, F work) {
  return Promised(env, [&](const std::shared_ptr<Completion>& completion) {
    const auto settle = [work, completion] {
      try {
        completion->Resolve(work());
      } catch (const std::exception& error) {
        completion->Reject([text = std::string(error.what())](Napi::Env at) { return Napi::Error::New(at, text).Value(); });
      }
    };
    try {
      StartDetached(name, settle);
    } catch (const CodedError&) {
      settle();
    }
  });
}

/// Memory of the host by its id; throws TypeError where there is none.
std::shared_ptr<HostMemory> ReadHostMemory(const Napi::Value& id);

/// A 64-bit size or offset passed as a JS number; throws TypeError unless it is a safe non-negative integer.
uint64_t ReadSize(const Napi::Value& value, const char* name);

/// A list of small ones.
std::vector<int> ReadNumbers(const Napi::Value& list, const char* name);

}  // namespace zi
