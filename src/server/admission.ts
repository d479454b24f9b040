// How much may be asked for at once: beyond it a client is told when to ask again.

import { ApiError } from '../api/api-error.js';

export interface AdmissionLimits {
  /** Requests that have not been answered, of everybody and of one client. */
  readonly requests: number;
  readonly requestsOfClient: number;
  /** Tokens of prompts and texts that these may come to. */
  readonly tokens: number;
  /** What their bodies take. */
  readonly bytes: number;
}

/** A request that was let in; left once, when it has been answered. */
export interface Ticket {
  /** Once the prompt's tokens are known. Throws an ApiError. */
  readonly claimTokens: (tokens: number) => void;
  readonly leave: () => void;
}

/** How much the time of one more answer changes what is expected of the next. */
const WEIGHT = 0.1;
const MOST_RETRY_SECONDS = 120;

export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #ofClient = new Map<string, number>();
  #requests = 0;
  #tokens = 0;
  #bytes = 0;
  #refused = 0;
  #lastAnswerMs: number | undefined;
  #secondsPerAnswer = 1;
  #waiting: (() => void)[] = [];

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  get open(): { readonly requests: number; readonly tokens: number; readonly bytes: number } {
    return { requests: this.#requests, tokens: this.#tokens, bytes: this.#bytes };
  }

  /** Since the start. */
  get refused(): number {
    return this.#refused;
  }

  /** Throws an ApiError. */
  enter(client: string, bytes: number): Ticket {
    const own = this.#ofClient.get(client) ?? 0;
    const { requests, requestsOfClient } = this.#limits;
    if (this.#requests >= requests) throw this.#full(`${requests} requests are open`);
    if (own >= requestsOfClient) throw this.#full(`${requestsOfClient} requests of this client are open`);
    if (this.#bytes + bytes > this.#limits.bytes && this.#requests > 0)
      throw this.#full('open requests are too long');
    this.#requests++;
    this.#bytes += bytes;
    this.#ofClient.set(client, own + 1);
    let [tokens, isOpen] = [0, true];
    return {
      claimTokens: (wanted) => {
        if (!isOpen) return;
        if (this.#tokens + wanted > this.#limits.tokens && this.#tokens > 0) {
          throw this.#full(`${this.#tokens} tokens are being made or waited for`);
        }
        tokens += wanted;
        this.#tokens += wanted;
      },
      leave: () => {
        if (!isOpen) return;
        isOpen = false;
        this.#requests--;
        this.#bytes -= bytes;
        this.#tokens -= tokens;
        this.#leaveClient(client);
        this.#noteAnswer();
      },
    };
  }

  /** Resolves when no request is open. */
  async whenEmpty(): Promise<void> {
    while (this.#requests > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #leaveClient(client: string): void {
    const left = (this.#ofClient.get(client) ?? 1) - 1;
    if (left > 0) this.#ofClient.set(client, left);
    else this.#ofClient.delete(client);
  }

  #noteAnswer(): void {
    const nowMs = performance.now();
    if (this.#lastAnswerMs !== undefined) {
      const seconds = (nowMs - this.#lastAnswerMs) / 1e3;
      this.#secondsPerAnswer += WEIGHT * (seconds - this.#secondsPerAnswer);
    }
    this.#lastAnswerMs = nowMs;
    if (this.#requests > 0) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  #full(why: string): ApiError {
    this.#refused++;
    const retryAfterSeconds = Math.min(MOST_RETRY_SECONDS, Math.max(1, Math.ceil(this.#secondsPerAnswer)));
    return new ApiError(`${why}: ask again in ${retryAfterSeconds} s`, {
      status: 429,
      type: 'rate_limit_error',
      code: 'rate_limit_exceeded',
      retryAfterSeconds,
    });
  }
}
