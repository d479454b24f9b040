// What virtual devices sum through: each leaves its part in memory that all read, and they meet once a round.
#pragma once
#include <vector>

#include "core/exchange.h"
#include "cpu/kernels.h"

namespace zi {

struct ExchangeGroup;

class HostExchange final : public Exchange {
 public:
  HostExchange(int rank, std::shared_ptr<ExchangeGroup> group);

  int place() const override;
  size_t device_bytes() const override;
  void Fail(const std::string& reason) override;

  /// On the thread of one stream. Sleeps until all have come; throws OthersFailure where one never will.
  void Sum(const ReduceOp& op, Run& run, void (*sum)(const ReduceOp&, const PartialSpan&, Run&));

 private:
  const std::shared_ptr<ExchangeGroup> group_;
  /// Rounds that it has begun; its stream's thread.
  uint64_t round_ = 0;
};

/// One for each device, in their order. Throws std::invalid_argument.
std::vector<std::shared_ptr<HostExchange>> OpenHostExchange(int count, size_t room);

}  // namespace zi
