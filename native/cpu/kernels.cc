// What kernels share across instruction sets: failing an operation, scratch memory, exact cos and sin.
#include "cpu/kernels.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "core/coded_error.h"
#include "core/faults.h"

namespace zi {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

class ScratchBlock {
 public:
  ~ScratchBlock() { std::free(data_); }
  void* AtLeast(size_t size) {
    if (size > size_) {
      // Packed inputs are walked in short pieces far apart: with small pages that misses the TLB all the time.
      const size_t alignment = size >= kHugePage ? kHugePage : 64;
      const size_t rounded = (size + alignment - 1) / alignment * alignment;
      std::free(data_);
      data_ = FaultAt(FaultPoint::kScratch) ? nullptr : std::aligned_alloc(alignment, rounded);
      size_ = data_ ? rounded : 0;
      if (!data_) throw CodedError(kNoMemory, std::to_string(rounded) + " bytes of scratch cannot be allocated");
      if (alignment == kHugePage) madvise(data_, size_, MADV_HUGEPAGE);
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

float PositionFactor(double steps, float beta) { return static_cast<float>(1 + beta * std::log1p(steps)); }

ScanStep StepOf(float raw, float decay, float least, float most) {
  // Beyond, the difference is lost in a float. Comparisons with NaN do not hold, so it stays.
  double step = raw > 30 ? static_cast<double>(raw) : std::log1p(std::exp(static_cast<double>(raw)));
  if (step < least) step = least;
  if (step > most) step = most;
  return {static_cast<float>(step), static_cast<float>(std::exp(-std::exp(static_cast<double>(decay)) * step))};
}

float SigmoidOf(float x) { return static_cast<float>(1 / (1 + std::exp(-static_cast<double>(x)))); }

}  // namespace zi
