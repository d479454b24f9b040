// What is used of NCCL's binary interface, since its headers are not needed to build. Values of nccl.h 2.28; the same
// since 2.14.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

namespace zi::cuda::nccl {

struct Communicator;  // ncclComm, opaque
using Result = int;   // ncclResult_t
constexpr Result kSuccess = 0, kInProgress = 7;
constexpr int kUint8 = 1;  // ncclDataType_t

struct Functions {
  const char* (*GetErrorString)(Result);
  Result (*CommInitAll)(Communicator** comms, int count, const int* devices);
  Result (*CommDestroy)(Communicator*);
  Result (*CommAbort)(Communicator*);
  Result (*CommGetAsyncError)(Communicator*, Result* error);
  Result (*GroupStart)();
  Result (*GroupEnd)();
  /// In place where `from` is `to` + rank · count.
  Result (*AllGather)(const void* from, void* to, size_t count, int type, Communicator*, cudaStream_t);
};

}  // namespace zi::cuda::nccl
