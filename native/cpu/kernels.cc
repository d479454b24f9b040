// What kernels share across instruction sets: failing an operation, scratch memory, exact cos and sin.
#include "cpu/kernels.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>

namespace zi {
namespace {

class ScratchBlock {
 public:
  ~ScratchBlock() { std::free(data_); }
  void* AtLeast(size_t size) {
    if (size > size_) {
      constexpr size_t kAlignment = 64;
      const size_t rounded = (size + kAlignment - 1) / kAlignment * kAlignment;
      std::free(data_);
      data_ = std::aligned_alloc(kAlignment, rounded);
      size_ = data_ ? rounded : 0;
      if (!data_) throw std::bad_alloc();
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

void FailOp(const char* format, ...) {
  char text[256];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  throw std::runtime_error(text);
}

void* Scratch(ScratchUse use, size_t size) {
  static thread_local ScratchBlock blocks[2];
  return blocks[use == ScratchUse::kOperation ? 0 : 1].AtLeast(size);
}

void CosSin(double angle, float scale, float* cosine, float* sine) {
  *cosine = static_cast<float>(std::cos(angle) * scale);
  *sine = static_cast<float>(std::sin(angle) * scale);
}

}  // namespace zi
