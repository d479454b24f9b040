#include "binding/handles.h"
namespace zi { void InitStream(Napi::Env, Napi::Object) {} }
