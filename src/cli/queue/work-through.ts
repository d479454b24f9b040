// A worker's time with one job: its leases, the work on them, and what of it was taken by the queue.

import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { counted, OperatingError } from '../../../offload/index.js';
import type { QueueConnection } from '../../queue/connection.js';
import { Leases } from '../../queue/leases.js';
import type { JobRecord } from '../../queue/record.js';
import { UNKNOWN_LIMITS } from '../../report/limits.js';
import { rateSentence } from '../../report/report.js';
import type { CommandContext } from '../context.js';
import type { WorkerOptions } from '../options/queue-options.js';
import type { Session } from '../session.js';
import type { PartMaker } from './part-maker.js';
import { Work, type WorkEnd, type WorkOptions } from './work.js';

export interface WorkPlace {
  readonly record: JobRecord;
  readonly connection: QueueConnection;
  readonly worker: WorkerOptions;
}

export interface DoneWork {
  readonly texts: number;
  readonly passes: number;
  readonly newTokens: number;
  readonly seconds: number;
}

/** What is said at the end. @param made the texts, as a clause */
export function endOf({ texts, passes, newTokens, seconds }: DoneWork, made: string) {
  return {
    limits: UNKNOWN_LIMITS,
    figures: { texts, passes, new_tokens: newTokens, seconds },
    summary: rateSentence(`${made} in ${counted(passes, 'pass', 'passes')}`, newTokens, seconds),
  };
}

type WorkPlaceWithEngine<P> = WorkPlace &
  Pick<WorkOptions<P>, 'capacity' | 'partPrompts' | 'passes'> & {
    readonly meter: Pick<Session['meter'], 'resume'>;
  };

/** Ends with the job. Rejects with QUEUE_FAILED where another one has its name, and with what ends the worker. */
export async function workThrough<P>(
  maker: PartMaker<P>,
  { record, connection, worker, meter, ...sizes }: WorkPlaceWithEngine<P>,
  { log, progress, interrupt }: CommandContext,
): Promise<DoneWork> {
  const startMs = performance.now();
  const leases = new Leases<P>(connection, {
    id: record.id,
    leaseMs: worker.leaseSeconds * 1e3,
    onLost: (chunk) => work.lost(chunk),
  });
  const work = new Work<P>(maker, {
    connection,
    record,
    leases,
    ...sizes,
    roomBytes: worker.roomBytes,
    name: `${hostname()}:${process.pid}:${randomBytes(2).toString('hex')}`,
    log: (sentence) => log.info(sentence),
    signal: interrupt.signal,
  });
  // Others are to go on at once with what this worker leaves.
  const forget = interrupt.onStop(() => leases.release());
  try {
    await leases.start();
    progress.start(() => work.describe());
    meter.resume();
    const end: WorkEnd = await work.run();
    if (end === 'replaced') {
      throw new OperatingError(
        'QUEUE_FAILED',
        `job ${connection.address.job} is another one now, or was lost with the server's data: start this worker again`,
      );
    }
    const { texts, newTokens } = work;
    return { texts, newTokens, passes: sizes.passes(), seconds: (performance.now() - startMs) / 1e3 };
  } finally {
    progress.stop();
    forget();
    if (!interrupt.signal.aborted) await leases.release();
    await leases.close();
  }
}
