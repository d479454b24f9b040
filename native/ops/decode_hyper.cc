// Decoders of the operations of hyper-connections.
#include "ops/decode_parts.h"

namespace zi {

Operation HyperWeights(Reader& in) {
  HyperWeightsOp op{in.Floats("gather", 2),
                    in.OptionalFloatTable("spread"),
                    in.OptionalFloatBlock("mix"),
                    in.Floats("logits", 2),
                    in.Weight("base", 1),
                    in.Weight("scale", 1),
                    static_cast<int64_t>(in.Size("iterations")),
                    in.Number()};
  const int64_t tokens = op.gather.shape[0], streams = op.gather.shape[1];
  const bool writes = op.spread.data != nullptr;
  in.Check(streams > 0 && streams <= kMostStreams, "there must be one to eight streams");
  in.Check(writes == (op.mix.data != nullptr), "streams that are written are mixed");
  in.Check(!writes || op.iterations > 0, "streams are mixed after a first division");
  in.CheckSize(op.logits, 0, tokens, "logits");
  in.CheckSize(op.logits, 1, writes ? (2 + streams) * streams : streams, "logits");
  in.CheckSize(op.base, 0, op.logits.shape[1], "base");
  in.CheckSize(op.scale, 0, writes ? 3 : 1, "scale");
  if (!writes) return op;
  CheckSameShape(in, op.spread, op.gather, "spread");
  in.CheckSize(op.mix, 0, tokens, "mix");
  in.CheckSize(op.mix, 1, streams, "mix");
  in.CheckSize(op.mix, 2, streams, "mix");
  return op;
}

Operation HyperMix(Reader& in) {
  HyperMixOp op{in.Floats("x", 3), in.Floats("y", 2), in.Floats("spread", 2), in.Floats("mix", 3)};
  const int64_t tokens = op.x.shape[0], streams = op.x.shape[1];
  in.Check(streams > 0 && streams <= kMostStreams, "there must be one to eight streams");
  in.CheckSize(op.y, 0, tokens, "y");
  in.CheckSize(op.y, 1, op.x.shape[2], "y");
  in.CheckSize(op.spread, 0, tokens, "spread");
  in.CheckSize(op.spread, 1, streams, "spread");
  in.CheckSize(op.mix, 0, tokens, "mix");
  in.CheckSize(op.mix, 1, streams, "mix");
  in.CheckSize(op.mix, 2, streams, "mix");
  return op;
}

}  // namespace zi
