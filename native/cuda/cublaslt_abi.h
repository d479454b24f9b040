// The part of cuBLASLt's binary interface that is used, so that the library can be loaded at run time without its
// headers. Values as in cublasLt.h of CUDA 13.0 (library 13.1); they are the same in CUDA 12.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace zi::cuda::lt {

using Handle = void*;
using MatmulDesc = void*;
using MatrixLayout = void*;
using Preference = void*;
using Result = int;  // cublasStatus_t

constexpr Result kSuccess = 0;
constexpr Result kNotSupported = 15;

// cublasComputeType_t, cudaDataType_t, cublasOperation_t
constexpr int kCompute32F = 68;
constexpr int kR32F = 0, kR16F = 2, kR16BF = 14;
constexpr int32_t kOpN = 0, kOpT = 1;

// cublasLtMatmulDescAttributes_t, cublasLtMatmulPreferenceAttributes_t
constexpr int kDescTransA = 3, kDescTransB = 4;
constexpr int kDescEpilogue = 7, kDescBiasPointer = 8, kDescBiasDataType = 26;
constexpr int kPrefMaxWorkspaceBytes = 1;
constexpr int kPrefMinAlignmentA = 5, kPrefMinAlignmentB = 6, kPrefMinAlignmentC = 7, kPrefMinAlignmentD = 8;

// cublasLtMatrixLayoutAttribute_t; the distance is in elements.
constexpr int kLayoutBatchCount = 5, kLayoutBatchApart = 6;

// cublasLtEpilogue_t; its GELU is the tanh approximation.
constexpr int kEpilogueDefault = 1, kEpilogueRelu = 2, kEpilogueBias = 4, kEpilogueReluBias = 6;
constexpr int kEpilogueGelu = 32, kEpilogueGeluBias = 36;

/// Opaque words of cublasLtMatmulAlgo_t.
struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Result state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Algorithm) == 64 && sizeof(HeuristicResult) == 96);

struct Functions {
  Result (*Create)(Handle*);
  size_t (*GetVersion)();
  Result (*MatmulDescCreate)(MatmulDesc*, int compute_type, int scale_type);
  Result (*MatmulDescDestroy)(MatmulDesc);
  Result (*MatmulDescSetAttribute)(MatmulDesc, int attribute, const void* value, size_t size);
  Result (*MatrixLayoutCreate)(MatrixLayout*, int type, uint64_t rows, uint64_t columns, int64_t leading);
  Result (*MatrixLayoutDestroy)(MatrixLayout);
  Result (*MatrixLayoutSetAttribute)(MatrixLayout, int attribute, const void* value, size_t size);
  Result (*MatmulPreferenceCreate)(Preference*);
  Result (*MatmulPreferenceDestroy)(Preference);
  Result (*MatmulPreferenceSetAttribute)(Preference, int attribute, const void* value, size_t size);
  Result (*MatmulAlgoGetHeuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c, MatrixLayout d,
                                   Preference, int wanted, HeuristicResult*, int* found);
  Result (*Matmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout, const void* b, MatrixLayout,
                   const void* beta, const void* c, MatrixLayout, void* d, MatrixLayout, const Algorithm*,
                   void* workspace, size_t workspace_bytes, cudaStream_t);
};

}  // namespace zi::cuda::lt
