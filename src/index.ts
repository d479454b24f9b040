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
export {
  type GenerationOptions,
  type GenerationRequest,
  type GenerationResult,
  generate,
  generateEach,
  type PassProgress,
  type RequestQueue,
} from './engine/generate.js';
export { GREEDY, type SamplingSettings } from './engine/sampler.js';
export { type Score, type ScoreOptions, score, windowCount } from './engine/score.js';
export { type DownloadProgress, type ResolveOptions, resolveModelFolder } from './hub/model-folder.js';
export { buildArchitecture, tensorList } from './models/registry.js';
export { type StagedWeights, type StageOptions, stageCheckpoint } from './staging/staging.js';
export { type ChatTemplate, loadChatTemplate, type Message } from './text/chat.js';
export { StoppingStream } from './text/stop-strings.js';
export { TextStream } from './text/text-decoder.js';
export { loadTokenizer, type Tokenizer } from './text/tokenizer/tokenizer.js';
