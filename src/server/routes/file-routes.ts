// Files of batches: uploaded, listed, read again, deleted. No name from a request reaches the file system.

import multipart from '@fastify/multipart';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { OperatingError } from '../../../offload/index.js';
import { ApiError, badField } from '../../api/api-error.js';
import { readFields } from '../../api/fields.js';
import type { Batches } from '../../batches/batches.js';
import {
  fileObject,
  type ReceivedFile,
  type StoredFile,
  type StoredFiles,
} from '../../batches/stored-files.js';
import { checkOrigin, ownerOf } from '../owner.js';
import type { RouteGroup } from '../server-parts.js';

export interface BatchParts {
  readonly files: StoredFiles;
  readonly batches: Batches;
  readonly mostFileBytes: number;
}

const MOST_LISTED = 10_000;
const MOST_NAME_CHARACTERS = 255;

const LISTED = z.object({
  after: z.string().optional(),
  limit: z.coerce.number().int().min(1).max(MOST_LISTED).default(MOST_LISTED),
  order: z.enum(['asc', 'desc']).default('desc'),
  purpose: z.string().optional(),
});

interface WithId {
  Params: { id: string };
}

export function fileRoutes(parts: BatchParts): RouteGroup {
  const { files, batches } = parts;
  return (app) => {
    app.register(async (scope) => {
      await scope.register(multipart, {
        limits: { fileSize: parts.mostFileBytes, files: 1, fields: 8, fieldSize: 4096, parts: 9 },
      });
      scope.post('/v1/files', async (request) => fileObject(await upload(request, parts)));
    });
    app.get('/v1/files', async (request) => {
      const { after, limit, order, purpose } = readFields(LISTED, request.query);
      const seen = files
        .list(ownerOf(request))
        .filter((file) => purpose === undefined || file.purpose === purpose);
      return page(order === 'asc' ? seen : seen.reverse(), after, limit, fileObject);
    });
    app.get<WithId>('/v1/files/:id', async (request) => fileObject(found(request, files)));
    app.get<WithId>('/v1/files/:id/content', async (request, reply) =>
      send(found(request, files), files, reply),
    );
    app.delete<WithId>('/v1/files/:id', async (request) => {
      const file = found(request, files);
      if (batches.isInUse(file)) {
        throw badField(
          'id',
          'a batch that has not ended reads this file: cancel it first, or wait',
          'file_in_use',
        );
      }
      stored(() => files.remove(file));
      return { id: file.id, object: 'file', deleted: true };
    });
  };
}

/** A page of a list. @param after the id that the page before ended with */
export function page<T extends { readonly id: string }>(
  all: readonly T[],
  after: string | undefined,
  limit: number,
  shown: (one: T) => object,
): object {
  const begin = after === undefined ? 0 : all.findIndex(({ id }) => id === after) + 1;
  const some = all.slice(begin, begin + limit);
  return {
    object: 'list',
    data: some.map(shown),
    first_id: some[0]?.id ?? null,
    last_id: some.at(-1)?.id ?? null,
    has_more: begin + limit < all.length,
  };
}

export function notFound(what: string): ApiError {
  return new ApiError(`there is no such ${what} here`, {
    status: 404,
    type: 'invalid_request_error',
    param: 'id',
    code: 'not_found',
  });
}

/** What cannot be written is the server's matter, and worth asking again when somebody has made room. */
export function stored<T>(write: () => T): T {
  try {
    return write();
  } catch (error) {
    throw ofStore(error);
  }
}

function ofStore(error: unknown): unknown {
  if (!(error instanceof OperatingError) || error.code !== 'WRITE_FAILED') return error;
  return new ApiError(
    'the server cannot store this now: its drive may be full',
    {
      status: 507,
      type: 'server_error',
      code: 'storage_failed',
    },
    { cause: error },
  );
}

function found(request: FastifyRequest<WithId>, files: StoredFiles): StoredFile {
  const file = files.find(request.params.id, ownerOf(request));
  if (!file) throw notFound('file');
  return file;
}

async function upload(request: FastifyRequest, { files, mostFileBytes }: BatchParts): Promise<StoredFile> {
  checkOrigin(request);
  if (!request.isMultipart()) {
    const details = { status: 415, type: 'invalid_request_error', code: 'invalid_request' } as const;
    throw new ApiError('a file is uploaded as multipart/form-data, with purpose and file', details);
  }
  let received: (ReceivedFile & { readonly filename: string }) | undefined;
  let purpose: unknown;
  let kept = false;
  try {
    for await (const part of request.parts()) {
      if (part.type === 'file' && part.fieldname === 'file' && !received) {
        received = {
          ...(await files.receive(part.file)),
          filename: part.filename.slice(0, MOST_NAME_CHARACTERS),
        };
      } else if (part.type === 'file') part.file.resume();
      else if (part.fieldname === 'purpose') purpose = part.value;
    }
    if (!received) throw badField('file', 'there is no file: send one as the part named file');
    if (purpose !== 'batch')
      throw badField('purpose', "purpose must be 'batch': files are for nothing else here");
    if (received.bytes === 0) throw badField('file', 'the file is empty: send a request a line');
    const { filename, ...content } = received;
    const file = files.keep(content, { owner: ownerOf(request), filename, purpose });
    kept = true;
    return file;
  } catch (error) {
    if (isTooLarge(error)) {
      const details = {
        status: 413,
        type: 'invalid_request_error',
        param: 'file',
        code: 'file_too_large',
      } as const;
      throw new ApiError(`the file has more than ${mostFileBytes} bytes: cut it into several`, details);
    }
    if (!(error instanceof ApiError || error instanceof OperatingError)) throw notWhole(error);
    throw ofStore(error);
  } finally {
    if (received && !kept) files.drop(received);
  }
}

/** What the parser of forms says is of the form. */
function notWhole(cause: unknown): ApiError {
  const details = { status: 400, type: 'invalid_request_error', code: 'invalid_body' } as const;
  return new ApiError('the form is not whole: send multipart/form-data with purpose and file', details, {
    cause,
  });
}

function isTooLarge(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'FST_REQ_FILE_TOO_LARGE';
}

function send(file: StoredFile, files: StoredFiles, reply: FastifyReply): FastifyReply {
  return reply
    .header('content-type', 'application/octet-stream')
    .header('content-length', file.bytes)
    .header('content-disposition', 'attachment')
    .send(files.read(file));
}
