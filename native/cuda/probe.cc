// What of CUDA this machine has, as sentences that say what is missing.
#include "cuda/api.h"
#include "cuda/context.h"
#include "cuda/generations.h"
#include "cuda/library.h"

namespace zi::cuda {
namespace {

std::string Version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

/// Whether the result of counting devices says that there is none.
bool ShowsNone(cudaError_t code, int count) { return code == cudaErrorNoDevice || (code == cudaSuccess && count == 0); }

/// Empty when there is at least one device.
std::string DriverProblem(int driver, cudaError_t code, int count) {
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "no NVIDIA driver is loaded (libcuda.so.1 cannot be used): install the driver of the GPU";
  if (code == cudaErrorInsufficientDriver || code == cudaErrorCallRequiresNewerDriver) {
    return "the NVIDIA driver knows CUDA " + Version(driver) + ", but this build needs " + Version(runtime) +
           ": update the driver";
  }
  if (ShowsNone(code, count)) {
    return "the NVIDIA driver is there but shows no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES";
  }
  if (code != cudaSuccess) return std::string("the NVIDIA driver cannot be used: ") + cudaGetErrorString(code);
  return "";
}

DeviceInfo Describe(int device, std::string* problem) {
  cudaDeviceProp properties{};
  DeviceInfo info{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
    *problem = "cuda:" + std::to_string(device) + " does not tell its properties";
    return info;
  }
  constexpr int kOldest = 8;
  if (properties.major < kOldest) {
    // Nothing else is tried: this build has no code for it.
    *problem = std::string(properties.name) + " (cuda:" + std::to_string(device) + ") has compute capability " +
               std::to_string(properties.major) + "." + std::to_string(properties.minor) +
               ", but 8.0 (Ampere) or later is needed: leave it out of CUDA_VISIBLE_DEVICES";
    return info;
  }
  if (!RunsAny(ZI_COMPILED_FOR, properties.major, properties.minor)) {
    *problem = std::string(properties.name) + " (cuda:" + std::to_string(device) + ") has compute capability " +
               std::to_string(properties.major) + "." + std::to_string(properties.minor) +
               ", but this build was compiled for other GPUs (" ZI_COMPILED_FOR "): set up again on this machine "
               "(npm run setup, or node native/setup.mjs of the installed package)";
    return info;
  }
  char bus[32] = {};
  cudaDeviceGetPCIBusId(bus, sizeof bus, device);
  size_t free = 0, total = properties.totalGlobalMem;
  if (cudaSetDevice(device) != cudaSuccess || cudaMemGetInfo(&free, &total) != cudaSuccess) {
    *problem = "cuda:" + std::to_string(device) + " cannot be used: " + cudaGetErrorString(cudaGetLastError());
  }
  info = {properties.name, bus, total, free, properties.major, properties.minor, properties.multiProcessorCount};
  int host_pointers = 0;
  cudaDeviceGetAttribute(&host_pointers, cudaDevAttrCanUseHostPointerForRegisteredMem, device);
  if (!host_pointers) *problem = info.name + " cannot address page-locked host memory, which this system's kernel or driver forbids";
  return info;
}

}  // namespace

Status Probe() {
  Status status;
  int driver = 0, count = 0;
  cudaDriverGetVersion(&driver);
  const cudaError_t code = cudaGetDeviceCount(&count);
  status.present = driver != 0 && !ShowsNone(code, count);
  status.problem = DriverProblem(driver, code, count);
  if (!status.problem.empty()) {
    cudaGetLastError();
    return status;
  }
  for (int device = 0; device < count; ++device) status.devices.push_back(Describe(device, &status.problem));
  cudaGetLastError();
  const Library& library = LoadProducts();
  status.products = library.path;
  if (status.problem.empty()) status.problem = library.problem;
  return status;
}

}  // namespace zi::cuda
