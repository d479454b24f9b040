// A batch as OpenAI's clients see it, and as it lies in the store.

import { z } from 'zod';

export interface BatchProblem {
  readonly code: string;
  readonly line: number | null;
  readonly message: string;
  readonly param: string | null;
}

const TIME = z.number().int().nonnegative().nullable();
const STATUSES = [
  'validating',
  'failed',
  'in_progress',
  'finalizing',
  'completed',
  'cancelling',
  'cancelled',
] as const;

/** What is stored: all but the counts of a batch that is under way, which its results say. */
export const STORED_BATCH = z.object({
  id: z.string().regex(/^batch_[0-9a-f]{32}$/),
  /** Whose it is: nobody else sees it. */
  owner: z.string().nullable(),
  endpoint: z.string(),
  input_file_id: z.string(),
  completion_window: z.string(),
  status: z.enum(STATUSES),
  /** What its files of results are to be called. */
  reserved: z.object({ output: z.string(), errors: z.string() }),
  output_file_id: z.string().nullable(),
  error_file_id: z.string().nullable(),
  problems: z.array(
    z.object({
      code: z.string(),
      line: z.number().nullable(),
      message: z.string(),
      param: z.string().nullable(),
    }),
  ),
  created_at: z.number().int(),
  in_progress_at: TIME,
  finalizing_at: TIME,
  completed_at: TIME,
  failed_at: TIME,
  cancelling_at: TIME,
  cancelled_at: TIME,
  request_counts: z.object({ total: z.number(), completed: z.number(), failed: z.number() }),
  metadata: z.record(z.string(), z.string()).nullable(),
});

export type StoredBatch = Readonly<z.infer<typeof STORED_BATCH>>;
export type BatchStatus = StoredBatch['status'];

const ENDED: ReadonlySet<BatchStatus> = new Set(['failed', 'completed', 'cancelled']);

export function hasEnded({ status }: StoredBatch): boolean {
  return ENDED.has(status);
}

/** In OpenAI's form. */
export function batchObject({ owner: _, reserved: __, problems, ...batch }: StoredBatch): object {
  return {
    object: 'batch',
    ...batch,
    errors: problems.length > 0 ? { object: 'list', data: problems } : null,
    // Requests are kept until they are answered, however long that takes.
    expires_at: null,
    expired_at: null,
  };
}
