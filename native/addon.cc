// The export table of the addon: one line per group of functions, and nothing else.
#include "binding/handles.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  zi::InitAsync(env, exports);   // setErrorMaker
  zi::InitSystem(env, exports);  // nowMs, lockFile, watchSignals …
  zi::InitMemory(env, exports);  // allocate → NativeMemory
  zi::InitIo(env, exports);      // createIo → NativeIo
  zi::InitStream(env, exports);  // createStream → NativeStream, NativeEvent
  zi::InitWorker(env, exports);  // NativeHostWorker
  zi::InitQuantise(env, exports);  // quantise
  zi::InitCuda(env, exports);    // cudaStatus, NativeCudaStream, NativeDeviceMemory, pinMemory …
  zi::InitFaults(env, exports);  // for tests: injectFault, passedFaultPoints
  return exports;
}

NODE_API_MODULE(zero_inference, Init)
