// The thread that computes on the processor for a device: jobs that are asked for, that fail, that are missing, and closing meanwhile.

import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CpuBackend } from '../../offload/backends/cpu.js';
import { present } from '../../offload/errors.js';
import type { HostWorker } from '../../offload/port/backend.js';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import { ELSEWHERE, MAIL_STATE_WORDS, MAIL_WORDS } from '../../offload/port/host-ops.js';
import type { HostMail, Op, Tensor } from '../../offload/port/ops.js';
import { tensor } from '../../offload/port/tensor.js';
import { denseWeight } from '../../offload/port/weights.js';

const [ROWS, INPUTS, OUTPUTS] = [3, 24, 40];
/** The mailbox's word for no missing experts, and those by which a device asks, says what it did, and is answered. */
const FIRST_SHARE = 48;
const [ASKED, JOB, ASIDES, SPAN, CAME, DONE] = [0, 1, 2, 16, 17, 32];

describe('a worker of the host', () => {
  let backend: CpuBackend;
  let worker: HostWorker;
  let mail: HostMail;
  const device = () => present(backend.devices[0], 'a device');
  const floats = (values: readonly number[], shape: readonly number[]): Tensor => {
    const memory = backend.allocateHost(values.length * DTYPE_BYTES.f32, 'shared');
    new Float32Array(memory.bytes.buffer, memory.bytes.byteOffset, values.length).set(values);
    return tensor(memory, 0, 'f32', shape);
  };
  const empty = (shape: readonly number[]) =>
    floats(new Array<number>(shape.reduce((all, one) => all * one, 1)).fill(-7), shape);
  const words = (values: readonly number[], shape: readonly number[]): Tensor => {
    const memory = backend.allocateHost(values.length * DTYPE_BYTES.i32, 'shared');
    new Int32Array(memory.bytes.buffer, memory.bytes.byteOffset, values.length).set(values);
    return tensor(memory, 0, 'i32', shape);
  };
  const contentOf = ({ memory, shape }: Tensor) => {
    const { bytes } = memory as unknown as { bytes: Uint8Array<ArrayBuffer> };
    return [
      ...new Float32Array(
        bytes.buffer,
        bytes.byteOffset,
        shape.reduce((all, one) => all * one, 1),
      ),
    ];
  };

  beforeEach(() => {
    backend = new CpuBackend({ virtualDevices: 1 });
    worker = backend.openWorker(device());
    const state = words(new Array<number>(MAIL_STATE_WORDS).fill(0), [MAIL_STATE_WORDS]);
    mail = { words: tensor(worker.mail, 0, 'i32', [MAIL_WORDS]), state };
    worker.begin();
  });
  afterEach(() => backend.close());

  /** Every output is the sum of a row of ones times the row of x, which are r + 1. */
  function product() {
    const x = floats(
      Array.from({ length: ROWS * INPUTS }, (_, i) => Math.floor(i / INPUTS) + 1),
      [ROWS, INPUTS],
    );
    const hostX = empty([ROWS, INPUTS]);
    const [hostY, y] = [empty([ROWS, OUTPUTS]), empty([ROWS, OUTPUTS])];
    const weight = denseWeight(floats(new Array<number>(INPUTS * OUTPUTS).fill(1), [OUTPUTS, INPUTS]));
    const op: Op = {
      op: 'linear',
      out: hostY,
      x: hostX,
      weight,
      bias: null,
      activation: 'none',
      accumulate: false,
    };
    return { x, hostX, hostY, y, op };
  }

  async function settled(): Promise<void> {
    await device().compute.record().reached();
  }

  it('computes what is asked for, again and again', async () => {
    const { x, hostX, hostY, y, op } = product();
    const job = worker.define([op]);
    const expected = Array.from({ length: ROWS * OUTPUTS }, (_, i) => INPUTS * (Math.floor(i / OUTPUTS) + 1));
    for (let round = 0; round < 50; round++) {
      device().compute.launch({ op: 'ask_host', from: x, to: hostX, mail, job });
      device().compute.launch({ op: 'take_host', out: y, from: hostY, choices: null, mail });
    }
    await settled();
    expect(contentOf(y)).toEqual(expected);
    expect(worker.failure).toBe('');
  });

  it('gives only the rows of choices that are computed elsewhere', async () => {
    const { x, hostX, hostY, y, op } = product();
    const job = worker.define([op]);
    const choices = words([1, ELSEWHERE, 0], [ROWS, 1]);
    device().compute.launch({ op: 'ask_host', from: x, to: hostX, mail, job });
    device().compute.launch({ op: 'take_host', out: y, from: hostY, choices, mail });
    await settled();
    const rows = Array.from({ length: ROWS }, (_, row) => contentOf(y)[row * OUTPUTS]);
    expect(rows).toEqual([-7, 2 * INPUTS, -7]);
  });

  it('is asked for the next job before the last one was taken', async () => {
    const { x, hostX, hostY, y, op } = product();
    const job = worker.define([op]);
    for (let round = 0; round < 20; round++) {
      device().compute.launch({ op: 'ask_host', from: x, to: hostX, mail, job });
    }
    device().compute.launch({ op: 'take_host', out: y, from: hostY, choices: null, mail });
    await settled();
    expect(contentOf(y)[0]).toBe(INPUTS);
  });

  it('says why a job failed, and fails whoever waits for it', async () => {
    const { x, hostX, hostY, y } = product();
    const bias = floats(new Array<number>(2 * INPUTS).fill(1), [2, INPUTS]);
    const experts = words([0, 1, 2], [ROWS, 1]);
    const job = worker.define([{ op: 'expert_bias', x: hostX, experts, bias }]);
    device().compute.launch({ op: 'ask_host', from: x, to: hostX, mail, job });
    device().compute.launch({ op: 'take_host', out: y, from: hostY, choices: null, mail });
    await expect(settled()).rejects.toThrow('the processor failed in its part');
    expect(worker.failure).toContain('expert 2 of choice 2 is none of 2');
  });

  it('fails for a job that was forgotten', async () => {
    const { x, hostX, hostY, y, op } = product();
    const job = worker.define([op]);
    worker.forget(job);
    device().compute.launch({ op: 'ask_host', from: x, to: hostX, mail, job });
    device().compute.launch({ op: 'take_host', out: y, from: hostY, choices: null, mail });
    await expect(settled()).rejects.toThrow('the processor failed in its part');
    expect(worker.failure).toContain(`job ${job}, which there is not`);
  });

  it('refuses operations that do not fit when they are defined', () => {
    const { op } = product();
    const bad = { ...op, x: empty([ROWS, INPUTS + 1]) } as Op;
    expect(() => worker.define([bad])).toThrow('x');
  });

  it('lets nobody wait when it is closed, not even where nobody looked out', async () => {
    const { x, hostX, hostY, y, op } = product();
    // One that was never begun: whether one whose end was called is still looking is the system's choice.
    const idle = backend.openWorker(device());
    const own = { ...mail, words: tensor(idle.mail, 0, 'i32', [MAIL_WORDS]) };
    const job = idle.define([op]);
    device().compute.launch({ op: 'ask_host', from: x, to: hostX, mail: own, job });
    device().compute.launch({ op: 'take_host', out: y, from: hostY, choices: null, mail: own });
    const refused = expect(settled()).rejects.toThrow('computing was stopped');
    await backend.close();
    await refused;
  });

  /** By number of missing experts: how many the host is to compute. */
  function shares(): number[] {
    const { bytes } = worker.mail;
    return [...new Int32Array(bytes.buffer, bytes.byteOffset, MAIL_WORDS).subarray(FIRST_SHARE)];
  }

  it.each([
    [1, 1, 0, 0],
    [0.25, 0.15, 0.06, 0.02],
    [0.25, 1.5, 0.06, 0.02],
    [2.5, 0.15, 0.06, 0.02],
    [0.25, 0, 0, 0],
    [0, 0.25, 0, 0],
    [0.01, 0.01, 5, 0],
    [0.01, 0.01, 0, 5],
  ])('shares experts so that both sides end together: %d ms and %d ms each', (...times) => {
    const [bringMs, computeMs, deviceMs, hostMs] = times;
    worker.share('balanced', { bringMs, computeMs, deviceMs, hostMs });
    const endMs = (missing: number, share: number) =>
      Math.max(deviceMs + (missing - share) * bringMs, share === 0 ? 0 : hostMs + share * computeMs);
    const found = shares();
    expect(found.length).toBe(1025);
    for (const [missing, share] of found.slice(0, 200).entries()) {
      const best = Math.min(...Array.from({ length: missing + 1 }, (_, one) => endMs(missing, one)));
      expect(share).toBeGreaterThanOrEqual(0);
      expect(share).toBeLessThanOrEqual(missing);
      expect(endMs(missing, share)).toBeCloseTo(best, 9);
    }
  });

  it('shares all or none where that is the rule', () => {
    worker.share('all', worker.rates);
    expect(shares()).toEqual(Array.from({ length: 1025 }, (_, missing) => missing));
    worker.share('none', worker.rates);
    expect(new Set(shares())).toEqual(new Set([0]));
  });

  /** Asks as a kernel does, which says that so many experts came to it the last time, and how long that took. */
  async function learn(
    rounds: number,
    job: number,
    spanMs: (came: number, round: number) => number,
  ): Promise<void> {
    const { bytes } = worker.mail;
    const all = new Int32Array(bytes.buffer, bytes.byteOffset, MAIL_WORDS);
    for (let round = 0; round < rounds; round++) {
      const came = round % 3;
      all[ASIDES] = 1;
      all[CAME] = came;
      all[SPAN] = Math.round(spanMs(came, round) * 1e6);
      all[JOB] = job;
      const number = Atomics.load(all, ASKED) + 1;
      Atomics.store(all, ASKED, number);
      while (Atomics.load(all, DONE) !== number) await setImmediate();
    }
  }

  it('learns what is fixed and what each expert takes, from measurements of which some are wrong', async () => {
    const job = worker.define([product().op]);
    worker.share('balanced', { bringMs: 1, computeMs: 1, deviceMs: 0.01, hostMs: 0.01 });
    await learn(300, job, (came, round) => 0.06 + 0.25 * came + (round % 20 === 0 ? 10 : 0));
    expect(worker.rates.bringMs).toBeGreaterThan(0.2);
    expect(worker.rates.bringMs).toBeLessThan(0.35);
    expect(worker.rates.deviceMs).toBeGreaterThan(0.03);
    expect(worker.rates.deviceMs).toBeLessThan(0.1);
    await learn(400, job, (came) => 0.6 + 2.5 * came);
    expect(worker.rates.bringMs).toBeCloseTo(2.5, 1);
    expect(worker.rates.deviceMs).toBeCloseTo(0.6, 1);
    await learn(400, job, (came) => 0.06 + 0.25 * came);
    expect(worker.rates.bringMs).toBeCloseTo(0.25, 2);
    expect(worker.rates.deviceMs).toBeCloseTo(0.06, 2);
  });

  it('believes soon that a host which seemed slow is not, as it is seldom tried', async () => {
    const job = worker.define([product().op]);
    worker.share('balanced', { bringMs: 1, computeMs: 20, deviceMs: 0.01, hostMs: 20 });
    await learn(100, job, () => 1);
    expect(worker.rates.computeMs + worker.rates.hostMs).toBeLessThan(4);
  });

  it('computes an expert that is rarely wanted, and lets one come that is wanted more than who leaves', async () => {
    const { hostX, op } = product();
    const [slots, bytes, experts] = [2, 16, 4];
    const memory = device().allocate(slots * bytes);
    const home = backend.allocateHost(experts * bytes, 'shared');
    const fill = (count: number, value: number) => words(new Array<number>(count).fill(value), [count]);
    const tables = {
      slotOf: fill(experts, -1),
      uses: fill(experts, 0),
      keyOf: fill(slots, -1),
      stamps: fill(slots, 0),
      calls: fill(1, 0),
      list: fill(1 + 2 * experts, 0),
    };
    const counts = fill(3, 0);
    const places = words([0, bytes, ...[0, 1, 2, 3].flatMap((e) => [e * bytes, 0])], [1 + experts, 2]);
    worker.share('balanced', { bringMs: 10, computeMs: 0.01, deviceMs: 0, hostMs: 0 });
    const job = worker.define([op]);
    // Two find free slots; the third is computed until it was wanted two times more than they were.
    for (const chosen of [0, 1, 2, 2, 2, 2]) {
      device().compute.launch({
        op: 'bring_experts',
        experts: words([chosen], [1, 1]),
        slots: tensor(memory, 0, 'u8', [slots, bytes]),
        home: tensor(home, 0, 'u8', [experts * bytes]),
        places,
        tables,
        counts,
        firstKey: 0,
        ageCalls: 1000,
        aside: {
          here: words([0], [1, 1]),
          there: words([0], [1, 1]),
          x: floats(new Array<number>(INPUTS).fill(1), [1, INPUTS]),
          hostX: { ...hostX, shape: [1, INPUTS] },
          weights: null,
          hostWeights: null,
          mail,
          job,
        },
      });
    }
    await settled();
    const { memory: counted } = counts as unknown as { memory: { bytes: Uint8Array<ArrayBuffer> } };
    expect([...new Int32Array(counted.bytes.buffer, counted.bytes.byteOffset, 3)]).toEqual([1, 3, 2]);
  });
});
