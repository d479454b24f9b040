// The only header that includes napi.h: what each binding file registers, and what they share.
#pragma once
#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace zi {

void InitAsync(Napi::Env env);
void InitSystem(Napi::Env env, Napi::Object exports);
void InitMemory(Napi::Env env, Napi::Object exports);
void InitIo(Napi::Env env, Napi::Object exports);
void InitStream(Napi::Env env, Napi::Object exports);
void InitCuda(Napi::Env env, Napi::Object exports);

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

/// A 64-bit size or offset passed as a JS number; throws TypeError unless it is a safe non-negative integer.
uint64_t ReadSize(const Napi::Value& value, const char* name);

}  // namespace zi
