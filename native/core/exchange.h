// One device's end of what a group of devices sums through: found by its number, and failed by whoever leaves the group.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace zi {

class Exchange {
 public:
  /// `room`: bytes of a partial that are summed at once.
  Exchange(int rank, int count, size_t room);
  virtual ~Exchange() = default;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  uint32_t id() const { return id_; }
  int rank() const { return rank_; }
  int count() const { return count_; }
  size_t room() const { return room_; }
  /// The device whose streams sum through it, or kHostPlace.
  virtual int place() const = 0;
  /// Bytes of its device's memory that it takes.
  virtual size_t device_bytes() const = 0;
  /// From any thread: no device of the group waits for another any more. The first reason stays.
  virtual void Fail(const std::string& reason) = 0;

 private:
  const uint32_t id_;
  const int rank_, count_;
  const size_t room_;
};

/// Why an operation could not do its part is another device's failure, whose sentence this is.
class OthersFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Enters it into the process-wide table, in which it is found while somebody holds it.
void EnterExchange(const std::shared_ptr<Exchange>& exchange);
/// Null where there is none of that id.
std::shared_ptr<Exchange> FindExchange(uint32_t id);

}  // namespace zi
