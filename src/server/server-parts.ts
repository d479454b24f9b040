// What groups of routes get: the API, who may ask how much, and what becomes known of requests.

import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Answering, Asking } from '../api/reply.js';
import type { Admission, Ticket } from './admission.js';
import type { EventStreamOptions } from './event-stream.js';
import type { ServerMetrics } from './metrics.js';

export interface ServerParts {
  readonly api: Answering;
  readonly admission: Admission;
  readonly metrics: ServerMetrics;
  readonly events: EventStreamOptions;
  /** Nothing new is begun any more. */
  readonly isDraining: () => boolean;
  /** Told of bodies where that was asked for; nothing else ever puts a prompt into a log. */
  readonly onBody: ((path: string, body: unknown) => void) | undefined;
}

/** Registers routes that belong together. */
export type RouteGroup = (app: FastifyInstance, parts: ServerParts) => void;

declare module 'fastify' {
  interface FastifyRequest {
    /** Whose turn it is: the client's key, or where it comes from. */
    client: string;
    /** How long the body was. */
    bodyBytes: number;
  }
}

/** Who asks: until the connection is closed. @param ticket is told of tokens */
export function askingOf(request: FastifyRequest, signal: AbortSignal, ticket?: Ticket): Asking {
  return {
    turn: { client: request.client, kind: 'interactive' },
    signal,
    ...(ticket ? { claimTokens: ticket.claimTokens } : {}),
  };
}
