// The trace file as Perfetto reads it: nothing may overlap within a thread, and nothing of a run may be missing.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { chromeJson } from '../../offload/chrome-trace.js';
import { type Span, Trace } from '../../offload/trace.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

interface Event {
  readonly ph: string;
  readonly pid: number;
  readonly tid?: number;
  readonly name: string;
  readonly ts?: number;
  readonly dur?: number;
  readonly args: { readonly name?: string; readonly bytes?: number; readonly sort_index?: number };
}

/** What Perfetto's importer keeps: on one thread, an event that ends after the one it began in is dropped. */
function imported(json: string): { threads: Map<string, Event[]>; dropped: Event[] } {
  const { traceEvents } = JSON.parse(json) as { traceEvents: Event[] };
  const complete = traceEvents.filter(({ ph }) => ph === 'X');
  const names = new Map(
    traceEvents.filter(({ name }) => name === 'thread_name').map(({ tid, args }) => [tid, args.name]),
  );
  expect(traceEvents.filter(({ name }) => name === 'process_name').map(({ args }) => args.name)).toEqual([
    'zero-inference',
  ]);
  const threads = new Map<string, Event[]>();
  const open = new Map<string, number[]>();
  const dropped: Event[] = [];
  for (const event of [...complete].sort((a, b) => (a.ts ?? 0) - (b.ts ?? 0))) {
    const { ts = Number.NaN, dur = Number.NaN } = event;
    expect(ts).toBeGreaterThanOrEqual(0);
    expect(dur).toBeGreaterThanOrEqual(0);
    const thread = names.get(event.tid) ?? 'a thread without a name';
    // In nanoseconds, as they are stored.
    const [start, end] = [Math.round(ts * 1e3), Math.round((ts + dur) * 1e3)];
    const ends = (open.get(thread) ?? []).filter((other) => other > start);
    if (ends.some((other) => other < end)) dropped.push(event);
    else threads.set(thread, [...(threads.get(thread) ?? []), event]);
    open.set(thread, [...ends, end]);
  }
  return { threads, dropped };
}

const span = (lane: Span['lane'], startMs: number, endMs: number, name = `${startMs}`): Span => {
  return { lane, owner: lane === 'nvme→dram' ? 'drive' : 'cpu', name, startMs, endMs, bytes: 1 };
};

function traceOf(spans: readonly Span[]): string {
  const trace = new Trace(true);
  for (const one of spans) trace.add(one);
  return chromeJson(trace.spans);
}

describe('a trace file', () => {
  it('has a thread for each of several reads at once', () => {
    const reads = [span('nvme→dram', 5, 9), span('nvme→dram', 6, 10), span('nvme→dram', 9, 11)];
    const { threads, dropped } = imported(traceOf(reads));
    expect(dropped).toEqual([]);
    expect([...threads].map(([name, events]) => [name, events.map((event) => event.name)])).toEqual([
      ['nvme→dram drive', ['5', '9']],
      ['nvme→dram drive (2)', ['6']],
    ]);
  });

  it('keeps spans apart that touch, however short they are and wherever on the clock', () => {
    const startMs = 1234567.891234;
    const spans = Array.from({ length: 500 }, (_, i) =>
      span('compute', startMs + i * 3.7e-4, startMs + (i + 1) * 3.7e-4, `${i}`),
    );
    const { threads, dropped } = imported(traceOf(spans));
    expect(dropped).toEqual([]);
    expect([...threads.keys()]).toEqual(['compute cpu']);
    expect(threads.get('compute cpu')?.every(({ dur = 0 }) => dur >= 0.369 && dur <= 0.371)).toBe(true);
  });

  it('has the lanes from the drive to compute in the order of the way', () => {
    const json = traceOf([span('compute', 0, 1), span('dram→gpu', 0, 1), span('nvme→dram', 0, 1)]);
    const { traceEvents } = JSON.parse(json) as { traceEvents: Event[] };
    const sorted = traceEvents.filter(({ name }) => name === 'thread_sort_index');
    const names = traceEvents.filter(({ name }) => name === 'thread_name').map(({ args }) => args.name);
    expect(sorted.map(({ args }) => args.sort_index)).toEqual([0, 1, 2]);
    expect(names).toEqual(['nvme→dram drive', 'dram→gpu cpu', 'compute cpu']);
  });

  it('of random spans loses none', () => {
    let state = 7;
    const random = () => {
      state = (state * 48271) % 2147483647;
      return state / 2147483647;
    };
    const lanes = ['nvme→dram', 'rows', 'compute'] as const;
    const spans = Array.from({ length: 2000 }, (_, i) => {
      const startMs = random() * 100;
      return span(lanes[i % 3] ?? 'rows', startMs, startMs + random() ** 4 * 20, `${i}`);
    });
    const { threads, dropped } = imported(traceOf(spans));
    expect(dropped).toEqual([]);
    expect([...threads.values()].flat()).toHaveLength(spans.length);
  });

  it('of a run that reads ahead from the drive holds every read and every layer', async () => {
    const path = join(tempFolder(), 'trace.json');
    const words = ['--name', modelFolder('opt'), '--prompt', 'To be', '--max_new_tokens', '4'];
    const streaming = ['--device', 'cpu', '--nvme_offload_path', tempFolder(), '--prefetch_layers', '4'];
    const { status, errors } = await runCli([...words, ...streaming, '--trace', path]);
    expect([status, errors]).toEqual([0, []]);
    const { threads, dropped } = imported(readFileSync(path, 'utf8'));
    expect(dropped).toEqual([]);
    const count = (lane: string) =>
      [...threads].reduce((sum, [name, events]) => sum + (name.startsWith(lane) ? events.length : 0), 0);
    expect(count('nvme→dram')).toBeGreaterThan(4);
    expect(count('compute')).toBeGreaterThan(count('nvme→dram') / 2);
  });
});
