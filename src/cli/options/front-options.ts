// Options of `serve` without a model: what clients ask is handed to the workers of a queue.

import type { QueueAddress } from '../../queue/address.js';
import { badOption, type OptionReader } from './option-reader.js';
import { DEFAULT_ROOM_BYTES, readAddress } from './queue-options.js';
import { readServerSettings, type ServerSettings } from './serve-options.js';
import { SERVE_OPTIONS } from './tables/serve.js';

export interface FrontOptions extends ServerSettings {
  readonly address: QueueAddress;
  /** What open requests may take of the server's memory. */
  readonly roomBytes: number;
}

/** What a server says that has no model; all else is said to workers. */
const OF_FRONT: ReadonlySet<string> = new Set([
  'queue',
  'job',
  'queue_memory',
  'host',
  'port',
  'api_key',
  'served_model_name',
  'drain_seconds',
  'data',
  'log_requests',
  'tool_parser',
  'reasoning_parser',
  'generation_config',
  'max_context',
  'max_requests',
  'max_client_requests',
  'max_open_bytes',
  'max_body',
  'log_level',
]);

/** Throws BAD_OPTION. */
export function readFrontOptions(options: OptionReader): FrontOptions {
  const wrong = Object.keys(SERVE_OPTIONS).find((name) => options.has(name) && !OF_FRONT.has(name));
  if (wrong !== undefined) {
    throw badOption(
      `--${wrong} is for whoever has a model, and a server with --queue hands what it is asked to workers: give it to worker`,
    );
  }
  const settings = readServerSettings(options);
  if (settings.servedNames.length === 0) {
    throw badOption(
      '--served_model_name is missing: a server with --queue has no model, so say what clients call that of its workers',
    );
  }
  const roomBytes = options.bytes('queue_memory') ?? DEFAULT_ROOM_BYTES;
  return { ...settings, address: readAddress(options), roomBytes };
}
