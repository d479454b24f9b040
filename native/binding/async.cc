// Promises settled from native threads: one thread-safe function per environment carries all completions.
#include <mutex>

#include "binding/handles.h"

namespace zi {
namespace {

struct Settlement {
  std::shared_ptr<Napi::Promise::Deferred> deferred;
  MakeValue value;
  bool resolved;
};

class Bridge;
void Deliver(Napi::Env env, Napi::Function, Bridge* bridge, Settlement* settlement);
using Tsfn = Napi::TypedThreadSafeFunction<Bridge, Settlement, Deliver>;

/// Owned by the environment; native threads hold it through shared_ptr and find it closed after teardown.
class Bridge : public std::enable_shared_from_this<Bridge> {
 public:
  explicit Bridge(Napi::Env env) {
    tsfn_ = Tsfn::New(env, "zero-inference completions", 0, 1, this);
    tsfn_.Unref(env);
  }

  void Opened(Napi::Env env) {
    if (pending_++ == 0) tsfn_.Ref(env);
  }

  void Delivered(Napi::Env env) {
    if (--pending_ == 0) tsfn_.Unref(env);
  }

  void Post(std::unique_ptr<Settlement> settlement) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    if (tsfn_.NonBlockingCall(settlement.get()) == napi_ok) settlement.release();
  }

  void Close() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    closed_ = true;
    tsfn_.Abort();
  }

 private:
  Tsfn tsfn_;
  std::mutex mutex_;
  bool closed_ = false;
  int64_t pending_ = 0;  // JS thread only
};

void Deliver(Napi::Env env, Napi::Function, Bridge* bridge, Settlement* raw) {
  std::unique_ptr<Settlement> settlement(raw);
  if (static_cast<napi_env>(env) == nullptr) return;
  bridge->Delivered(env);
  Napi::HandleScope scope(env);
  try {
    Napi::Value value = settlement->value ? settlement->value(env) : env.Undefined();
    if (settlement->resolved) {
      settlement->deferred->Resolve(value);
    } else {
      settlement->deferred->Reject(value);
    }
  } catch (const Napi::Error& error) {
    try {
      settlement->deferred->Reject(error.Value());
    } catch (const Napi::Error&) {
      // The environment is terminating: JS can neither run nor see the promise.
    }
  }
}

class BridgeCompletion final : public Completion {
 public:
  BridgeCompletion(std::shared_ptr<Bridge> bridge, std::shared_ptr<Napi::Promise::Deferred> deferred)
      : bridge_(std::move(bridge)), deferred_(std::move(deferred)) {}
  void Resolve(MakeValue value) override { Settle(std::move(value), true); }
  void Reject(MakeValue error) override { Settle(std::move(error), false); }

 private:
  void Settle(MakeValue value, bool resolved) {
    auto settlement = std::make_unique<Settlement>();
    settlement->deferred = std::move(deferred_);
    settlement->value = std::move(value);
    settlement->resolved = resolved;
    bridge_->Post(std::move(settlement));
  }
  std::shared_ptr<Bridge> bridge_;
  std::shared_ptr<Napi::Promise::Deferred> deferred_;
};

struct InstanceData {
  std::shared_ptr<Bridge> bridge;
  Napi::FunctionReference make_error;
};

}  // namespace

void InitAsync(Napi::Env env, Napi::Object exports) {
  auto* data = new InstanceData{std::make_shared<Bridge>(env), {}};
  env.SetInstanceData(data);
  auto bridge = data->bridge;
  env.AddCleanupHook([bridge] { bridge->Close(); });
  exports.Set("setErrorMaker", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                info.Env().GetInstanceData<InstanceData>()->make_error = Napi::Persistent(info[0].As<Napi::Function>());
              }));
}

Napi::Error OperatingError(Napi::Env env, const char* code, const std::string& sentence) {
  const auto& maker = env.GetInstanceData<InstanceData>()->make_error;
  if (maker.IsEmpty()) return Napi::Error::New(env, sentence);
  const Napi::Value made = maker.Call({Napi::String::New(env, code), Napi::String::New(env, sentence)});
  return Napi::Error(env, made);
}

PendingPromise NewPromise(Napi::Env env) {
  auto bridge = env.GetInstanceData<InstanceData>()->bridge;
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  bridge->Opened(env);
  return {deferred->Promise(), std::make_shared<BridgeCompletion>(bridge, deferred)};
}

uint64_t ReadSize(const Napi::Value& value, const char* name) {
  if (value.IsNumber()) {
    double number = value.As<Napi::Number>().DoubleValue();
    if (number >= 0 && number <= 9007199254740991.0 && number == static_cast<double>(static_cast<uint64_t>(number))) {
      return static_cast<uint64_t>(number);
    }
  }
  throw Napi::TypeError::New(value.Env(), std::string(name) + " must be a safe non-negative integer");
}

std::vector<int> ReadNumbers(const Napi::Value& list, const char* name) {
  std::vector<int> numbers;
  const auto array = list.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) numbers.push_back(static_cast<int>(ReadSize(array.Get(i), name)));
  return numbers;
}

}  // namespace zi
