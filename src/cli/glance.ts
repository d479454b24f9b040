// A first look at the command line, without the parser: enough to know what can be begun while everything else is loaded.

import { parseArgs } from 'node:util';
import type { OptionReader } from './options/option-reader.js';

/** Where layers are read from, and how. */
export interface EarlyOptions {
  readonly folder: string;
  readonly dramMemory: string | undefined;
  readonly ioEngine: string | undefined;
  readonly directIo: boolean;
}

/** The commands that compute. */
export const COMPUTING: ReadonlySet<string> = new Set(['generate', 'score']);
/** With one of these, layers may rest elsewhere than in DRAM, or do not exist yet. */
const ELSEWHERE = ['nvme_offload_path', 'gpu_resident', 'ds_config', 'dummy_weights'] as const;

/**
 * Undefined where layers may rest elsewhere than in DRAM. Anything is taken for a command line, so that what this says
 * holds only where the options, read properly, agree.
 * @param words the command line without node and script
 */
export function glance(words: readonly string[]): EarlyOptions | undefined {
  const [first = '-'] = words;
  if (!first.startsWith('-') && !COMPUTING.has(first)) return undefined;
  const { values } = parseArgs({
    args: words.map(underscored),
    strict: false,
    options: {
      name: { type: 'string' },
      cpu_offload: { type: 'boolean' },
      dram_memory: { type: 'string' },
      io_engine: { type: 'string' },
      no_direct_io: { type: 'boolean' },
    },
  });
  if (values.cpu_offload !== true || ELSEWHERE.some((name) => name in values)) return undefined;
  const [folder, dramMemory, ioEngine] = [values.name, values.dram_memory, values.io_engine].map((value) =>
    typeof value === 'string' ? value : undefined,
  );
  if (folder === undefined) return undefined;
  return { folder, dramMemory, ioEngine, directIo: values.no_direct_io !== true };
}

/** Whether the options are what they seemed at a glance. */
export function agrees(glimpsed: EarlyOptions, options: OptionReader): boolean {
  return (
    options.flag('cpu_offload') &&
    !ELSEWHERE.some((name) => options.has(name)) &&
    options.text('name') === glimpsed.folder &&
    options.text('dram_memory') === glimpsed.dramMemory &&
    options.text('io_engine') === glimpsed.ioEngine &&
    options.flag('no_direct_io') === !glimpsed.directIo
  );
}

/** `--batch-size=4` → `--batch_size=4`; values stay as they are. */
export function underscored(word: string): string {
  const match = /^(--[a-z][a-z_-]*)(=.*)?$/s.exec(word);
  if (!match) return word;
  const [, name = '', value = ''] = match;
  return `--${name.slice(2).replaceAll('-', '_')}${value}`;
}
