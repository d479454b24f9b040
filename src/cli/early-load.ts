// Opens a checkpoint and begins to read its layers while the command line is read, commands are imported, and a GPU's
// driver starts.

import { detectHardware, LoadAhead, parseBytes } from '../../offload/index.js';
import { type OpenedModel, openModel } from '../engine/open-model.js';
import { DRAM_SHARE } from '../engine/plan-for.js';
import type { EarlyOptions } from './glance.js';

export interface EarlyLoad {
  readonly options: EarlyOptions;
  readonly opened: OpenedModel;
  readonly ahead: LoadAhead;
  /** Before anything was read: plans count what is read themselves. */
  readonly dramAvailableBytes: number;
  /** When reading began, in seconds of the process. */
  readonly sinceSeconds: number;
}

/** Undefined where layers would not fit, and where anything is amiss, of which the command will tell. */
export async function beginEarly(options: EarlyOptions): Promise<EarlyLoad | undefined> {
  const { folder, dramMemory, ioEngine, directIo } = options;
  try {
    const opened = await openModel(folder);
    const { dramAvailableBytes } = detectHardware();
    const asked = dramMemory === undefined ? undefined : parseBytes(dramMemory, '--dram_memory');
    // More than is available is asked for now and then.
    const budgetBytes = Math.min(asked ?? dramAvailableBytes * DRAM_SHARE, dramAvailableBytes);
    if (opened.checkpoint.totalBytes > budgetBytes) return undefined;
    const engine = ioEngine === 'threads' || ioEngine === 'io_uring' ? ioEngine : 'auto';
    const ahead = new LoadAhead(opened.model, opened.checkpoint.files, { engine, direct: directIo });
    return { options, opened, ahead, dramAvailableBytes, sinceSeconds: performance.now() / 1e3 };
  } catch {
    return undefined;
  }
}
