// Opens a checkpoint and begins to read its layers while options are checked and a GPU's driver starts.

import { detectHardware, LoadAhead } from '../../offload/index.js';
import { DRAM_SHARE, type OpenedModel, openModel } from '../engine.js';
import type { CommandContext } from './context.js';
import type { OptionReader } from './option-reader.js';
import { readIoOptions, type SharedOptions } from './shared-options.js';

export interface EarlyLoad {
  readonly folder: string;
  readonly opened: OpenedModel;
  readonly ahead: LoadAhead;
}

/** What is available before anything is read: plans count what is read themselves. */
type Available = Pick<SharedOptions, 'dramAvailableBytes'>;

/**
 * Runs a command with what can be begun early, and ends that in any case.
 * @param driver of a GPU, which starts meanwhile
 */
export async function withEarlyLoad<T>(
  options: OptionReader,
  context: CommandContext,
  driver: Promise<void>,
  command: (context: CommandContext, available: Available) => Promise<T>,
): Promise<T> {
  const { dramAvailableBytes } = detectHardware();
  const early = await begin(options, dramAvailableBytes);
  try {
    // Whoever asks the driver before it answers keeps JavaScript from queueing reads.
    if (early) await driver;
    context.log.debug(`devices can be asked after ${(performance.now() / 1e3).toFixed(2)} s`);
    return await (early ? command({ ...context, early }, { dramAvailableBytes }) : command(context, {}));
  } finally {
    await early?.ahead.close();
  }
}

/** Undefined where layers might rest elsewhere than in DRAM, and where anything is amiss: the command says what. */
async function begin(options: OptionReader, dramAvailableBytes: number): Promise<EarlyLoad | undefined> {
  try {
    const folder = options.path('name');
    if (folder === undefined || !allInDram(options)) return undefined;
    const opened = await openModel(folder);
    const budgetBytes = options.bytes('dram_memory') ?? dramAvailableBytes * DRAM_SHARE;
    if (opened.checkpoint.totalBytes > budgetBytes) return undefined;
    const ahead = new LoadAhead(opened.model, opened.checkpoint.files, readIoOptions(options));
    return { folder, opened, ahead };
  } catch {
    return undefined;
  }
}

const ELSEWHERE = ['nvme_offload_path', 'gpu_resident', 'ds_config', 'dummy_weights'] as const;

function allInDram(options: OptionReader): boolean {
  return options.flag('cpu_offload') && !ELSEWHERE.some((name) => options.has(name));
}
