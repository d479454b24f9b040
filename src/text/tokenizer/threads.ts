// The tokenizer's own threads: its core starts one per core at the first texts, and ends the process where it cannot.

import { startableThreads, usableProcessors } from '../../../offload/index.js';

/** Threads of others that start once the tokenizer has its own: a reader, streams, and those of a device. */
const OTHER_THREADS = 24;

/** Call before the core is loaded: it is to start no more threads than there are cores, and none where they are refused. */
export function boundTokenizerThreads(): void {
  const { cores } = usableProcessors();
  const { env } = process;
  const wanted = Math.min(Number(env.RAYON_NUM_THREADS) || cores, cores);
  if (Number(env.RAYON_NUM_THREADS) > wanted) env.RAYON_NUM_THREADS = String(wanted);
  // As many once more compute.
  const needed = 2 * wanted + OTHER_THREADS;
  if (startableThreads(needed) < needed) env.TOKENIZERS_PARALLELISM = 'false';
}
