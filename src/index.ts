// What programs import: opening a model, the types of what that takes and gives, and the errors that they meet.

export { ERROR_CODES, type ErrorCode, OperatingError } from '../offload/errors.js';
export { open } from './library/open.js';
export type {
  DetokenizeOptions,
  Engine,
  EngineInfo,
  GenerateOptions,
  Generation,
  GenerationResult,
  Logger,
  Message,
  OpenOptions,
  OpenProgress,
  Piece,
  Prompt,
  Score,
  ScoreOptions,
  Signal,
  Size,
  TokenizeOptions,
} from './library/types.js';
