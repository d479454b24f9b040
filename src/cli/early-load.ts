// Opens a checkpoint and begins to read its layers while the command line is read, commands are imported, and a GPU's
// driver starts.

import { detectHardware, GiB, LoadAhead, parseBytes } from '../../offload/index.js';
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

/** What a fast drive reads while a driver starts and a plan is made. */
const MOST_BYTES = 8 * GiB;
/** What layers that do not stay in DRAM may take of it beside the plan, which leaves more than that to the system. */
const PASSING_SHARE = (1 - DRAM_SHARE) / 3;

/** Undefined where layers would not fit, and where anything is amiss, of which the command will tell. */
export async function beginEarly(options: EarlyOptions): Promise<EarlyLoad | undefined> {
  const { folder, restInDram, dramMemory, ioEngine, directIo } = options;
  try {
    const opened = await openModel(folder);
    const { dramAvailableBytes } = detectHardware();
    const asked = dramMemory === undefined ? undefined : parseBytes(dramMemory, '--dram_memory');
    // More than is available is asked for now and then.
    const budgetBytes = Math.min(asked ?? dramAvailableBytes * DRAM_SHARE, dramAvailableBytes);
    if (restInDram && opened.checkpoint.totalBytes > budgetBytes) return undefined;
    const engine = ioEngine === 'threads' || ioEngine === 'io_uring' ? ioEngine : 'auto';
    const ahead = new LoadAhead(opened.model, opened.checkpoint.files, {
      io: { engine, direct: directIo },
      ...(restInDram ? {} : { mostBytes: Math.min(MOST_BYTES, dramAvailableBytes * PASSING_SHARE) }),
    });
    return { options, opened, ahead, dramAvailableBytes, sinceSeconds: performance.now() / 1e3 };
  } catch {
    return undefined;
  }
}
