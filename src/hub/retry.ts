// Trying again what may work a moment later: with growing pauses, as long as the server asks for, and not for ever.

import { setTimeout as sleep } from 'node:timers/promises';
import { OperatingError } from '../../offload/index.js';

/** A failure that may not come again at the next attempt: a dropped connection, an overloaded server. */
export class Transient extends Error {
  readonly retryAfterMs: number | undefined;
  constructor(message: string, options: { cause?: unknown; retryAfterMs?: number | undefined } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : {});
    this.retryAfterMs = options.retryAfterMs;
  }
}

export interface RetryPolicy {
  /** Attempts in a row that bring nothing. */
  readonly attempts: number;
  /** The pause before the second attempt; it doubles with each further one, up to `maxPauseMs`. */
  readonly firstPauseMs: number;
  readonly maxPauseMs: number;
  /** Replaced by tests. Rejects when the signal aborts. */
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
}

export const DEFAULT_RETRIES: RetryPolicy = {
  attempts: 6,
  firstPauseMs: 1000,
  maxPauseMs: 30_000,
  pause: (ms, signal) => sleep(ms, undefined, { signal }),
};

/** A server that wants more patience than this is reported instead. */
const MAX_RETRY_AFTER_MS = 600_000;
/** Drops after some progress do not count as failures, yet must not go on for ever either. */
const MAX_ATTEMPTS = 1000;

export interface Attempts {
  /** For messages. */
  readonly what: string;
  readonly policy: RetryPolicy;
  readonly signal: AbortSignal;
  /** Counts what they have brought; default nothing. */
  readonly progress?: () => number;
}

/**
 * The result of the first attempt that does not throw Transient. `progress` counts what attempts brought: after
 * progress the pauses begin anew. Errors: DOWNLOAD_FAILED, what the signal was aborted with, and others of `attempt`.
 */
export async function withRetries<T>(
  attempt: () => Promise<T>,
  { what, policy, signal, progress = () => 0 }: Attempts,
): Promise<T> {
  let failures = 0;
  let best = progress();
  for (let count = 1; ; count++) {
    stopIfAborted(signal);
    try {
      return await attempt();
    } catch (error) {
      stopIfAborted(signal);
      if (!(error instanceof Transient)) throw error;
      failures = progress() > best ? 1 : failures + 1;
      best = Math.max(best, progress());
      const pauseMs =
        error.retryAfterMs ?? Math.min(policy.firstPauseMs * 2 ** (failures - 1), policy.maxPauseMs);
      if (failures >= policy.attempts || count >= MAX_ATTEMPTS || pauseMs > MAX_RETRY_AFTER_MS) {
        throw givingUp(what, error, failures, pauseMs);
      }
      await policy.pause(pauseMs, signal).catch((refused: unknown) => {
        stopIfAborted(signal);
        throw refused;
      });
    }
  }
}

function givingUp(what: string, error: Transient, failures: number, pauseMs: number): OperatingError {
  const ending =
    pauseMs > MAX_RETRY_AFTER_MS
      ? `the server asks to wait ${Math.ceil(pauseMs / 1000)} s: try again then`
      : `${failures} attempts in a row failed: try again later, what was downloaded is kept`;
  return new OperatingError('DOWNLOAD_FAILED', `${what}: ${error.message}; ${ending}`, { cause: error });
}

/** The value of a Retry-After header: seconds, or a date (RFC 9110 §10.2.3). */
export function retryAfterMs(header: string | null, now = Date.now()): number | undefined {
  if (header === null) return undefined;
  const ms = /^\s*\d+\s*$/.test(header) ? Number(header) * 1000 : Date.parse(header) - now;
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

/** Throws what the program is to end with. */
export function stopIfAborted(signal: AbortSignal): void {
  if (!signal.aborted) return;
  if (signal.reason instanceof OperatingError) throw signal.reason;
  throw new OperatingError('INTERRUPTED', 'stopped while downloading; what was downloaded is kept');
}
