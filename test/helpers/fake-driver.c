// An NVIDIA driver (libcuda.so.1) that answers what the CUDA runtime asks first: FAKE_CUDA is the version it knows, and
// there is no GPU. Everything else fails.
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { kSuccess = 0, kNoDevice = 100, kUnknown = 999 };

static int Unsupported(void) { return kUnknown; }

int cuDriverGetVersion(int* version) {
  const char* said = getenv("FAKE_CUDA");
  *version = said ? atoi(said) : 0;
  return kSuccess;
}
int cuInit(unsigned flags) {
  (void)flags;
  return kNoDevice;
}
int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long long flags, int* status) {
  (void)version, (void)flags;
  *function = (void*)Unsupported;
  if (strcmp(name, "cuGetProcAddress") == 0) *function = (void*)cuGetProcAddress_v2;
  if (strcmp(name, "cuDriverGetVersion") == 0) *function = (void*)cuDriverGetVersion;
  if (strcmp(name, "cuInit") == 0) *function = (void*)cuInit;
  if (status) *status = 0;
  return kSuccess;
}
int cuGetProcAddress(const char* name, void** function, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
