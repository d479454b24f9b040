// Server-sent events to one client: as fast as it reads, with signs of life while a pass takes long.

import type { ServerResponse } from 'node:http';
import type { ApiError } from '../api/api-error.js';
import { asApiError } from '../api/api-error.js';
import type { ServerEvent } from '../api/reply.js';

export interface EventStreamOptions {
  /** So often something is sent, since what lies between may close connections that are silent. */
  readonly aliveMs: number;
  /** A client that reads nothing for so long is left. */
  readonly patienceMs: number;
}

const HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store',
  connection: 'keep-alive',
  // Proxies would else hold events back.
  'x-accel-buffering': 'no',
};

/**
 * Sends all events and ends the response. Resolves in any case: with the error that was told last, if there was one.
 * @param signal aborted when the client has left
 */
export async function sendEvents(
  response: ServerResponse,
  events: AsyncIterable<ServerEvent>,
  signal: AbortSignal,
  options: EventStreamOptions,
): Promise<ApiError | undefined> {
  response.writeHead(200, HEADERS);
  response.flushHeaders();
  const alive = setInterval(() => {
    if (response.writableLength === 0) response.write(': the model is at work\n\n');
  }, options.aliveMs);
  try {
    for await (const event of events) {
      if (signal.aborted) return undefined;
      if (!response.write(lines(event)) && !(await drained(response, signal, options.patienceMs)))
        return undefined;
    }
    return undefined;
  } catch (thrown) {
    const error = asApiError(thrown);
    if (!signal.aborted) response.write(lines({ data: error.body }));
    return error;
  } finally {
    clearInterval(alive);
    response.end();
  }
}

function lines({ event, data }: ServerEvent): string {
  const text = typeof data === 'string' ? data : JSON.stringify(data);
  return `${event === undefined ? '' : `event: ${event}\n`}data: ${text}\n\n`;
}

/** Resolves with false where the client has left, or reads no more and is left. */
function drained(response: ServerResponse, signal: AbortSignal, patienceMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const settle = (goesOn: boolean) => {
      clearTimeout(timer);
      response.off('drain', onDrain);
      signal.removeEventListener('abort', onAbort);
      resolve(goesOn);
    };
    const onDrain = () => settle(true);
    const onAbort = () => settle(false);
    const timer = setTimeout(() => {
      response.destroy();
      settle(false);
    }, patienceMs);
    response.on('drain', onDrain);
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) settle(false);
  });
}
