// Implements cuda/products.h. The library thinks in columns: row-major out[T, N] is its N × T matrix, W its first factor.
#include "cuda/products.h"

#include <stdexcept>
#include <string>

#include "cuda/scratch_needs.h"

namespace zi::cuda {
namespace {

/// Passes differ in their tokens, so shapes go on coming as long as prompts do; a pass needs a dozen.
constexpr size_t kMostPrepared = 512;

void CheckLt(lt::Result result, const char* what) {
  if (result != lt::kSuccess) {
    throw std::runtime_error(std::string(what) + " failed with cuBLAS status " + std::to_string(result));
  }
}

int TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return lt::kR16F;
    case DType::kBF16:
      return lt::kR16BF;
    case DType::kF32:
      return lt::kR32F;
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kE4M3:
    case DType::kE8M0:
      break;
  }
  throw std::logic_error("the library multiplies no type " + std::to_string(static_cast<int>(dtype)));
}

int EpilogueOf(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::kBias:
      return lt::kEpilogueBias;
    case Epilogue::kRelu:
      return lt::kEpilogueRelu;
    case Epilogue::kReluBias:
      return lt::kEpilogueReluBias;
    case Epilogue::kGeluTanh:
      return lt::kEpilogueGelu;
    case Epilogue::kGeluTanhBias:
      return lt::kEpilogueGeluBias;
    case Epilogue::kNone:
      return lt::kEpilogueDefault;
  }
  throw std::logic_error("unknown epilogue");
}

/// Largest power of two up to 256 that divides the address, and that of what lies so many elements behind it.
uint32_t AlignmentOf(const View& view, int64_t apart = 0) {
  const auto bits = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(view.data) | static_cast<uintptr_t>(apart * ElementBytes(view.dtype)) | 256u);
  return bits & (~bits + 1u);
}

/// One per device, made at first use and kept: threads may share it, destroying it waits for the device, and the library
/// keeps parts of every one for the process.
lt::Handle HandleOf(Context& context, const lt::Functions& functions) {
  static std::mutex mutex;
  static auto* handles = new std::map<int, lt::Handle>();
  std::lock_guard<std::mutex> lock(mutex);
  lt::Handle& handle = (*handles)[context.device()];
  if (!handle) CheckLt(functions.Create(&handle), "cublasLtCreate");
  return handle;
}

}  // namespace

Products::Products(Context& context) : functions_(LoadProducts().functions) {
  if (!LoadProducts().problem.empty()) throw std::runtime_error(LoadProducts().problem);
  context.Use();
  handle_ = HandleOf(context, functions_);
  Check(cudaMalloc(&workspace_, kProductsWorkspaceBytes), "cudaMalloc of the products' workspace");
}

Products::~Products() {
  for (const auto& [key, prepared] : prepared_) Destroy(prepared);
  cudaFree(workspace_);
}

void Products::Destroy(const Prepared& prepared) {
  if (prepared.desc) functions_.MatmulDescDestroy(prepared.desc);
  for (auto layout : {prepared.weight, prepared.x, prepared.out}) {
    if (layout) functions_.MatrixLayoutDestroy(layout);
  }
}

const Products::Prepared& Products::PreparedFor(const Product& product, const Key& key) {
  const auto known = by_key_.find(key);
  if (known != by_key_.end()) {
    prepared_.splice(prepared_.end(), prepared_, known->second);
    return known->second->second;
  }
  if (prepared_.size() == kMostPrepared) {
    // The library is done with it when a product's call returns.
    by_key_.erase(prepared_.front().first);
    Destroy(prepared_.front().second);
    prepared_.pop_front();
  }
  prepared_.emplace_back(key, Prepare(product, key));
  by_key_.emplace(key, std::prev(prepared_.end()));
  return prepared_.back().second;
}

Products::Prepared Products::Prepare(const Product& p, const Key& key) {
  const auto& f = functions_;
  Prepared made;
  const auto [n, t, k] = std::tuple(uint64_t(p.out.shape[1]), uint64_t(p.x.shape[0]), uint64_t(p.x.shape[1]));
  CheckLt(f.MatmulDescCreate(&made.desc, lt::kCompute32F, lt::kR32F), "cublasLtMatmulDescCreate");
  const auto describe = [&](int attribute, const auto& value) {
    CheckLt(f.MatmulDescSetAttribute(made.desc, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  };
  describe(lt::kDescTransA, p.input_major ? lt::kOpN : lt::kOpT);
  describe(lt::kDescEpilogue, int32_t{EpilogueOf(p.epilogue)});
  if (p.bias && p.epilogue != Epilogue::kNone) {
    describe(lt::kDescBiasPointer, p.bias);
    describe(lt::kDescBiasDataType, int32_t{TypeOf(p.out.dtype)});
  }
  const int type = TypeOf(p.weight.dtype);
  const uint64_t rows = p.input_major ? n : k, columns = p.input_major ? k : n;
  CheckLt(f.MatrixLayoutCreate(&made.weight, type, rows, columns, p.weight.strides[0]), "cublasLtMatrixLayoutCreate");
  CheckLt(f.MatrixLayoutCreate(&made.x, type, k, t, p.x.strides[0]), "cublasLtMatrixLayoutCreate");
  CheckLt(f.MatrixLayoutCreate(&made.out, TypeOf(p.out.dtype), n, t, p.out.strides[0]), "cublasLtMatrixLayoutCreate");
  if (p.second.weight != 0) {
    const auto repeat = [&](lt::MatrixLayout layout, int64_t apart) {
      const int32_t count = 2;
      CheckLt(f.MatrixLayoutSetAttribute(layout, lt::kLayoutBatchCount, &count, sizeof count), "cublasLtMatrixLayoutSetAttribute");
      CheckLt(f.MatrixLayoutSetAttribute(layout, lt::kLayoutBatchApart, &apart, sizeof apart), "cublasLtMatrixLayoutSetAttribute");
    };
    repeat(made.weight, p.second.weight);
    repeat(made.x, 0);
    repeat(made.out, p.second.out);
  }
  lt::Preference preference = nullptr;
  CheckLt(f.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto set = [&](int attribute, const auto& value) {
    CheckLt(f.MatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "preference");
  };
  set(lt::kPrefMaxWorkspaceBytes, uint64_t{kProductsWorkspaceBytes});
  set(lt::kPrefMinAlignmentA, std::get<11>(key));
  set(lt::kPrefMinAlignmentB, std::get<12>(key));
  set(lt::kPrefMinAlignmentC, std::get<13>(key));
  set(lt::kPrefMinAlignmentD, std::get<13>(key));
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
  const Key key{static_cast<int>(p.weight.dtype),
                static_cast<int>(p.out.dtype),
                static_cast<int>(p.epilogue),
                p.input_major,
                p.accumulate,
                p.x.shape[0],
                p.out.shape[1],
                p.x.shape[1],
                p.weight.strides[0],
                p.x.strides[0],
                p.out.strides[0],
                AlignmentOf(p.weight, p.second.weight),
                AlignmentOf(p.x),
                AlignmentOf(p.out, p.second.out),
                p.second.weight,
                p.second.out};
  const Prepared& prepared = PreparedFor(p, key);
  if (!prepared.found) return false;
  if (p.bias && p.epilogue != Epilogue::kNone) {
    CheckLt(functions_.MatmulDescSetAttribute(prepared.desc, lt::kDescBiasPointer, &p.bias, sizeof p.bias), "bias");
  }
  const float alpha = 1, beta = p.accumulate ? 1.0f : 0.0f;
  CheckLt(functions_.Matmul(handle_, prepared.desc, &alpha, p.weight.data, prepared.weight, p.x.data, prepared.x, &beta,
                            p.out.data, prepared.out, p.out.data, prepared.out, &prepared.algorithm, workspace_,
                            kProductsWorkspaceBytes, stream),
          "cublasLtMatmul");
  return true;
}

}  // namespace zi::cuda
