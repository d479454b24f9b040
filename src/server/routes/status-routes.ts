// How the server is: for those who watch it, and for programs that learn from a description what can be asked.

import { openApi } from '../open-api.js';
import type { RouteGroup } from '../server-parts.js';

export const statusRoutes: RouteGroup = (app, parts) => {
  app.get('/health', async (_, reply) => {
    if (parts.isDraining()) return reply.code(503).send({ status: 'draining' });
    return { status: 'ok' };
  });
  app.get('/metrics', async (_, reply) => {
    const text = await parts.metrics.text(parts.admission);
    return reply.header('content-type', parts.metrics.contentType).send(text);
  });
  app.get('/openapi.json', async () => openApi());
};
