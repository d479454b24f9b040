// Planted bugs around what the host computes beside devices: who waits for whom, what a job takes, and which choices it is for.

import { afterEach, describe, expect, it } from 'vitest';
import { HostParts } from '../../offload/run/host-parts.js';
import { SimulatedWorker } from '../simulator/worker.js';
import { CHOOSING, caught } from './caught.js';

const HELPED = { ...CHOOSING, cpuCompute: 'only' } as const;

/** Share of seeds in which a bug is caught. */
async function share(): Promise<number> {
  return (await caught(HELPED, undefined, 15)).share;
}

describe('beside the host', () => {
  const busy = Object.getOwnPropertyDescriptor(SimulatedWorker.prototype, 'isBusy');
  const { ask, define, begin, shareOf } = SimulatedWorker.prototype;
  const { of } = HostParts.prototype;
  afterEach(() => {
    Object.defineProperty(SimulatedWorker.prototype, 'isBusy', busy ?? {});
    Object.assign(SimulatedWorker.prototype, { ask, define, begin, shareOf });
    HostParts.prototype.of = of;
  });

  it('finds nothing where nothing is planted', async () => {
    expect(await share()).toBe(0);
    expect((await caught({ ...HELPED, cpuCompute: 'auto', deviceCount: 2 }, undefined, 15)).share).toBe(0);
  });

  it('nobody waits for the host', async () => {
    Object.defineProperty(SimulatedWorker.prototype, 'isBusy', { configurable: true, get: () => false });
    expect(await share()).toBeGreaterThan(0.2);
  });

  it('a job is left out', async () => {
    SimulatedWorker.prototype.ask = () => undefined;
    expect(await share()).toBeGreaterThan(0.5);
  });

  it('the first job answers for all', async () => {
    SimulatedWorker.prototype.ask = function () {
      ask.call(this, 1);
    };
    expect(await share()).toBeGreaterThan(0.5);
  });

  it('an operation of a job is left out', async () => {
    SimulatedWorker.prototype.define = function (ops) {
      return define.call(this, ops.slice(0, -1));
    };
    expect(await share()).toBeGreaterThan(0.5);
  });

  it('the worker does not look out', async () => {
    SimulatedWorker.prototype.begin = () => undefined;
    expect(await share()).toBeGreaterThan(0.5);
  });

  it('results are taken from elsewhere', async () => {
    HostParts.prototype.of = function (layer, home) {
      const part = of.call(this, layer, home);
      return (tokens) => {
        const made = part(tokens);
        return made && { ...made, y: { ...made.y, offsetBytes: 0 } };
      };
    };
    expect(await share()).toBeGreaterThan(0.5);
  });

  it('choices are put where no job looks for them', async () => {
    HostParts.prototype.of = function (layer, home) {
      const part = of.call(this, layer, home);
      return (tokens) => {
        const made = part(tokens);
        return made && { ...made, experts: { ...made.experts, offsetBytes: made.experts.offsetBytes + 4 } };
      };
    };
    expect(await share()).toBeGreaterThan(0.5);
  });
});
