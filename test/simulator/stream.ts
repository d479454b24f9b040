// Simulated streams and events: queues that run in order beside each other, each piece of work an interval of time.

import { assert, present } from '../../offload/errors.js';
import type { DeviceEvent, DeviceStream, KeptWork, RowCopy } from '../../offload/port/backend.js';
import type { Memory, Op, Tensor } from '../../offload/port/ops.js';
import type { Failure, SimulatedGather } from './collective.js';
import { type EventWorld, SimulatedEvent } from './event.js';
import { ExchangeCall } from './exchange.js';
import { footprint, runsOf, tensorsReadWhole } from './footprint.js';
import { tensorHash } from './hashes.js';
import { awaitedBy } from './host-ops.js';
import {
  type Access,
  type ByteRun,
  beginAccess,
  contentHash,
  endAccess,
  HazardError,
  markWritten,
  requireWritten,
  type SimulatedMemory,
  simulated,
} from './memory.js';
import { applyOp } from './ops.js';
import { exchangeOf, type SimulatedExchange } from './rank-exchange.js';

/** What streams of one backend share. */
export interface StreamWorld extends EventWorld {
  kernelMs(device: number): number;
  /** When a copy may start, and how long it takes; links carry one copy at a time. */
  transfer(
    to: SimulatedMemory,
    from: SimulatedMemory,
    bytes: number,
  ): { startMs: number; durationMs: number };
  /** Whether the next kernel of a device breaks it off: nothing that waits for the stream gets there any more. */
  breaks(device: number): boolean;
  /** What a tensor must hold when a kernel reads it, where a test has said so. */
  expected(tensor: Tensor): Expectation | undefined;
}

export interface Expectation {
  readonly name: string;
  readonly hash: number;
}

type Work =
  | { readonly kind: 'event'; readonly event: SimulatedEvent }
  | { readonly kind: 'wait'; readonly event: SimulatedEvent }
  | { readonly kind: 'gather'; readonly gather: SimulatedGather }
  | { readonly kind: 'op'; readonly op: Op; readonly tables: Snapshot[]; readonly who: string }
  | { readonly kind: 'exchange'; readonly op: Op & { op: 'bring_experts' }; readonly who: string }
  | {
      readonly kind: 'copy';
      /** As many on both sides, of the same lengths. */
      readonly to: readonly ByteRun[];
      readonly from: readonly ByteRun[];
      readonly tables: Snapshot[];
      readonly who: string;
    };

/** What a table that JavaScript writes held when work on it was queued. */
interface Snapshot {
  readonly run: ByteRun;
  readonly hash: number;
}

/** Operations and copies as they were launched, with what they were told then. */
class KeptLaunches implements KeptWork {
  readonly launches: (() => void)[] = [];
  get count(): number {
    return this.launches.length;
  }
}

export class SimulatedStream implements DeviceStream {
  readonly name: string;
  readonly #device: number;
  readonly #world: StreamWorld;
  readonly #queue: Work[] = [];
  #head = 0;
  #state: 'idle' | 'kicked' | 'busy' | { readonly name: string } = 'idle';
  #count = 0;
  #failure: Failure | undefined;
  #keeping: KeptLaunches | undefined;
  readonly #exchanges: SimulatedExchange[] = [];

  constructor(name: string, device: number, world: StreamWorld) {
    this.name = name;
    this.#device = device;
    this.#world = world;
  }

  launch(op: Op): void {
    if (this.#keeping) {
      this.#keeping.launches.push(() => this.launch(op));
      return;
    }
    const tables = snapshots(tensorsReadWhole(op).filter(isTable).flatMap(runsOf));
    this.#push({ kind: 'op', op, tables, who: this.#label(op.op) });
  }

  copy(to: Memory, toOffsetBytes: number, from: Memory, fromOffsetBytes: number, sizeBytes: number): void {
    if (sizeBytes === 0) return;
    this.#copyRuns([run(to, toOffsetBytes, sizeBytes)], [run(from, fromOffsetBytes, sizeBytes)]);
  }

  copyRows(copy: RowCopy): void {
    const { to, toOffsetBytes, toStrideBytes, from, fromOffsetBytes, fromStrideBytes, rowBytes, rows } = copy;
    if (rows === 0 || rowBytes === 0) return;
    assert(toStrideBytes >= rowBytes && fromStrideBytes >= rowBytes, 'rows do not overlap each other');
    const runs = (memory: Memory, offset: number, stride: number) =>
      Array.from({ length: rows }, (_, row) => run(memory, offset + row * stride, rowBytes));
    this.#copyRuns(runs(to, toOffsetBytes, toStrideBytes), runs(from, fromOffsetBytes, fromStrideBytes));
  }

  #copyRuns(to: readonly ByteRun[], from: readonly ByteRun[]): void {
    if (this.#keeping) {
      this.#keeping.launches.push(() => this.#copyRuns(to, from));
      return;
    }
    const who = this.#label(`copy of ${bytesOf(to)} bytes from ${present(from[0], 'a run').memory.name}`);
    this.#push({ kind: 'copy', to, from, tables: snapshots(from), who });
  }

  keep(queue: () => void): KeptWork {
    assert(!this.#keeping, 'work is kept part by part');
    const kept = new KeptLaunches();
    this.#keeping = kept;
    try {
      queue();
    } finally {
      this.#keeping = undefined;
    }
    return kept;
  }

  repeat(work: KeptWork): void {
    assert(work instanceof KeptLaunches, 'work is repeated where it was kept');
    for (const launch of work.launches) launch();
  }

  record(): DeviceEvent {
    assert(!this.#keeping, 'work that is kept records nothing');
    const event = new SimulatedEvent(`event ${this.#count++} of ${this.name}`, this.#world);
    this.#push({ kind: 'event', event });
    return event;
  }

  wait(event: DeviceEvent): void {
    assert(event instanceof SimulatedEvent, 'events of one backend stay together');
    assert(!this.#keeping, 'work that is kept waits for nothing');
    this.#push({ kind: 'wait', event });
  }

  /** Its device's part of a gather. */
  join(gather: SimulatedGather): void {
    this.#push({ kind: 'gather', gather });
  }

  /** Whatever fails the stream fails the group. */
  takePart(exchange: SimulatedExchange): void {
    this.#exchanges.push(exchange);
  }

  /** What it waits for, when it is stuck. */
  get blockedOn(): string | undefined {
    return typeof this.#state === 'object' ? `${this.name} waits for ${this.#state.name}` : undefined;
  }

  #label(what: string): string {
    return `${what} (${this.name} #${this.#count++})`;
  }

  #push(work: Work): void {
    if (this.#world.clock.failure) return;
    this.#queue.push(work);
    if (this.#state !== 'idle') return;
    this.#state = 'kicked';
    this.#world.clock.after(0, () => this.#run());
  }

  /** Takes work until some of it lasts, or something must be waited for. */
  #run(): void {
    for (;;) {
      const work = this.#queue[this.#head];
      if (!work) {
        this.#queue.length = 0;
        this.#head = 0;
        this.#state = 'idle';
        return;
      }
      const asks = work.kind === 'op' || work.kind === 'exchange';
      const awaited = asks && !this.#failure ? awaitedBy(work.op) : undefined;
      if (awaited && awaited.failure !== '') this.#fail({ error: new Error(awaited.failure) });
      else if (awaited?.isBusy) {
        this.#state = awaited;
        awaited.whenDone(() => this.#resumeWith(undefined));
        return;
      }
      this.#head++;
      if (work.kind === 'event') {
        work.event.settle(this.#failure);
      } else if (this.#failure) {
        if (work.kind === 'gather') work.gather.fail(this.#failure);
      } else if (work.kind === 'wait') {
        const { event } = work;
        if (event.isSettled) {
          if (event.failure) this.#fail(event.failure);
          continue;
        }
        this.#state = event;
        event.whenSettled(() => this.#resumeWith(event.failure));
        return;
      } else {
        this.#state = 'busy';
        if (work.kind === 'op' && work.op.op === 'reduce') this.#startSum(work, work.op);
        else if (work.kind === 'op') this.#start(work, this.#world.kernelMs(this.#device));
        else if (work.kind === 'exchange') this.#exchange(work);
        else if (work.kind === 'copy') this.#startCopy(work);
        else work.gather.arrive(this.#device, (failure) => this.#resumeWith(failure));
        return;
      }
    }
  }

  #resumeWith(failure: Failure | undefined): void {
    if (failure) this.#fail(failure);
    this.#state = 'kicked';
    this.#world.clock.after(0, () => this.#run());
  }

  #start({ op, tables, who }: Work & { kind: 'op' }, durationMs: number): void {
    const { clock } = this.#world;
    unchanged(tables, who, 'between its launch and its start');
    const access: Access = { who, startMs: clock.nowMs, ...footprint(op) };
    for (const { memory } of [...access.reads, ...access.writes]) this.#reachable(memory, who);
    beginAccess(access);
    requireWritten(access);
    this.#check(op, who);
    const held = snapshots(access.reads);
    const breaks = this.#world.breaks(this.#device);
    clock.after(durationMs, () => {
      if (breaks) this.#fail({ error: new Error(`${who} broke off`) });
      unchanged(held, who, 'while it ran');
      applyOp(op);
      markWritten(access.writes);
      endAccess(access);
      // The second kernel of the operation, before all that was queued behind it.
      if (op.op === 'bring_experts' && op.behind)
        this.#queue.splice(this.#head, 0, { kind: 'exchange', op, who });
      this.#run();
    });
  }

  #exchange({ op, who }: Work & { kind: 'exchange' }): void {
    const { clock } = this.#world;
    const call = new ExchangeCall(op);
    const access: Access = { who, startMs: clock.nowMs, reads: call.reads, writes: call.writes };
    beginAccess(access);
    requireWritten(access);
    clock.after(this.#world.kernelMs(this.#device), () => {
      call.write();
      markWritten(access.writes);
      endAccess(access);
      this.#run();
    });
  }

  #fail(failure: Failure): void {
    this.#failure ??= failure;
    for (const exchange of this.#exchanges) exchange.fail(this.#failure);
  }

  #startSum({ tables, who }: Work & { kind: 'op' }, op: Op & { op: 'reduce' }): void {
    unchanged(tables, who, 'between its launch and its start');
    for (const { memory } of [op.x, op.partial]) this.#reachable(simulated(memory), who);
    if (this.#world.breaks(this.#device)) {
      this.#resumeWith({ error: new Error(`${who} broke off`) });
      return;
    }
    exchangeOf(op).sum(op, {
      who,
      kernelMs: () => this.#world.kernelMs(this.#device),
      waits: () => {
        this.#state = { name: `the others of ${who}` };
      },
      done: (failure) => this.#resumeWith(failure),
    });
  }

  #startCopy(work: Work & { kind: 'copy' }): void {
    const { to, from } = work;
    const { clock } = this.#world;
    const [target, source] = [present(to[0], 'a run').memory, present(from[0], 'a run').memory];
    const { startMs, durationMs } = this.#world.transfer(target, source, bytesOf(to));
    clock.after(startMs - clock.nowMs, () => {
      unchanged(work.tables, work.who, 'between its launch and its start');
      const access: Access = { who: work.who, startMs: clock.nowMs, reads: from, writes: to };
      beginAccess(access);
      clock.after(durationMs, () => {
        unchanged(work.tables, work.who, 'while it ran');
        to.forEach(({ start }, row) => {
          const { start: begin, end } = present(from[row], 'a row');
          target.bytes.set(source.bytes.subarray(begin, end), start);
          // Gaps between tensors may be copied without ever having been written; only using them is wrong.
          target.written.set(source.written.subarray(begin, end), start);
        });
        endAccess(access);
        this.#run();
      });
    });
  }

  #reachable(memory: SimulatedMemory, who: string): void {
    if (memory.device === undefined || memory.device === this.#device) return;
    throw new HazardError(`${memory.name}: ${who} touches memory of another device`);
  }

  #check(op: Op, who: string): void {
    for (const tensor of tensorsReadWhole(op)) {
      const expected = this.#world.expected(tensor);
      if (!expected || tensorHash(tensor) === expected.hash) continue;
      throw new HazardError(
        `${simulated(tensor.memory).name}, from byte ${tensor.offsetBytes}: ${who} reads it at ` +
          `${this.#world.clock.nowMs.toFixed(4)} ms, but it does not hold ${expected.name}`,
      );
    }
  }
}

function run(memory: Memory, start: number, sizeBytes: number): ByteRun {
  const end = start + sizeBytes;
  const known = simulated(memory);
  assert(start >= 0 && end <= memory.sizeBytes, `bytes ${start} to ${end} lie in ${known.name}`);
  return { memory: known, start, end };
}

function bytesOf(runs: readonly ByteRun[]): number {
  return runs.reduce((sum, { start, end }) => sum + end - start, 0);
}

/** Only tables: JavaScript writes them without telling, so a change is seen by comparing. */
function snapshots(runs: readonly ByteRun[]): Snapshot[] {
  return runs.filter(isTable).map((part) => ({ run: part, hash: contentHash(part) }));
}

function isTable({ memory }: { readonly memory: Memory }): boolean {
  return simulated(memory).purpose === 'control';
}

function unchanged(tables: readonly Snapshot[], who: string, when: string): void {
  for (const { run: part, hash } of tables) {
    if (contentHash(part) === hash) continue;
    throw new HazardError(
      `${part.memory.name}, bytes ${part.start} to ${part.end}: changed ${when} under ${who}, which reads them`,
    );
  }
}
