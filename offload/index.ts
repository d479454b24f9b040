// What the application may use of the runtime; everything else in this folder is internal.

export { type ComputeType, CpuBackend, type CpuBackendOptions } from './backends/cpu.js';
export { CudaBackend, type CudaBackendOptions, cudaStatus, warmCuda } from './backends/cuda.js';
export { NativeHost } from './backends/native-host.js';
export { machineTopology, type NumaTopology } from './backends/numa.js';
export { startableThreads, usableProcessors } from './backends/processors.js';
export { chromeJson } from './chrome-trace.js';
export { assert, cannotOpen, ERROR_CODES, type ErrorCode, OperatingError, present } from './errors.js';
export type { BenchSizes } from './measure/bench-sizes.js';
export { measureCompute, type WeightType } from './measure/compute.js';
export { type DriveMeasurement, type DriveReader, measureDrive } from './measure/drive.js';
export {
  type ComputeLimits,
  detectHardware,
  type Hardware,
  measureComputeLimits,
} from './measure/hardware.js';
export {
  type LinkMeasurement,
  measureLinks,
  measureTogether,
  type TogetherMeasurement,
} from './measure/link.js';
export { checkInstructions, type IoProbe, instructionSets, probeDirect, probeIo } from './measure/probe.js';
export {
  decideTransfer,
  type GatherWish,
  measureTransfer,
  type TransferTimes,
  wholeOf,
} from './measure/transfer.js';
export { areAlike, sameShape } from './model/alike.js';
export { alikeCaches, type CacheSpec, type StateField, seenTokens } from './model/cache-spec.js';
export { CUTS } from './model/cut-layer.js';
export { type SharedDimension, sharedDimension, sliceLayer } from './model/device-slices.js';
export type { ForwardOps } from './model/forward-ops.js';
export type { FrequenciesByLength, PositionScale, RouteOptions, Routing } from './model/forward-options.js';
export { type PassPlaces, placeName } from './model/forward-places.js';
export { firstRead, type HorizonPages } from './model/horizon.js';
export { PAGE_TOKENS, pageBytes, pagesFor } from './model/kv-cache.js';
export { KV_CHOICES, KV_TYPE_NAMES, type KvChoice, type KvDType, kvTypeOf } from './model/kv-type.js';
export {
  type Extent,
  hostLayout,
  type LayerSpec,
  layerOf,
  layoutLayer,
  type MatrixSpec,
  type TensorSpec,
  vectorsOf,
} from './model/layout.js';
export type { LayerForward, LookedUpRows, ModelSpec, RowTable, Weights } from './model/model.js';
export { hasStates } from './model/state-cache.js';
export {
  partBytes,
  pathsOf,
  type StripedFile,
  type StripePart,
  type StripeRun,
  type Stripes,
  secondsPerByte,
  stripeRuns,
  stripesFor,
  type WeightFile,
} from './model/stripes.js';
export type { DeviceResident, ExpertSlotsOption, Offload, PlanOptions, Workload } from './plan/input.js';
export { makePlan } from './plan/make-plan.js';
export { headRowsOf } from './plan/pass-sizes.js';
export type { BufferPlan, Plan, PlannedLayer, PlanTerm, Tier } from './plan/plan.js';
export { LINK_BYTES_PER_SECOND, PEER_BYTES_PER_SECOND } from './plan/price.js';
export { type HardwareProfile, profileText, renameKeys, toSnake } from './plan/profile.js';
export { slicesTransfer } from './plan/sharing.js';
export { isAtRest } from './plan/slots.js';
export { batchCountOf } from './plan/stages.js';
export {
  defaultTransfer,
  type GatherBy,
  makeTransfer,
  shardsOf,
  stagesTransfer,
  type Transfer,
} from './plan/transfer.js';
export type {
  Backend,
  Device,
  DeviceEvent,
  DeviceStream,
  DriveFigures,
  FileRef,
  HostMemory,
  HostPurpose,
  ReadRequest,
  ReadSpan,
} from './port/backend.js';
export { DTYPE_BYTES, type DType, elementCount, type FloatType } from './port/dtype.js';
export {
  type FileState,
  hasSameContent,
  isSameFile,
  isUnchanged,
  stateFrom,
  stateOfPath,
} from './port/file-state.js';
export {
  type Format,
  type FormatName,
  formatOf,
  isDense,
  isLike,
  PART_NAMES,
  type PartName,
  type Parts,
} from './port/formats.js';
export { lockFile, quantise, signalTold, signalWatch, useThreads } from './port/native.js';
export type { CudaStatus } from './port/native-devices.js';
export type { QuantiseJob, QuantiseLoss, QuantiseTo } from './port/native-quantise.js';
export {
  type Activation,
  type Memory,
  NO_TOKEN,
  PLAIN_ROUTE,
  type RouteRule,
  type RouteScore,
  type ScoreRule,
  type Tensor,
  type Weight,
} from './port/ops.js';
export { platformProblem } from './port/platform.js';
export {
  columns,
  dimension,
  heads,
  innermost,
  reshaped,
  rows,
  splitHeads,
} from './port/tensor.js';
export { denseWeight, weightRows } from './port/weights.js';
export { type MicroBatchShape, predictPass } from './predict/predict.js';
export type { Bound, PredictedPass } from './predict/predicted.js';
export type { SlotCounts } from './run/device-slots.js';
export { Executor, type ExecutorOptions } from './run/executor.js';
export {
  type AddedToTokens,
  type MicroBatch,
  type PageRun,
  type Pass,
  type SamplingRow,
  type SequenceSlice,
  type TokenMask,
  tokenCount,
} from './run/pass.js';
export type { PassResult } from './run/results.js';
export { LoadAhead } from './stream/load-ahead.js';
export type { ReadLimit } from './stream/read-limit.js';
export type { RowCounts } from './stream/row-share.js';
export { type Lane, type LaneSummary, type LayerSummary, type Span, Trace } from './trace.js';
export { counted, formatBytes, formatRate, GiB, KiB, MiB, parseBytes, roundDown, roundUp } from './units.js';
