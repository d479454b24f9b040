// The host's processor beside a device: runs jobs that kernels ask for at a time of its own, every access checked.

import { present } from '../../offload/errors.js';
import type { HostWorker } from '../../offload/port/backend.js';
import type { Op } from '../../offload/port/ops.js';
import type { ShareRates, ShareRule } from '../../offload/port/shares.js';
import { dimension } from '../../offload/port/tensor.js';
import type { VirtualClock } from './clock.js';
import { FindCall } from './exchange.js';
import { footprint } from './footprint.js';
import { type Answering, answerAt } from './mailboxes.js';
import {
  type Access,
  beginAccess,
  endAccess,
  HazardError,
  markWritten,
  requireWritten,
  type SimulatedMemory,
} from './memory.js';
import { applyOp } from './ops.js';
import { SimulatedPieces } from './slots.js';

const NO_RATES: ShareRates = { bringMs: 0, computeMs: 0, deviceMs: 0, hostMs: 0 };

export class SimulatedWorker implements HostWorker, Answering {
  readonly mail: SimulatedMemory;
  readonly rates = NO_RATES;
  readonly #name: string;
  readonly #clock: VirtualClock;
  readonly #opMs: () => number;
  readonly #jobs = new Map<number, readonly Op[]>();
  #nextJob = 1;
  #rule: ShareRule = 'none';
  #isBusy = false;
  #begun = 0;
  #waiting: (() => void)[] = [];
  failure = '';

  constructor(name: string, mail: SimulatedMemory, clock: VirtualClock, opMs: () => number) {
    this.#name = name;
    this.mail = mail;
    this.#clock = clock;
    this.#opMs = opMs;
    mail.bytes.fill(0);
    mail.written.fill(1);
    answerAt(mail, this);
  }

  get name(): string {
    return this.#name;
  }

  get isBusy(): boolean {
    return this.#isBusy;
  }

  define(ops: readonly Op[]): number {
    this.#jobs.set(this.#nextJob, ops);
    return this.#nextJob++;
  }

  forget(job: number): void {
    this.#jobs.delete(job);
  }

  begin(): void {
    this.#begun++;
  }

  end(): void {
    this.#begun--;
    if (this.#begun < 0) throw new HazardError(`${this.#name} ends more often than it begins`);
  }

  share(rule: ShareRule): void {
    this.#rule = rule;
  }

  /** Any share will do. */
  shareOf(missing: number, call: number): number {
    if (this.#rule === 'none') return 0;
    return this.#rule === 'all' ? missing : (call * 7 + missing * 3) % (missing + 1);
  }

  whenDone(wake: () => void): void {
    this.#waiting.push(wake);
  }

  ask(job: number): void {
    if (this.#isBusy)
      throw new HazardError(`${this.#name}: a second job is asked for while one is on its way`);
    if (this.#begun === 0) throw new HazardError(`${this.#name}: nobody looks out for job ${job}`);
    this.#isBusy = true;
    const ops = present(this.#jobs.get(job), `job ${job}`);
    this.#clock.after(this.#opMs(), () => this.#run(ops, 0));
  }

  /** Where reading fails, whoever waits hears of it. */
  #find(op: Op & { op: 'find_experts' }, access: Access, then: () => void): void {
    const { files, slots } = op;
    if (!(files instanceof SimulatedPieces)) throw new HazardError('pieces are of another backend');
    const call = new FindCall(op);
    const end = () => {
      if (this.failure === '') call.tell();
      markWritten(access.writes);
      endAccess(access);
      then();
    };
    if (call.missing.length === 0) {
      this.#clock.after(this.#opMs(), end);
      return;
    }
    const reads = call.missing.map(({ asked, slot }) =>
      files.read(asked.comes, slot * dimension(slots, 1)).catch((error: unknown) => {
        this.failure = String(error);
      }),
    );
    Promise.all(reads)
      .then(end)
      .catch((error: unknown) => this.#clock.fail(error));
  }

  #run(ops: readonly Op[], at: number): void {
    const op = ops[at];
    if (!op || this.failure !== '') {
      this.#isBusy = false;
      for (const wake of this.#waiting.splice(0)) wake();
      return;
    }
    const access = { who: `${op.op} (${this.#name})`, startMs: this.#clock.nowMs, ...footprint(op) };
    beginAccess(access);
    requireWritten(access);
    if (op.op === 'find_experts') {
      this.#find(op, access, () => this.#run(ops, at + 1));
      return;
    }
    this.#clock.after(this.#opMs(), () => {
      applyOp(op);
      markWritten(access.writes);
      endAccess(access);
      this.#run(ops, at + 1);
    });
  }
}
