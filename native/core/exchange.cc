// Implements core/exchange.h.
#include "core/exchange.h"

#include <atomic>
#include <map>
#include <mutex>

namespace zi {
namespace {

std::atomic<uint32_t> next_exchange_id{1};
std::mutex exchanges_mutex;
std::map<uint32_t, std::weak_ptr<Exchange>> exchanges;  // guarded by exchanges_mutex

}  // namespace

Exchange::Exchange(int rank, int count, size_t room) : id_(next_exchange_id++), rank_(rank), count_(count), room_(room) {}

void EnterExchange(const std::shared_ptr<Exchange>& exchange) {
  std::lock_guard<std::mutex> lock(exchanges_mutex);
  std::erase_if(exchanges, [](const auto& entry) { return entry.second.expired(); });
  exchanges[exchange->id()] = exchange;
}

std::shared_ptr<Exchange> FindExchange(uint32_t id) {
  std::lock_guard<std::mutex> lock(exchanges_mutex);
  const auto found = exchanges.find(id);
  return found == exchanges.end() ? nullptr : found->second.lock();
}

}  // namespace zi
