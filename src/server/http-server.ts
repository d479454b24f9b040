// The server itself: fastify with what every request passes, and all groups of routes.

import fastify, { type FastifyError, type FastifyInstance, type FastifyRequest } from 'fastify';
import { refusal } from '../api/api.js';
import { ApiError, asApiError } from '../api/api-error.js';
import { checkHost, isLoopback, Keys } from './access.js';
import { parseBody } from './body.js';
import { PAGE_PATHS } from './page-files.js';
import { apiRoutes, sendWhole } from './routes/api-routes.js';
import { modelRoutes } from './routes/model-routes.js';
import { statusRoutes } from './routes/status-routes.js';
import type { RouteGroup, ServerParts } from './server-parts.js';

export interface HttpOptions {
  readonly host: string;
  readonly keys: readonly string[];
  readonly mostBodyBytes: number;
}

/** All that the server answers; what the page asks for is one more group. */
const ROUTES: readonly RouteGroup[] = [apiRoutes, modelRoutes, statusRoutes];

/** Needs no key: those who watch over processes have none, and the page asks for one; neither says anything of anybody. */
const OPEN_PATHS: ReadonlySet<string> = new Set(['/health', ...PAGE_PATHS]);

const HEADERS = {
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'content-security-policy':
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'cache-control': 'no-store',
} as const;

/** A client that takes longer to send its request is not waited for: a file of a batch may be large, its link slow. */
const MOST_REQUEST_MS = 3_600_000;
const MOST_HEADERS_MS = 60_000;
const MOST_CONNECTIONS = 8192;

/** Listens to nothing yet. @param extra further groups of routes */
export function createServer(
  parts: ServerParts,
  options: HttpOptions,
  extra: readonly RouteGroup[] = [],
): FastifyInstance {
  const app = fastify({
    bodyLimit: options.mostBodyBytes,
    requestTimeout: MOST_REQUEST_MS,
    // Answers take as long as the model does.
    connectionTimeout: 0,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 1024 },
    return503OnClosing: false,
  });
  app.server.maxConnections = MOST_CONNECTIONS;
  app.server.headersTimeout = MOST_HEADERS_MS;
  readBodies(app);
  // Refusals have them as well.
  app.addHook('onRequest', async (_, reply) => {
    reply.headers(HEADERS);
  });
  checkAccess(app, options);
  app.setErrorHandler((thrown: FastifyError, request, reply) => {
    // A request that was read to its end leaves the connection as good as it was.
    if (request.raw.complete) reply.removeHeader('connection');
    return sendWhole(reply, refusal(ofFastify(thrown)));
  });
  app.setNotFoundHandler((_, reply) => sendWhole(reply, refusal(NOT_FOUND)));
  for (const group of [...ROUTES, ...extra]) group(app, parts);
  return app;
}

/** JSON alone: a page from elsewhere cannot send it without asking first, which nothing here answers. */
function readBodies(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer' },
    async (request: FastifyRequest, body: Buffer) => {
      request.bodyBytes = body.length;
      return await parseBody(body);
    },
  );
  app.decorateRequest('bodyBytes', 0);
  app.decorateRequest('client', '');
}

function checkAccess(app: FastifyInstance, { host, keys: given }: HttpOptions): void {
  const keys = new Keys(given);
  const isLocal = isLoopback(host);
  app.addHook('onRequest', async (request) => {
    if (isLocal && !keys.areNeeded) checkHost(request.headers.host);
    const isOpen = OPEN_PATHS.has(request.routeOptions.url ?? '');
    const key = isOpen ? undefined : keys.check(request.headers.authorization);
    request.client = key === undefined ? `from ${request.ip}` : `key ${key}`;
  });
}

const NOT_FOUND = new ApiError('there is nothing at this path; GET /openapi.json says what there is', {
  status: 404,
  type: 'invalid_request_error',
  code: 'unknown_url',
});

/** What fastify itself refuses, in the same form as all else. */
function ofFastify(thrown: FastifyError): ApiError {
  const { statusCode = 500 } = thrown;
  if (thrown instanceof ApiError || statusCode >= 500) return asApiError(thrown);
  const message = REFUSED[statusCode] ?? 'the request is not understood';
  return new ApiError(message, {
    status: statusCode,
    type: 'invalid_request_error',
    code: 'invalid_request',
  });
}

const REFUSED: Readonly<Record<number, string>> = {
  413: 'the body is too large: shorten it, or start the server with a larger --max_body',
  415: 'the body must be JSON: send content-type application/json',
};
