// Reads and checks what devices of a group do together.
#include "ops/decode_parts.h"

namespace zi {

Operation Reduce(Reader& in) {
  ReduceOp op{in.Values("x", 2), in.Values("partial", 2), nullptr, false};
  CheckSameShape(in, op.partial, op.x, "partial");
  in.exchange = in.Exchanging("exchange");
  op.exchange = in.exchange.get();
  op.accumulate = in.Flag();
  return op;
}

}  // namespace zi
