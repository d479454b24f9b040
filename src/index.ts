// What programs may import from this package: opening a model, generating, scoring, and the errors they meet.

export {
  ERROR_CODES,
  type ErrorCode,
  formatBytes,
  type LaneSummary,
  type ModelSpec,
  type Offload,
  OperatingError,
  type Plan,
  parseBytes,
  Trace,
  type Workload,
} from '../offload/index.js';
export { type Checkpoint, openCheckpoint } from './checkpoint/checkpoint.js';
export {
  type DummyCheckpoint,
  type DummyCheckpointOptions,
  type DummyTensor,
  writeDummyCheckpoint,
} from './dummy/weights.js';
export {
  describePlacement,
  Engine,
  type EngineOptions,
  type OpenedModel,
  openModel,
  planFor,
} from './engine/engine.js';
export { type GenerationOptions, type GenerationQueue, generate, generateEach } from './engine/generate.js';
export type { GenerationRequest, GenerationResult } from './engine/request.js';
export { GREEDY, type SamplingSettings } from './engine/sampler.js';
export type { PassProgress } from './engine/scheduler.js';
export { type Score, type ScoreOptions, score, windowCount } from './engine/score.js';
export { type DownloadProgress, type ResolveOptions, resolveModelFolder } from './hub/model-folder.js';
export { buildArchitecture, tensorList } from './models/registry.js';
export { type StagedWeights, type StageOptions, stageCheckpoint } from './staging/staging.js';
export { type ChatTemplate, loadChatTemplate, type Message } from './text/chat.js';
export { StoppingDecoder } from './text/stop-strings.js';
export { IncrementalDecoder } from './text/text-decoder.js';
export { loadTokenizer, type Tokenizer } from './text/tokenizer/tokenizer.js';
