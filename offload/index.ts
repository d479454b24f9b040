// What the application may use of the runtime; everything else in this folder is internal.

export type {
  Backend,
  Device,
  DeviceEvent,
  DeviceStream,
  FileRef,
  HostMemory,
  ReadRequest,
  ReadSpan,
} from './backend.js';
export { type ComputeType, CpuBackend, type CpuBackendOptions } from './backends/cpu.js';
export { CudaBackend, type CudaBackendOptions, cudaStatus, warmCuda } from './backends/cuda.js';
export type { PassResult } from './device-pass.js';
export { DTYPE_BYTES, type DType, elementCount } from './dtype.js';
export { assert, ERROR_CODES, type ErrorCode, OperatingError, present } from './errors.js';
export { Executor } from './executor.js';
export {
  type FileState,
  hasSameContent,
  isSameFile,
  isUnchanged,
  stateFrom,
  stateOfPath,
} from './file-state.js';
export { type PassPlaces, placeName } from './forward-places.js';
export { type ComputeLimits, detectHardware, type Hardware, measureComputeLimits } from './hardware.js';
export type { BlockCache, FrequenciesByLength, Kernels } from './kernels.js';
export { PAGE_TOKENS, PageAllocator, pageBytes, pagesFor } from './kv-cache.js';
export { type Extent, hostLayout, type LayerSpec, layoutLayer, type WeightSpec } from './layout.js';
export { LoadAhead } from './load-ahead.js';
export {
  type BenchSizes,
  type DriveMeasurement,
  measureCompute,
  measureDrive,
  type WeightType,
} from './measure.js';
export { type LinkMeasurement, measureLinks } from './measure-link.js';
export {
  decideTransfer,
  type GatherWish,
  measureTransfer,
  type TransferTimes,
  wholeOf,
} from './measure-transfer.js';
export type { LayerForward, LookedUpRows, ModelSpec, RowTable, Weights } from './model.js';
export { type CudaStatus, lockFile, signalTold, signalWatch } from './native.js';
export { type Activation, type Memory, NO_TOKEN, type Tensor } from './ops.js';
export { type MicroBatch, type Pass, type SamplingRow, type SequenceSlice, tokenCount } from './pass.js';
export {
  type BufferPlan,
  type DeviceResident,
  makePlan,
  type Offload,
  type Plan,
  type PlannedLayer,
  type PlanOptions,
  type PlanTerm,
  type Tier,
  type Workload,
} from './plan.js';
export { platformProblem } from './platform.js';
export {
  type Bound,
  type MicroBatchShape,
  type PredictedPass,
  predictPass,
} from './predict.js';
export { checkInstructions, type IoProbe, instructionSets, probeDirect, probeIo } from './probe.js';
export { startableThreads, usableProcessors } from './processors.js';
export { type HardwareProfile, profileText, renameKeys, toSnake } from './profile.js';
export type { ReadLimit } from './read-limit.js';
export { columns, dimension, heads, rows } from './tensor.js';
export { type Lane, type LaneSummary, Trace } from './trace.js';
export { defaultTransfer, type GatherBy, makeTransfer, shardsOf, type Transfer } from './transfer.js';
export { counted, formatBytes, formatRate, GiB, KiB, MiB, parseBytes, roundDown, roundUp } from './units.js';
