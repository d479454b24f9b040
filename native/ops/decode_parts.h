// What decoders of operations share, and those that stand outside decode.cc: each reads and checks one operation.
#pragma once
#include "ops/decode.h"
#include "ops/weights.h"
#include "ops/words.h"

namespace zi {

/// Collects what an operation holds beside its operands.
struct Reader : WordReader {
  using WordReader::WordReader;
  std::shared_ptr<const ExpertParts> experts;
  std::shared_ptr<IoPieces> files;
  std::shared_ptr<Exchange> exchange;
};

inline void CheckSameShape(const WordReader& in, const View& view, const View& like, const char* name) {
  in.Check(view.rank == like.rank, "operands differ in their number of dimensions");
  for (int d = 0; d < like.rank; ++d) in.CheckSize(view, d, like.shape[d], name);
}

inline void CheckInnermost(const WordReader& in, const View& vector, const View& x, const char* name) {
  if (vector.data) in.CheckSize(vector, 0, x.shape[x.rank - 1], name);
}

// Mixtures of experts (decode_mixtures.cc).
Operation Route(Reader& in);
Operation ExpertLinear(Reader& in);
Operation BringExperts(Reader& in);
Operation ExpertBias(Reader& in);
Operation GatedPairs(Reader& in);
Operation GateSigmoid(Reader& in);
Operation Combine(Reader& in);
Operation ScaleRows(Reader& in);

// What moves bytes as they are (decode_copies.cc).
Operation Copy(Reader& in);
Operation CopyRows(Reader& in);
Operation Fill(Reader& in);

// What a device asks of its host (decode_host.cc).
Operation AskHost(Reader& in);
Operation TakeHost(Reader& in);
Operation FindExperts(Reader& in);
AsideExperts ReadAside(Reader& in, const View& experts);
HostSlots ReadHostSlots(Reader& in);

// What devices of a group do together (decode_exchange.cc).
Operation Reduce(Reader& in);

// Hyper-connections (decode_hyper.cc).
Operation HyperWeights(Reader& in);
Operation HyperMix(Reader& in);

}  // namespace zi
