// What clients post to make texts: each body is let in, answered, and cancelled where its client leaves.

import type { FastifyReply, FastifyRequest } from 'fastify';
import { ENDPOINTS } from '../../api/api.js';
import { ApiError } from '../../api/api-error.js';
import type { WholeReply } from '../../api/reply.js';
import { jsonBytes } from '../../files/json-bytes.js';
import { sendEvents } from '../event-stream.js';
import { askingOf, type RouteGroup, type ServerParts } from '../server-parts.js';

export const apiRoutes: RouteGroup = (app, parts) => {
  for (const path of [...Object.keys(ENDPOINTS), '/v1/embeddings']) {
    app.post(path, (request, reply) => answer(path, request, reply, parts));
  }
};

async function answer(
  path: string,
  request: FastifyRequest,
  reply: FastifyReply,
  parts: ServerParts,
): Promise<FastifyReply> {
  if (parts.isDraining()) throw draining();
  const { api, admission, metrics, events } = parts;
  parts.onBody?.(path, request.body);
  const ticket = admission.enter(request.client, request.bodyBytes);
  const left = new AbortController();
  const onClose = () => left.abort(new ApiError('the client has left', LEFT));
  reply.raw.on('close', onClose);
  const startMs = performance.now();
  try {
    const answered = await api.answer(path, request.body, askingOf(request, left.signal, ticket));
    if (answered.kind === 'whole') {
      metrics.answered(
        path,
        left.signal.aborted ? LEFT.status : answered.status,
        performance.now() - startMs,
      );
      return sendWhole(reply, answered);
    }
    reply.hijack();
    const error = await sendEvents(reply.raw, answered.events, left.signal, events);
    const status = left.signal.aborted && !reply.raw.writableFinished ? LEFT.status : (error?.status ?? 200);
    metrics.answered(path, status, performance.now() - startMs);
    return reply;
  } finally {
    reply.raw.off('close', onClose);
    ticket.leave();
  }
}

/** As proxies note it; nobody is there to read it. */
const LEFT = { status: 499, type: 'invalid_request_error' } as const;

export async function sendWhole(
  reply: FastifyReply,
  { status, body, retryAfterSeconds }: WholeReply,
): Promise<FastifyReply> {
  if (retryAfterSeconds !== undefined) reply.header('retry-after', String(retryAfterSeconds));
  const bytes = await jsonBytes(body);
  return reply.code(status).type('application/json; charset=utf-8').send(bytes);
}

export function draining(): ApiError {
  return new ApiError('the server is shutting down: ask again when it is back', {
    status: 503,
    type: 'server_error',
    code: 'shutting_down',
    retryAfterSeconds: 5,
  });
}
