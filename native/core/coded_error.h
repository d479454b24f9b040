// An error that users are told: a sentence, and the code of offload/errors.ts that belongs to it.
#pragma once
#include <stdexcept>
#include <string>

namespace zi {

class CodedError : public std::runtime_error {
 public:
  /// @param code one of offload/errors.ts
  CodedError(const char* code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;
};

/// What std::bad_alloc means to users.
inline constexpr const char* kNoMemory = "DOES_NOT_FIT";
inline constexpr const char* kNoMemorySentence =
    "the system refused memory: give a smaller --dram_memory, raise the limit of memory, or end what else runs";

}  // namespace zi
