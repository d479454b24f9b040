// Options of `serve`.

import { isLoopback } from '../../server/access.js';
import { badOption, type OptionReader } from './option-reader.js';
import { readSharedOptions } from './shared-options.js';
import type { SharedOptions } from './shared-settings.js';

/** What is said to any server, whoever makes its texts. */
export interface ServerSettings {
  readonly host: string;
  readonly port: number;
  readonly keys: readonly string[];
  /** What clients call the model; none: what it was opened by. */
  readonly servedNames: readonly string[];
  readonly drainMs: number;
  readonly logsBodies: boolean;
  /** Where files and batches are kept; undefined: there are none. */
  readonly dataFolder: string | undefined;
  readonly generationConfig: boolean;
  /** Undefined: as the chat template says. */
  readonly toolParser: string | undefined;
  readonly reasoningParser: string | undefined;
  readonly maxContext: number | undefined;
  readonly mostRequests: number;
  readonly mostClientRequests: number | undefined;
  readonly mostOpenBytes: number;
  /** Undefined: as the context has it. */
  readonly mostBodyBytes: number | undefined;
}

export interface ServeOptions extends ServerSettings, SharedOptions {
  readonly maxWaitMs: number;
  readonly batchSize: number | undefined;
  readonly cacheTokens: number | undefined;
  readonly mostOpenTokens: number | undefined;
}

/** Where a key may lie that nobody is to see in a list of processes. */
const KEY_VARIABLE = 'ZERO_INFERENCE_API_KEY';
const MOST_SECONDS = 86_400;
const MIB = 2 ** 20;

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readServeOptions(options: OptionReader, environment = process.env): ServeOptions {
  return {
    ...readServerSettings(options, environment),
    ...readSharedOptions(options),
    maxWaitMs: 1e3 * (seconds(options, 'max_wait') ?? 0),
    batchSize: options.count('batch_size'),
    cacheTokens: options.count('cache_tokens'),
    mostOpenTokens: options.count('max_open_tokens'),
  };
}

/** Throws BAD_OPTION. */
export function readServerSettings(options: OptionReader, environment = process.env): ServerSettings {
  const host = options.text('host') ?? '127.0.0.1';
  const kept = environment[KEY_VARIABLE];
  const keys = [...options.list('api_key'), ...(kept ? [kept] : [])];
  checkKeys(keys);
  if (!isLoopback(host) && keys.length === 0) {
    throw badOption(
      `--host is ${host}, which other machines reach: give clients a key with --api_key or ${KEY_VARIABLE}`,
    );
  }
  return {
    host,
    port: options.count('port', 0, 65_535) ?? 8080,
    keys,
    servedNames: options.list('served_model_name'),
    drainMs: 1e3 * (seconds(options, 'drain_seconds') ?? 30),
    logsBodies: options.flag('log_requests'),
    toolParser: options.text('tool_parser'),
    reasoningParser: options.text('reasoning_parser'),
    dataFolder: options.path('data'),
    generationConfig: options.switch('generation_config') ?? true,
    maxContext: options.count('max_context'),
    mostRequests: options.count('max_requests') ?? 1024,
    mostClientRequests: options.count('max_client_requests'),
    mostOpenBytes: options.bytes('max_open_bytes') ?? 256 * MIB,
    mostBodyBytes: options.bytes('max_body'),
  };
}

function seconds(options: OptionReader, name: string): number | undefined {
  const given = options.number(name);
  if (given === undefined || (given >= 0 && given <= MOST_SECONDS)) return given;
  throw badOption(`--${name} is ${given}: give seconds from 0 to ${MOST_SECONDS}`);
}

function checkKeys(keys: readonly string[]): void {
  const wrong = keys.find((key) => !/^[\x21-\x7e]{8,1024}$/.test(key));
  if (wrong === undefined) return;
  throw badOption(
    '--api_key has fewer than 8 characters, or some that no header may have: take a long random one',
  );
}
