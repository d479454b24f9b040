// Matrix products through cuBLASLt, with what it decided remembered per shape.
#pragma once
#include <list>
#include <map>
#include <tuple>

#include "cuda/context.h"
#include "cuda/library.h"
#include "ops/operand.h"

namespace zi::cuda {

/// What the library does to a product before it is stored.
enum class Epilogue { kNone, kBias, kRelu, kReluBias, kGeluTanh, kGeluTanhBias };

/// out[T, N] = epilogue(x[T, K] · W (+ out)), W as LinearOp has it; x is of the weight's type, out too or f32.
struct Product {
  View weight, x, out;
  /// [N] of the type of `out`, at a multiple of 16 bytes; null without one.
  const uint8_t* bias;
  Epilogue epilogue;
  bool input_major, accumulate;
  /// Another product of the same inputs and shapes, whose weight and result lie so many elements behind these; 0 without one.
  struct Second {
    int64_t weight, out;
  } second;
};

/// One per stream, since products in flight at once need a workspace each.
class Products {
 public:
  /// Throws std::runtime_error when the library is missing.
  explicit Products(Context& context);
  ~Products();
  Products(const Products&) = delete;

  /// False when the library has nothing for these operands. Throws when the device fails.
  bool Multiply(const Product& product, cudaStream_t stream);

 private:
  /// Types, shape, strides and alignments: what the library chooses by.
  using Key = std::tuple<int, int, int, bool, bool, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, uint32_t,
                         uint32_t, uint32_t, int64_t, int64_t>;
  /// What a shape's products are called with; `found` is false when there is nothing.
  struct Prepared {
    lt::MatmulDesc desc = nullptr;
    lt::MatrixLayout weight = nullptr, x = nullptr, out = nullptr;
    lt::Algorithm algorithm{};
    bool found = false;
  };
  /// The one of that key, made where there is none; the least recently used leaves where there are many.
  const Prepared& PreparedFor(const Product& product, const Key& key);
  Prepared Prepare(const Product& product, const Key& key);
  void Destroy(const Prepared& prepared);

  const lt::Functions& functions_;
  lt::Handle handle_ = nullptr;
  void* workspace_ = nullptr;
  /// Least recently used first.
  std::list<std::pair<Key, Prepared>> prepared_;
  std::map<Key, std::list<std::pair<Key, Prepared>>::iterator> by_key_;
};

}  // namespace zi::cuda
