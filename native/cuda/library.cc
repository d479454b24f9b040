// Implements cuda/library.h.
#include "cuda/library.h"

#include <dlfcn.h>
#include <glob.h>

#include <cstdlib>
#include <vector>

namespace zi::cuda {
namespace {

/// Folders beyond those that the loader knows, in which toolkits keep their libraries.
std::vector<std::string> Folders() {
  std::vector<std::string> folders;
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* value = std::getenv(name);
    if (value && *value) folders.push_back(std::string(value) + "/lib64");
  }
  folders.push_back("/usr/local/cuda/lib64");
  glob_t found{};
  if (glob("/usr/local/cuda-*/lib64", 0, nullptr, &found) == 0) {
    for (size_t i = found.gl_pathc; i > 0; --i) folders.emplace_back(found.gl_pathv[i - 1]);
  }
  globfree(&found);
  return folders;
}

Library Load() {
  Library result{};
  void* library = OpenLibrary({"libcublasLt.so.13", "libcublasLt.so.12"}, &result.path);
  if (!library) {
    result.problem =
        "cuBLASLt was not found (libcublasLt.so.13 or .so.12, in the loader's path, CUDA_HOME/lib64 and "
        "/usr/local/cuda*/lib64): install NVIDIA's libcublas package or set LD_LIBRARY_PATH to its folder";
    return result;
  }
  auto& f = result.functions;
  const auto get = [&](const char* name, auto& function) {
    void* symbol = dlsym(library, name);
    if (!symbol) result.problem = result.path + " lacks " + name + ": install cuBLAS 12 or later";
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  get("cublasLtCreate", f.Create);
  get("cublasLtGetVersion", f.GetVersion);
  get("cublasLtMatmulDescCreate", f.MatmulDescCreate);
  get("cublasLtMatmulDescDestroy", f.MatmulDescDestroy);
  get("cublasLtMatmulDescSetAttribute", f.MatmulDescSetAttribute);
  get("cublasLtMatrixLayoutCreate", f.MatrixLayoutCreate);
  get("cublasLtMatrixLayoutDestroy", f.MatrixLayoutDestroy);
  get("cublasLtMatrixLayoutSetAttribute", f.MatrixLayoutSetAttribute);
  get("cublasLtMatmulPreferenceCreate", f.MatmulPreferenceCreate);
  get("cublasLtMatmulPreferenceDestroy", f.MatmulPreferenceDestroy);
  get("cublasLtMatmulPreferenceSetAttribute", f.MatmulPreferenceSetAttribute);
  get("cublasLtMatmulAlgoGetHeuristic", f.MatmulAlgoGetHeuristic);
  get("cublasLtMatmul", f.Matmul);
  return result;
}

}  // namespace

void* OpenLibrary(const std::vector<std::string>& names, std::string* path) {
  for (const std::string& name : names) {
    *path = name;
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  for (const std::string& folder : Folders()) {
    for (const std::string& name : names) {
      *path = folder + "/" + name;
      if (void* library = dlopen(path->c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    }
  }
  path->clear();
  return nullptr;
}

const Library& LoadProducts() {
  static const Library* library = new Library(Load());
  return *library;
}

}  // namespace zi::cuda
