// The page at `/`, its files, and the live stream of the engine's counters.

import type { FastifyReply } from 'fastify';
import type { Plan } from '../../../offload/index.js';
import { ApiError } from '../../api/api-error.js';
import type { ServerEvent } from '../../api/reply.js';
import type { Engine } from '../../engine/engine.js';
import { describePlacement } from '../../engine/placement.js';
import { sendEvents } from '../event-stream.js';
import { FRAME_MS, LiveFeed } from '../live-feed.js';
import type { LiveFrame, LiveHello } from '../live-frame.js';
import { PAGE_PATHS, pageFile } from '../page-files.js';
import type { RouteGroup, ServerParts } from '../server-parts.js';

export interface PageParts {
  readonly engine: Pick<Engine, 'plan' | 'trace' | 'prefixCounts' | 'executor'>;
  readonly modelName: string;
  /** The drive alone, measured in this run. */
  readonly driveBytesPerSecond?: number | undefined;
  /** Batches of the store that have not ended, and their open requests. */
  readonly stored: () => LiveFrame['stored'];
}

const MOST_WATCHERS = 32;

export function pageRoutes(page: PageParts): RouteGroup {
  return (app, parts) => {
    for (const path of PAGE_PATHS) {
      app.get(path, async (_, reply) => {
        const { type, content } = pageFile(path);
        return reply.header('content-type', type).send(content);
      });
    }
    const feed = makeFeed(page, parts);
    app.get('/live', async (_, reply) => live(reply, feed, page, parts));
  };
}

async function live(
  reply: FastifyReply,
  feed: LiveFeed,
  { engine, modelName }: PageParts,
  { events }: ServerParts,
): Promise<FastifyReply> {
  if (feed.watchers >= MOST_WATCHERS) throw tooMany();
  const left = new AbortController();
  reply.raw.on('close', () => left.abort());
  reply.hijack();
  await sendEvents(
    reply.raw,
    framesOf(feed, helloOf(engine.plan, modelName), left.signal),
    left.signal,
    events,
  );
  return reply;
}

/** Whoever reads slowly is told of the latest, and not of all that it has missed. */
async function* framesOf(
  feed: LiveFeed,
  hello: LiveHello,
  signal: AbortSignal,
): AsyncGenerator<ServerEvent, void> {
  yield { data: hello };
  let latest: LiveFrame | undefined;
  let wake: () => void = () => undefined;
  const end = feed.watch((frame) => {
    latest = frame;
    wake();
  });
  signal.addEventListener('abort', () => wake());
  try {
    while (!signal.aborted) {
      if (latest) {
        const data = latest;
        latest = undefined;
        yield { data };
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    end();
  }
}

function helloOf(plan: Plan, model: string): LiveHello {
  return {
    model,
    placement: describePlacement(plan),
    tiers: plan.layers.map(({ tier }) => tier),
    devices: plan.deviceCount,
    frameMs: FRAME_MS,
  };
}

function makeFeed({ engine, driveBytesPerSecond, stored }: PageParts, parts: ServerParts): LiveFeed {
  const { admission, metrics } = parts;
  const experts = new SlotHits(engine.executor);
  return new LiveFeed({
    trace: engine.trace,
    places: new Map(engine.plan.layers.map(({ layout }, place) => [layout.layer.name, place])),
    limits: new Map(driveBytesPerSecond === undefined ? [] : [['nvme→dram', driveBytesPerSecond]]),
    rest: () => {
      const { sharedTokens, promptTokens } = engine.prefixCounts;
      const held = stored();
      // The latest pass says nothing of now where nobody asks for anything.
      const pass = admission.open.requests + held.requests > 0 ? metrics.latestPass : undefined;
      return {
        tokensPerSecond: metrics.tokensPerSecond,
        batch: { sequences: pass?.sequences ?? 0, capacity: pass?.capacity ?? engine.plan.sequences },
        waiting: pass?.waitingPrompts ?? 0,
        openRequests: admission.open.requests,
        stored: held,
        prefixHitShare: promptTokens > 0 ? sharedTokens / promptTokens : null,
        expertHitShare: experts.share,
      };
    },
  });
}

/** So often devices are asked, at most. */
const ASKED_MS = 2000;

/** How often chosen experts lay in slots: asked now and then, since the answer comes from devices. */
class SlotHits {
  readonly #executor: Pick<Engine['executor'], 'slotCounts'>;
  #share: number | null = null;
  #askedMs = Number.NEGATIVE_INFINITY;

  constructor(executor: Pick<Engine['executor'], 'slotCounts'>) {
    this.#executor = executor;
  }

  get share(): number | null {
    const nowMs = performance.now();
    if (nowMs - this.#askedMs >= ASKED_MS) {
      this.#askedMs = nowMs;
      // An engine that has failed says so to those who ask it for texts.
      this.#ask().catch(() => undefined);
    }
    return this.#share;
  }

  async #ask(): Promise<void> {
    const counts = await this.#executor.slotCounts();
    if (counts && counts.hits + counts.misses > 0) this.#share = counts.hits / (counts.hits + counts.misses);
  }
}

function tooMany(): ApiError {
  return new ApiError(`${MOST_WATCHERS} others watch already: close a page`, {
    status: 429,
    type: 'rate_limit_error',
    code: 'too_many_watchers',
    retryAfterSeconds: 10,
  });
}
