// Batches over HTTP, as OpenAI's clients ask for them.

import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import { badField } from '../../api/api-error.js';
import { readFields } from '../../api/fields.js';
import { BATCH_ENDPOINTS } from '../../batches/batch-line.js';
import { batchObject, type StoredBatch } from '../../batches/batch-object.js';
import { ownerOf } from '../owner.js';
import type { RouteGroup } from '../server-parts.js';
import { draining } from './api-routes.js';
import { type BatchParts, notFound, page, stored } from './file-routes.js';

const MOST_LISTED = 100;
const FEW_LISTED = 20;

const CREATED = z.strictObject({
  input_file_id: z.string(),
  endpoint: z.enum(BATCH_ENDPOINTS),
  completion_window: z
    .literal('24h')
    .describe('a word of the protocol: requests are kept until they are answered'),
  metadata: z.record(z.string().max(64), z.string().max(512)).nullable().optional(),
});

const LISTED = z.object({
  after: z.string().optional(),
  limit: z.coerce.number().int().min(1).max(MOST_LISTED).default(FEW_LISTED),
});

const MOST_METADATA = 16;

interface WithId {
  Params: { id: string };
}

export function batchRoutes({ files, batches }: BatchParts): RouteGroup {
  const found = (request: FastifyRequest<WithId>): StoredBatch => {
    const batch = batches.find(request.params.id, ownerOf(request));
    if (!batch) throw notFound('batch');
    return batch;
  };
  return (app, { isDraining }) => {
    app.post('/v1/batches', async (request) => {
      if (isDraining()) throw draining();
      const {
        input_file_id: id,
        endpoint,
        completion_window,
        metadata = null,
      } = readFields(CREATED, request.body);
      if (metadata && Object.keys(metadata).length > MOST_METADATA) {
        throw badField('metadata', `metadata may have ${MOST_METADATA} entries`);
      }
      const owner = ownerOf(request);
      const input = files.find(id, owner);
      if (input?.purpose !== 'batch')
        throw badField('input_file_id', 'there is no such file with purpose batch here');
      return batchObject(
        stored(() => batches.create(input, { owner, endpoint, completion_window, metadata })),
      );
    });
    app.get('/v1/batches', async (request) => {
      const { after, limit } = readFields(LISTED, request.query);
      return page(batches.list(ownerOf(request)), after, limit, batchObject);
    });
    app.get<WithId>('/v1/batches/:id', async (request) => batchObject(found(request)));
    app.post<WithId>('/v1/batches/:id/cancel', async (request) => {
      const batch = found(request);
      return batchObject(stored(() => batches.cancel(batch)));
    });
  };
}
