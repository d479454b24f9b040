// A first look at the command line, before anything is loaded: enough to know what can be begun meanwhile.

import { COMMANDS, type CommandName } from './options/tables/commands.js';
import { readWords } from './words.js';

/** Where layers are read from, and how. */
export interface EarlyOptions {
  readonly folder: string;
  readonly dramMemory: string | undefined;
  readonly ioEngine: string | undefined;
  readonly directIo: boolean;
}

/** The commands that compute. */
export const COMPUTING: ReadonlySet<CommandName> = new Set(['generate', 'chat', 'serve', 'batch', 'score']);
/** With one of these, layers may rest elsewhere than in DRAM, or do not exist yet. */
const ELSEWHERE = [
  'nvme_offload_path',
  'gpu_resident',
  'expert_slots',
  'ds_config',
  'dummy_weights',
] as const;

/**
 * Undefined where layers may rest elsewhere than in DRAM, and where the command line will be refused.
 * @param words the command line without node and script
 */
export function glance(words: readonly string[]): EarlyOptions | undefined {
  const { command, values, asks, problem, unknown, rest } = readWords(words);
  if (!COMPUTING.has(command) || asks || problem || unknown.length > 0 || rest.length > 0) return undefined;
  if (values.cpu_offload !== true || ELSEWHERE.some((name) => name in values)) return undefined;
  if (values.dtype !== undefined && !/^b?float/.test(String(values.dtype))) return undefined;
  if (Object.keys(values).some((name) => !(name in COMMANDS[command].options))) return undefined;
  const { name: folder, dram_memory: dramMemory, io_engine: ioEngine } = values;
  const known = [dramMemory, ioEngine].every((value) => value === undefined || typeof value === 'string');
  if (typeof folder !== 'string' || folder === '' || !known) return undefined;
  return {
    folder,
    dramMemory: dramMemory as string | undefined,
    ioEngine: ioEngine as string | undefined,
    directIo: values.no_direct_io !== true,
  };
}
