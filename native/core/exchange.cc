// Implements core/exchange.h.
#include "core/exchange.h"

#include <atomic>
#include <map>
#include <mutex>

namespace zi {
namespace {

std::atomic<uint32_t> next_id{1};
std::mutex table_mutex;
std::map<uint32_t, std::weak_ptr<Exchange>> table;  // guarded by table_mutex

}  // namespace

Exchange::Exchange(int rank, int count, size_t room) : id_(next_id++), rank_(rank), count_(count), room_(room) {}

void EnterExchange(const std::shared_ptr<Exchange>& exchange) {
  std::lock_guard<std::mutex> lock(table_mutex);
  std::erase_if(table, [](const auto& entry) { return entry.second.expired(); });
  table[exchange->id()] = exchange;
}

std::shared_ptr<Exchange> FindExchange(uint32_t id) {
  std::lock_guard<std::mutex> lock(table_mutex);
  const auto found = table.find(id);
  return found == table.end() ? nullptr : found->second.lock();
}

}  // namespace zi
