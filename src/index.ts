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
export { type ChatTemplate, loadChatTemplate, type Message } from './chat.js';
export { type Checkpoint, openCheckpoint } from './checkpoint.js';
export {
  type DummyCheckpoint,
  type DummyCheckpointOptions,
  type DummyTensor,
  writeDummyCheckpoint,
} from './dummy-weights.js';
export {
  describePlacement,
  Engine,
  type EngineOptions,
  type OpenedModel,
  openModel,
  planFor,
} from './engine.js';
export {
  type GenerationOptions,
  type GenerationRequest,
  type GenerationResult,
  generate,
  generateEach,
  type PassProgress,
  type RequestQueue,
} from './generate.js';
export { type DownloadProgress, type ResolveOptions, resolveModelFolder } from './hub.js';
export { buildArchitecture, tensorList } from './models/registry.js';
export { GREEDY, type SamplingSettings } from './sampler.js';
export { type Score, type ScoreOptions, score, windowCount } from './score.js';
export { type StagedWeights, type StageOptions, stageCheckpoint } from './staging.js';
export { StoppingStream } from './stop-strings.js';
export { TextStream } from './text-stream.js';
export { loadTokenizer, type Tokenizer } from './tokenizer.js';
