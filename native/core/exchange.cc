// Implements core/exchange.h.
#include "core/exchange.h"

#include "core/weak_table.h"

namespace zi {
namespace {

WeakTable<Exchange> exchanges;

}  // namespace

Exchange::Exchange(int rank, int count, size_t room) : id_(exchanges.NextId()), rank_(rank), count_(count), room_(room) {}

void EnterExchange(const std::shared_ptr<Exchange>& exchange) { exchanges.Enter(exchange); }

std::shared_ptr<Exchange> FindExchange(uint32_t id) { return exchanges.Find(id); }

}  // namespace zi
