// Signals of a program: heard once, and left alone when what they would end has ended.

import type { Signal } from './types.js';

interface Heard {
  readonly calls: Set<() => void>;
  readonly listener: () => void;
}

/** Signals that something waits for. One listener each, since Node warns of many, and programs share one signal. */
const heard = new WeakMap<Signal, Heard>();

/** Calls `onAbort` when the signal is aborted, at once where it is; until the returned function is called. */
export function listen(signal: Signal | undefined, onAbort: (reason: unknown) => void): () => void {
  if (!signal) return () => undefined;
  const call = () => onAbort(signal.reason);
  if (signal.aborted) {
    call();
    return () => undefined;
  }
  const { calls, listener } = heard.get(signal) ?? hear(signal);
  calls.add(call);
  return () => {
    if (!calls.delete(call) || calls.size > 0) return;
    heard.delete(signal);
    signal.removeEventListener('abort', listener);
  };
}

function hear(signal: Signal): Heard {
  const calls = new Set<() => void>();
  const listener = () => {
    for (const call of [...calls]) call();
  };
  heard.set(signal, { calls, listener });
  signal.addEventListener('abort', listener);
  return { calls, listener };
}

/** Runs `work`, which listens to a signal of ours that follows the program's. Once that is aborted, rejects with its reason. */
export async function following<T>(
  signal: Signal | undefined,
  work: (own: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const forget = listen(signal, (reason) => controller.abort(reason));
  try {
    controller.signal.throwIfAborted();
    return await work(controller.signal);
  } catch (error) {
    controller.signal.throwIfAborted();
    throw error;
  } finally {
    forget();
  }
}
