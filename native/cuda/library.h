// Finds and loads libraries at run time: cuBLASLt, and for others where toolkits keep theirs.
#pragma once
#include <string>
#include <vector>

#include "cuda/cublaslt_abi.h"

namespace zi::cuda {

struct Library {
  lt::Functions functions;
  std::string path;
  /// A sentence about what is missing; empty when loaded.
  std::string problem;
};

/// Loads at the first call; the result stays.
const Library& LoadProducts();

/// The first of these names that the loader or a toolkit's folder has, opened; null when none. `path` says which.
void* OpenLibrary(const std::vector<std::string>& names, std::string* path);

}  // namespace zi::cuda
