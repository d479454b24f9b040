// Figures for Prometheus: what clients asked, what the engine does, and what moves beneath it.

import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { TextObserver } from '../api/reply.js';
import type { Engine } from '../engine/engine.js';
import type { PassProgress } from '../engine/pass-progress.js';
import type { Admission } from './admission.js';

/** What is read of an engine when somebody looks. */
export type WatchedEngine = Pick<Engine, 'trace' | 'prefixCounts'> & {
  readonly executor: Pick<Engine['executor'], 'slotCounts' | 'rowCounts'>;
};

const SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000];

export class ServerMetrics implements TextObserver {
  readonly #registry = new Registry();
  readonly #requests = this.#counter('requests_total', 'Requests that were answered', ['path', 'status']);
  readonly #seconds = this.#histogram('request_seconds', 'Time to the end of the answer', ['path']);
  readonly #firstToken = this.#histogram(
    'time_to_first_token_seconds',
    'Time from submission to the first token',
  );
  readonly #promptTokens = this.#counter('prompt_tokens_total', 'Tokens of prompts that were given');
  readonly #newTokens = this.#counter('generated_tokens_total', 'Tokens that were made');
  readonly #passes = this.#counter('passes_total', 'Passes through all layers', ['phase']);
  readonly #passTokens = this.#counter('pass_tokens_total', 'Tokens that passes took in', ['phase']);
  readonly #batch = this.#gauge('batch_sequences', 'Sequences with tokens in the latest pass');
  readonly #capacity = this.#gauge('batch_capacity', 'Sequences that a pass has places for');
  readonly #waiting = this.#gauge(
    'queue_requests',
    'Texts that nobody had begun when the latest pass was made',
  );
  readonly #rate = this.#gauge('tokens_per_second', 'Tokens made in the latest seconds');

  #made = 0;
  /** How many had been made at times not long ago. */
  #latestPass: PassProgress | undefined;
  readonly #marks: { readonly atMs: number; readonly made: number }[] = [];

  /** @param engine absent where texts are made elsewhere */
  constructor(engine?: WatchedEngine) {
    if (!engine) return;
    this.#watchHops(engine);
    this.#watchHits(engine);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async text(admission: Admission): Promise<string> {
    const { requests, tokens, bytes } = admission.open;
    this.#openRequests.set(requests);
    this.#openTokens.set(tokens);
    this.#openBytes.set(bytes);
    this.#refused.set(admission.refused);
    this.#rate.set(this.tokensPerSecond);
    return this.#registry.metrics();
  }

  readonly #openRequests = this.#gauge('open_requests', 'Requests that have not been answered');
  readonly #openTokens = this.#gauge('open_tokens', 'Tokens that open requests may come to');
  readonly #openBytes = this.#gauge('open_bytes', 'Bytes of their bodies');
  readonly #refused = this.#gauge(
    'refused_requests',
    'Requests that were told to come again, since the start',
  );

  answered(path: string, status: number, ms: number): void {
    this.#requests.inc({ path, status: String(status) });
    this.#seconds.observe({ path }, ms / 1e3);
  }

  firstToken(seconds: number): void {
    this.#firstToken.observe(seconds);
  }

  ended(promptTokens: number, newTokens: number): void {
    this.#promptTokens.inc(promptTokens);
    this.#newTokens.inc(newTokens);
  }

  /** Undefined before the first, and once nothing has been asked for in a while. */
  get latestPass(): PassProgress | undefined {
    return this.#latestPass;
  }

  pass(pass: PassProgress): void {
    const { phase, tokens, sequences, capacity, waitingPrompts } = pass;
    this.#latestPass = pass;
    this.#passes.inc({ phase });
    this.#passTokens.inc({ phase }, tokens);
    this.#batch.set(sequences);
    this.#capacity.set(capacity);
    this.#waiting.set(waitingPrompts);
  }

  /** Over the latest seconds, of texts that are on their way as well. */
  get tokensPerSecond(): number {
    const nowMs = performance.now();
    const recent = this.#marks.filter(({ atMs }) => nowMs - atMs < RECENT_MS);
    const [first] = recent;
    return first ? (1e3 * (this.#made - first.made)) / Math.max(1, nowMs - first.atMs) : 0;
  }

  newToken(): void {
    this.#made++;
    const nowMs = performance.now();
    if (nowMs - (this.#marks.at(-1)?.atMs ?? Number.NEGATIVE_INFINITY) < MARK_MS) return;
    this.#marks.push({ atMs: nowMs, made: this.#made });
    if (this.#marks.length > RECENT_MS / MARK_MS) this.#marks.shift();
  }

  #watchHops({ trace }: WatchedEngine): void {
    const bytes = this.#gauge('hop_bytes', 'Bytes that came by a hop, since the start', ['hop', 'owner']);
    const busy = this.#gauge('hop_busy_seconds', 'Time in which a hop or a stream was at work', [
      'hop',
      'owner',
    ]);
    const stall = this.#gauge(
      'compute_stall_seconds',
      'Time in which compute waited for weights, since the start',
    );
    this.#collected(bytes, () => {
      for (const lane of trace.summaries()) {
        const labels = { hop: lane.lane, owner: lane.owner };
        bytes.set(labels, lane.bytes);
        busy.set(labels, lane.busyMs / 1e3);
      }
      stall.set(trace.computeStallMs / 1e3);
    });
  }

  #watchHits(engine: WatchedEngine): void {
    const { executor } = engine;
    const lookups = this.#gauge(
      'cache_lookups',
      'What was found and what had to be brought or computed, since the start',
      ['cache', 'result'],
    );
    const set = (cache: string, hits: number, misses: number) => {
      lookups.set({ cache, result: 'hit' }, hits);
      lookups.set({ cache, result: 'miss' }, misses);
    };
    this.#collected(lookups, async () => {
      const { sharedTokens, promptTokens } = engine.prefixCounts;
      set('prefix_tokens', sharedTokens, promptTokens - sharedTokens);
      const experts = await executor.slotCounts();
      if (experts) set('experts', experts.hits, experts.misses);
    });
  }

  /** Sets what it shows when somebody looks. */
  #collected(gauge: Gauge<string>, collect: () => void | Promise<void>): void {
    Object.assign(gauge, { collect });
  }

  #counter(name: string, help: string, labelNames: string[] = []): Counter<string> {
    return new Counter({ ...described(name, help), labelNames, registers: [this.#registry] });
  }

  #gauge(name: string, help: string, labelNames: string[] = []): Gauge<string> {
    return new Gauge({ ...described(name, help), labelNames, registers: [this.#registry] });
  }

  #histogram(name: string, help: string, labelNames: string[] = []): Histogram<string> {
    return new Histogram({
      ...described(name, help),
      labelNames,
      buckets: SECONDS,
      registers: [this.#registry],
    });
  }
}

const RECENT_MS = 10_000;
const MARK_MS = 250;

function described(name: string, help: string): { name: string; help: string } {
  return { name: `zero_inference_${name}`, help };
}
