// Finds and loads cuBLASLt at run time.
#pragma once
#include <string>

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

}  // namespace zi::cuda
