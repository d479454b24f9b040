#include "binding/handles.h"
namespace zi { void InitIo(Napi::Env, Napi::Object) {} }
