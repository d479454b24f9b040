// Implements cuda/products.h. The library thinks in columns: row-major out[T, N] is its N × T matrix, W its first factor.
#include "cuda/products.h"

namespace zi::cuda {
namespace {

/// As NVIDIA advises for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void CheckLt(lt::Result result, const char* what) {
  if (result != lt::kSuccess) {
    throw std::runtime_error(std::string(what) + " failed with cuBLAS status " + std::to_string(result));
  }
}

int TypeOf(DType dtype) {
  return dtype == DType::kF16 ? lt::kR16F : dtype == DType::kBF16 ? lt::kR16BF : lt::kR32F;
}

/// Largest power of two up to 256 that divides the address.
uint32_t AlignmentOf(const void* address) {
  const auto bits = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address) | 256u);
  return bits & (~bits + 1u);
}

}  // namespace

Products::Products(Context& context) : functions_(LoadProducts().functions) {
  if (!LoadProducts().problem.empty()) throw std::runtime_error(LoadProducts().problem);
  context.Use();
  CheckLt(functions_.Create(&handle_), "cublasLtCreate");
  Check(cudaMalloc(&workspace_, kWorkspaceBytes), "cudaMalloc of the products' workspace");
}

Products::~Products() {
  // The handle stays: destroying it waits for the device, and the library keeps its parts for the process anyway.
  for (auto& [key, prepared] : prepared_) {
    if (prepared.desc) functions_.MatmulDescDestroy(prepared.desc);
    for (auto layout : {prepared.weight, prepared.x, prepared.out}) {
      if (layout) functions_.MatrixLayoutDestroy(layout);
    }
  }
  cudaFree(workspace_);
}

Products::Prepared Products::Prepare(const Product& p, uint32_t weight_alignment, uint32_t x_alignment,
                                     uint32_t out_alignment) {
  const auto& f = functions_;
  Prepared made;
  const auto [n, t, k] = std::tuple(uint64_t(p.outputs), uint64_t(p.tokens), uint64_t(p.inputs));
  CheckLt(f.MatmulDescCreate(&made.desc, lt::kCompute32F, lt::kR32F), "cublasLtMatmulDescCreate");
  const int32_t transpose = p.input_major ? lt::kOpN : lt::kOpT;
  CheckLt(f.MatmulDescSetAttribute(made.desc, lt::kDescTransA, &transpose, sizeof transpose), "TRANSA");
  const int type = TypeOf(p.dtype);
  const uint64_t rows = p.input_major ? n : k, columns = p.input_major ? k : n;
  CheckLt(f.MatrixLayoutCreate(&made.weight, type, rows, columns, p.weight_stride), "cublasLtMatrixLayoutCreate");
  CheckLt(f.MatrixLayoutCreate(&made.x, type, k, t, p.x_stride), "cublasLtMatrixLayoutCreate");
  CheckLt(f.MatrixLayoutCreate(&made.out, lt::kR32F, n, t, p.out_stride), "cublasLtMatrixLayoutCreate");
  lt::Preference preference = nullptr;
  CheckLt(f.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto set = [&](int attribute, const auto& value) {
    CheckLt(f.MatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "preference");
  };
  set(lt::kPrefMaxWorkspaceBytes, uint64_t{kWorkspaceBytes});
  set(lt::kPrefMinAlignmentA, weight_alignment);
  set(lt::kPrefMinAlignmentB, x_alignment);
  set(lt::kPrefMinAlignmentC, out_alignment);
  set(lt::kPrefMinAlignmentD, out_alignment);
  lt::HeuristicResult result{};
  int count = 0;
  const lt::Result answer = f.MatmulAlgoGetHeuristic(handle_, made.desc, made.weight, made.x, made.out, made.out,
                                                     preference, 1, &result, &count);
  f.MatmulPreferenceDestroy(preference);
  made.found = answer == lt::kSuccess && count > 0 && result.state == lt::kSuccess;
  made.algorithm = result.algorithm;
  return made;
}

bool Products::Multiply(const Product& p, cudaStream_t stream) {
  const uint32_t wa = AlignmentOf(p.weight), xa = AlignmentOf(p.x), oa = AlignmentOf(p.out);
  const Key key{static_cast<int>(p.dtype), p.input_major, p.accumulate, p.tokens, p.outputs, p.inputs,
                p.weight_stride,           p.x_stride,    p.out_stride, wa,       xa,        oa};
  auto found = prepared_.find(key);
  if (found == prepared_.end()) found = prepared_.emplace(key, Prepare(p, wa, xa, oa)).first;
  const Prepared& prepared = found->second;
  if (!prepared.found) return false;
  const float alpha = 1, beta = p.accumulate ? 1.0f : 0.0f;
  CheckLt(functions_.Matmul(handle_, prepared.desc, &alpha, p.weight, prepared.weight, p.x, prepared.x, &beta, p.out,
                            prepared.out, p.out, prepared.out, &prepared.algorithm, workspace_, kWorkspaceBytes, stream),
          "cublasLtMatmul");
  return true;
}

}  // namespace zi::cuda
