// An endpoint: what it takes, and what it makes of it; where it lies is the table's matter.

import type { z } from 'zod';
import { readFields } from './fields.js';
import type { Asking, Reply } from './reply.js';
import type { ServedModel } from './served-model.js';

export interface Endpoint {
  readonly summary: string;
  /** The body's fields. */
  readonly schema: z.ZodType;
  /** Throws whatever is wrong. */
  readonly answer: (body: unknown, model: ServedModel, asking: Asking) => Promise<Reply>;
}

/** One that reads its body by a schema first. */
export function endpoint<T>(
  summary: string,
  schema: z.ZodType<T>,
  answer: (fields: T, model: ServedModel, asking: Asking) => Promise<Reply>,
): Endpoint {
  return {
    summary,
    schema,
    answer: async (body, model, asking) => answer(readFields(schema, body), model, asking),
  };
}
