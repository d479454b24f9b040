// A server put together with who answers, a model of its own or others, and taken down again without losing an answer.

import type { Logger } from 'pino';
import { Api } from '../api/api.js';
import type { Answering } from '../api/reply.js';
import type { ServedModel } from '../api/served-model.js';
import type { Engine } from '../engine/engine.js';
import { Admission, type AdmissionLimits } from './admission.js';
import { createServer, type HttpOptions } from './http-server.js';
import { ServerMetrics } from './metrics.js';
import type { RouteGroup, ServerParts } from './server-parts.js';

export interface ServiceOptions extends HttpOptions {
  /** 0 for one that is free. */
  readonly port: number;
  readonly limits: AdmissionLimits;
  /** So long the first of some requests waits for others. */
  readonly maxWaitMs: number;
  /** So long answers that are being made are waited for when it ends. */
  readonly drainMs: number;
  /** Bodies go to the log. */
  readonly logsBodies: boolean;
  /** A client that reads nothing for so long is left; default a minute. */
  readonly patienceMs?: number;
}

/** A model of this process. */
export interface OwnModel {
  readonly engine: Engine;
  /** All but what becomes of its texts, which the service watches. */
  readonly model: ServedModel;
}

export type ServiceMakings = (OwnModel | { readonly api: Answering }) & {
  readonly log: Pick<Logger, 'info' | 'warn' | 'error'>;
  readonly extra?: readonly RouteGroup[];
};

/** Proxies close what is silent for a minute. */
const ALIVE_MS = 15_000;
const PATIENCE_MS = 60_000;

export class Service {
  readonly api: Answering;
  readonly #app: ReturnType<typeof createServer>;
  readonly #admission: Admission;
  readonly #options: ServiceOptions;
  #draining: Promise<void> | undefined;

  /** Nothing may have been submitted to an engine, which whoever opened it closes. */
  constructor(makings: ServiceMakings, options: ServiceOptions) {
    const { log, extra } = makings;
    this.#options = options;
    this.#admission = new Admission(options.limits);
    const metrics = new ServerMetrics('engine' in makings ? makings.engine : undefined);
    this.api = 'engine' in makings ? ownApi(makings, metrics, options, log) : makings.api;
    const parts: ServerParts = {
      api: this.api,
      admission: this.#admission,
      metrics,
      events: { aliveMs: ALIVE_MS, patienceMs: options.patienceMs ?? PATIENCE_MS },
      isDraining: () => this.#draining !== undefined,
      onBody: options.logsBodies ? (path, body) => log.info(`${path} ${JSON.stringify(body)}`) : undefined,
    };
    this.#app = createServer(parts, options, extra);
  }

  /** Takes requests from now on. Resolves with where. Rejects where the port is taken. */
  async listen(): Promise<string> {
    return this.#app.listen({ host: this.#options.host, port: this.#options.port });
  }

  /** Takes no more requests, waits for the answers that are being made, and closes. More than once is no fault. */
  drain(): Promise<void> {
    this.#draining ??= this.#drain();
    return this.#draining;
  }

  async #drain(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#options.drainMs);
    });
    await Promise.race([this.#admission.whenEmpty(), late]);
    clearTimeout(timer);
    await this.close();
  }

  /** At once: whoever waits for an answer gets none. */
  async close(): Promise<void> {
    this.#app.server.closeAllConnections();
    await this.#app.close();
  }
}

function ownApi(
  { engine, model }: OwnModel,
  metrics: ServerMetrics,
  { maxWaitMs }: ServiceOptions,
  log: Pick<Logger, 'error'>,
): Api {
  engine.serveWith({ maxWaitMs, onPass: (pass) => metrics.pass(pass) });
  return new Api({ ...model, observer: metrics }, (fault) => {
    log.error(`a request failed: ${causeOf(fault)}`);
  });
}

function causeOf({ cause, message }: Error): string {
  return cause instanceof Error ? `${message}: ${cause.message}` : message;
}
