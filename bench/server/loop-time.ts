// For how long one turn of the event loop has the processor, whatever else the machine does meanwhile.

import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';

export interface LoopTimes {
  /** Processor time of the longest run between two turns of the main thread's event loop. */
  readonly busyMs: number;
  /** The longest delay by the clock, in which the thread may have waited for a processor. */
  readonly delayMs: number;
}

/** What the main thread has had, as the kernel counts it. */
function threadMs(): number {
  const [ran = '0'] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ');
  return Number(ran) / 1e6;
}

export async function loopTimes<T>(work: () => Promise<T>): Promise<{ result: T; times: LoopTimes }> {
  const delay = monitorEventLoopDelay({ resolution: 5 });
  let [busyMs, before] = [0, threadMs()];
  const look = () => {
    const now = threadMs();
    busyMs = Math.max(busyMs, now - before);
    before = now;
  };
  const timer = setInterval(look, 1);
  delay.enable();
  try {
    const result = await work();
    look();
    return { result, times: { busyMs, delayMs: delay.max / 1e6 } };
  } finally {
    delay.disable();
    clearInterval(timer);
  }
}
