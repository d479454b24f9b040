// Batches of a server: made, looked at, cancelled, and worked through one after the other, also after a restart.

import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { writeError } from '../files/output-file.js';
import { BatchInput, DoubledId } from './batch-input.js';
import {
  type BatchProblem,
  type BatchStatus,
  hasEnded,
  STORED_BATCH,
  type StoredBatch,
} from './batch-object.js';
import { BatchResults } from './batch-results.js';
import { type Answer, runBatch } from './run-batch.js';
import { STORE, type StoreFolder } from './store-folder.js';
import { isSeenBy, newFileId, nowSeconds, type StoredFile, type StoredFiles } from './stored-files.js';

export interface BatchesOptions {
  readonly store: StoreFolder;
  readonly files: StoredFiles;
  readonly answer: Answer;
  /** Requests of a batch that are on their way at once. */
  readonly atOnce: number;
  /** What becomes of batches that nobody asks about at the moment: for the log, without any text of theirs. */
  readonly tell: (sentence: string, isProblem?: boolean) => void;
  /** After so long a batch that the store has refused to go on with is tried again. */
  readonly retryMs?: number;
}

const RETRY_MS = 60_000;

export type NewBatch = Pick<StoredBatch, 'owner' | 'endpoint' | 'completion_window' | 'metadata'>;

/** A batch that the store has refused to go on with. */
interface Standing {
  readonly untilMs: number;
  readonly why: string;
}

/** A batch that is worked on. */
interface Running {
  readonly id: string;
  readonly cancelled: AbortController;
  results: BatchResults | undefined;
}

export class Batches {
  readonly #options: BatchesOptions;
  /** In the order in which they came. */
  readonly #batches = new Map<string, StoredBatch>();
  readonly #closing = new AbortController();
  readonly #standing = new Map<string, Standing>();
  #retry: NodeJS.Timeout | undefined;
  #running: Running | undefined;
  #work: Promise<void> | undefined;

  /** Begins nothing yet. Throws READ_FAILED for a record that is damaged. */
  constructor(options: BatchesOptions) {
    this.#options = options;
    const found = options.store.list('batches').flatMap((id) => {
      // A batch whose folder has no record was never told to anybody.
      const batch = options.store.read(`batches/${id}/batch.json`, STORED_BATCH);
      return batch ? [batch] : [];
    });
    found.sort((a, b) => a.created_at - b.created_at || (a.id < b.id ? -1 : 1));
    for (const batch of found) this.#batches.set(batch.id, batch);
    const open = found.filter((batch) => !hasEnded(batch));
    options.files.removeUnrecorded(new Set(open.flatMap(({ reserved }) => Object.values(reserved))));
  }

  /** Goes on with what is open. */
  start(): void {
    const open = [...this.#batches.values()].filter((batch) => !hasEnded(batch)).length;
    if (open > 0) this.#options.tell(`going on with ${open === 1 ? '1 batch' : `${open} batches`}`);
    this.#wake();
  }

  /** Resolves when nothing is written any more; what is open goes on with the next start. */
  async close(): Promise<void> {
    this.#closing.abort(new OperatingError('CLOSED', 'the server is shutting down'));
    clearTimeout(this.#retry);
    await this.#work;
  }

  create(input: StoredFile, wanted: NewBatch): StoredBatch {
    const id = `batch_${randomBytes(16).toString('hex')}`;
    const path = this.#folder(id);
    try {
      mkdirSync(path, { mode: 0o700 });
    } catch (error) {
      throw writeError(path, STORE, error);
    }
    const nothing = {
      in_progress_at: null,
      finalizing_at: null,
      completed_at: null,
      failed_at: null,
      cancelling_at: null,
      cancelled_at: null,
    };
    const batch: StoredBatch = {
      ...wanted,
      ...nothing,
      id,
      input_file_id: input.id,
      status: 'validating',
      reserved: { output: newFileId(), errors: newFileId() },
      output_file_id: null,
      error_file_id: null,
      problems: [],
      created_at: nowSeconds(),
      request_counts: { total: 0, completed: 0, failed: 0 },
    };
    this.#save(batch);
    this.#wake();
    return batch;
  }

  /** Those that `owner` may see, newest first. */
  list(owner: string | null): StoredBatch[] {
    const seen = [...this.#batches.values()].filter((batch) => isSeenBy(batch, owner));
    return seen.reverse().map((batch) => this.#counted(batch));
  }

  find(id: string, owner: string | null): StoredBatch | undefined {
    const batch = this.#batches.get(id);
    return batch && isSeenBy(batch, owner) ? this.#counted(batch) : undefined;
  }

  /** Requests that are under way end at once; those that have been answered stay answered. */
  cancel({ id }: StoredBatch): StoredBatch {
    const batch = this.#batches.get(id);
    if (!batch || hasEnded(batch) || batch.status === 'finalizing') return batch ?? never(id);
    this.#save({ ...this.#counted(batch), status: 'cancelling', cancelling_at: nowSeconds() });
    if (this.#running?.id === id) this.#running.cancelled.abort(CANCELLED);
    this.#standing.delete(id);
    this.#wake();
    return this.#batches.get(id) ?? never(id);
  }

  /** A batch that has not ended reads it. */
  isInUse(file: StoredFile): boolean {
    return [...this.#batches.values()].some((batch) => !hasEnded(batch) && batch.input_file_id === file.id);
  }

  /** How many batches have not ended, and how many of their requests are open. */
  get open(): { readonly batches: number; readonly requests: number } {
    const open = [...this.#batches.values()]
      .filter((batch) => !hasEnded(batch))
      .map((one) => this.#counted(one));
    const requests = open.reduce(
      (sum, { request_counts: { total, completed, failed } }) => sum + total - completed - failed,
      0,
    );
    return { batches: open.length, requests };
  }

  #counted(batch: StoredBatch): StoredBatch {
    const results = this.#running?.id === batch.id ? this.#running.results : undefined;
    if (!results) return batch;
    const { completed, failed } = results;
    return { ...batch, request_counts: { ...batch.request_counts, completed, failed } };
  }

  #folder(id: string): string {
    return join(this.#options.store.path, 'batches', id);
  }

  #save(batch: StoredBatch): void {
    this.#options.store.write(`batches/${batch.id}/batch.json`, batch);
    this.#batches.set(batch.id, batch);
  }

  #wake(): void {
    this.#work ??= this.#workThrough().finally(() => {
      this.#work = undefined;
      this.#wakeAgain();
    });
  }

  /** As soon as a batch that stands still is to be tried again. */
  #wakeAgain(): void {
    clearTimeout(this.#retry);
    if (this.#standing.size === 0 || this.#closing.signal.aborted) return;
    const untilMs = Math.min(...[...this.#standing.values()].map((one) => one.untilMs));
    this.#retry = setTimeout(() => this.#wake(), Math.max(0, untilMs - performance.now()));
    this.#retry.unref();
  }

  /** The oldest first. A batch that the store refuses to go on with stays as it is for a while, and the others go on. */
  async #workThrough(): Promise<void> {
    for (;;) {
      // Whoever makes a batch is told of it before work on it begins.
      await new Promise(setImmediate);
      if (this.#closing.signal.aborted) return;
      const nowMs = performance.now();
      const next = [...this.#batches.values()].find(
        (batch) => !hasEnded(batch) && (this.#standing.get(batch.id)?.untilMs ?? 0) <= nowMs,
      );
      if (!next) return;
      try {
        await this.#workOn(next);
        this.#standing.delete(next.id);
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        this.#letStand(next.id, error instanceof Error ? error.message : String(error));
      }
    }
  }

  /** Told once for each reason. */
  #letStand(id: string, why: string): void {
    const { retryMs = RETRY_MS, tell } = this.#options;
    if (this.#standing.get(id)?.why !== why)
      tell(`${id} stands still, and is tried again every ${retryMs / 1e3} s: ${why}`, true);
    this.#standing.set(id, { untilMs: performance.now() + retryMs, why });
  }

  async #workOn(batch: StoredBatch): Promise<void> {
    const cancelled = new AbortController();
    const running: Running = { id: batch.id, cancelled, results: undefined };
    this.#running = running;
    const path = this.#options.files.pathOf({ id: batch.input_file_id });
    let input: BatchInput | undefined;
    try {
      const signal = AbortSignal.any([this.#closing.signal, cancelled.signal]);
      if (batch.status === 'cancelling') {
        // What the process before has left of a last line goes.
        running.results = this.#openResults(batch, batch.request_counts.total);
        await this.#finish(batch.id, running, 'cancelled');
        return;
      }
      if (batch.status !== 'finalizing') {
        input = await BatchInput.read({ path, option: STORE, signal }, { endpoint: batch.endpoint });
        await this.#answerAll(batch, input, running, signal);
      }
      await this.#finish(batch.id, running, 'completed');
    } catch (error) {
      if (this.#closing.signal.aborted) throw error;
      if (cancelled.signal.aborted) await this.#finish(batch.id, running, 'cancelled');
      else if (isOfInput(error)) this.#fail(batch.id, error);
      else throw error;
    } finally {
      input?.close();
      running.results?.close();
      this.#running = undefined;
    }
  }

  #openResults({ id }: StoredBatch, requests: number): BatchResults {
    const folder = this.#folder(id);
    const paths = { output: join(folder, 'output.jsonl'), errors: join(folder, 'errors.jsonl') };
    return new BatchResults({ ...paths, option: STORE, key: id.slice('batch_'.length), requests });
  }

  async #answerAll(
    batch: StoredBatch,
    input: BatchInput,
    running: Running,
    signal: AbortSignal,
  ): Promise<void> {
    running.results = this.#openResults(batch, input.length);
    if (batch.status === 'validating') {
      const request_counts = { total: input.length, completed: 0, failed: 0 };
      this.#save({ ...batch, status: 'in_progress', in_progress_at: nowSeconds(), request_counts });
    }
    const { answer, atOnce } = this.#options;
    await runBatch({ input, results: running.results, answer, client: batch.id, atOnce, signal });
  }

  /** Files of results become files of the store. Each step may have been taken before the process ended. */
  async #finish(id: string, running: Running, ending: 'completed' | 'cancelled'): Promise<void> {
    const { results } = running;
    const folder = this.#folder(id);
    const [output, errors] = [join(folder, 'output.jsonl'), join(folder, 'errors.jsonl')];
    if (results) {
      await Promise.all([output, errors].map(settleOnDrive));
      this.#save({ ...this.#counted(this.#of(id)), ...at('finalizing', ending) });
      running.results = undefined;
      results.close();
    }
    const { files } = this.#options;
    const batch = this.#of(id);
    const { owner, reserved } = batch;
    const named = (kind: string) => ({ owner, filename: `${id}_${kind}.jsonl`, purpose: 'batch_output' });
    const made = files.adopt(output, reserved.output, named('output'));
    const failed = files.adopt(errors, reserved.errors, named('error'));
    this.#save({
      ...batch,
      ...at(ending),
      output_file_id: made?.id ?? null,
      error_file_id: failed?.id ?? null,
    });
    for (const path of [output, errors]) rmSync(path, { force: true });
    const { completed, failed: refused, total } = batch.request_counts;
    this.#options.tell(
      `${id} is ${ending}: ${completed} of ${total} requests have an answer, ${refused} an error`,
    );
  }

  #fail(id: string, error: OperatingError): void {
    const line = error instanceof DoubledId ? error.line : null;
    const code = error instanceof DoubledId ? 'duplicate_custom_id' : 'invalid_input';
    // The client knows its file by another name than the store.
    const message = error.message
      .replaceAll(this.#options.store.path, '')
      .replace(/^--data: \S+ /, 'the input ');
    const problem: BatchProblem = { code, line, message, param: null };
    this.#save({ ...this.#of(id), ...at('failed'), problems: [problem] });
    this.#options.tell(`${id} has failed: its input cannot be used (${code})`);
  }

  #of(id: string): StoredBatch {
    return this.#batches.get(id) ?? never(id);
  }
}

const CANCELLED = new OperatingError('CLOSED', 'the batch was cancelled');

/** A status, and the time at which it began; a cancelled batch keeps its status until its files are there. */
function at(status: BatchStatus, ending?: 'completed' | 'cancelled'): Partial<StoredBatch> {
  if (status === 'finalizing' && ending === 'cancelled') return {};
  return { status, [`${status}_at`]: nowSeconds() };
}

function isOfInput(error: unknown): error is OperatingError {
  return error instanceof OperatingError && error.code === 'BAD_INPUT';
}

async function settleOnDrive(path: string): Promise<void> {
  try {
    const file = await open(path, 'r+');
    try {
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    throw writeError(path, STORE, error);
  }
}

function never(id: string): never {
  throw new Error(`${id} is not known`);
}
