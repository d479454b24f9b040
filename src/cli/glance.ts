// A first look at the command line, before anything is loaded: enough to know what can be begun meanwhile.

import { COMMANDS, type CommandName } from './options/tables/commands.js';
import { readWords } from './words.js';

/** Where layers are read from, and how. */
export interface EarlyOptions {
  readonly folder: string;
  /** All layers are to rest in DRAM; else it is not known yet where they will. */
  readonly restInDram: boolean;
  readonly dramMemory: string | undefined;
  readonly ioEngine: string | undefined;
  readonly directIo: boolean;
}

/** The commands that compute. */
export const COMPUTING: ReadonlySet<CommandName> = new Set(['generate', 'chat', 'serve', 'batch', 'score']);
/** Those of them that compute at once, whatever comes. */
const AT_ONCE: ReadonlySet<CommandName> = new Set(['generate', 'batch', 'score']);
/** With one of these, layers may not all rest in DRAM. */
const ELSEWHERE = ['gpu_resident', 'expert_slots'] as const;
/** With one of these, layers may be read from elsewhere, or do not exist yet. */
const OTHERS = ['nvme_offload_path', 'ds_config', 'dummy_weights'] as const;

/**
 * Undefined where other layers may be read, where memory is bounded and it is not known yet where layers will rest, and where the command
 * line will be refused.
 * @param words the command line without node and script
 */
export function glance(words: readonly string[]): EarlyOptions | undefined {
  const { command, values, asks, problem, unknown, rest } = readWords(words);
  if (!COMPUTING.has(command) || asks || problem || unknown.length > 0 || rest.length > 0) return undefined;
  if (OTHERS.some((name) => name in values)) return undefined;
  const restInDram = values.cpu_offload === true && !ELSEWHERE.some((name) => name in values);
  if (!restInDram && (!AT_ONCE.has(command) || 'dram_memory' in values)) return undefined;
  if (values.dtype !== undefined && !/^b?float/.test(String(values.dtype))) return undefined;
  if (Object.keys(values).some((name) => !(name in COMMANDS[command].options))) return undefined;
  const { name: folder, dram_memory: dramMemory, io_engine: ioEngine } = values;
  const known = [dramMemory, ioEngine].every((value) => value === undefined || typeof value === 'string');
  if (typeof folder !== 'string' || folder === '' || !known) return undefined;
  return {
    folder,
    restInDram,
    dramMemory: dramMemory as string | undefined,
    ioEngine: ioEngine as string | undefined,
    directIo: values.no_direct_io !== true,
  };
}
