// Spans in Chrome's Trace Event Format, so that Perfetto shows every one of them.

import type { Lane, Span } from './trace.js';

/** From the drive to the results, top to bottom. */
const LANES: readonly Lane[] = [
  'nvme→dram',
  'rows',
  'dram→gpu',
  'gather',
  'kv dram→gpu',
  'kv gpu→dram',
  'compute',
];
const PROCESS = 1;
/** The format counts microseconds, with fractions; clocks tell nanoseconds. */
const NANOSECONDS_PER_MS = 1e6;

/** Spans that do not overlap, ordered. Thread 0 would be the process itself. */
interface Track {
  readonly name: string;
  readonly slices: Slice[];
}

interface Slice {
  readonly span: Span;
  readonly startNs: number;
  readonly endNs: number;
}

/**
 * As chrome://tracing and ui.perfetto.dev open it.
 *
 * Events of one thread must lie one in the other or apart: Perfetto drops what overlaps otherwise. A lane where several
 * things go on at once therefore has as many threads as go on at once.
 */
export function chromeJson(spans: readonly Span[]): string {
  const epochMs = spans.reduce((first, { startMs }) => Math.min(first, startMs), Number.POSITIVE_INFINITY);
  const slices = spans
    .map((span) => ({ span, startNs: sinceNs(epochMs, span.startMs), endNs: sinceNs(epochMs, span.endMs) }))
    .sort((a, b) => a.startNs - b.startNs || a.endNs - b.endNs);
  const events = tracksOf(slices).flatMap(({ name, slices }, index) => {
    const at = { pid: PROCESS, tid: index + 1 };
    return [
      { ph: 'M', ...at, name: 'thread_name', args: { name } },
      { ph: 'M', ...at, name: 'thread_sort_index', args: { sort_index: index } },
      ...slices.map(({ span, startNs, endNs }) => ({
        ph: 'X',
        ...at,
        cat: span.lane,
        name: span.name,
        ts: startNs / 1e3,
        dur: (endNs - startNs) / 1e3,
        args: { bytes: span.bytes },
      })),
    ];
  });
  const process = { ph: 'M', pid: PROCESS, name: 'process_name', args: { name: 'zero-inference' } };
  return JSON.stringify({ traceEvents: [process, ...events], displayTimeUnit: 'ms' });
}

/** Both ends are rounded alike, so that what touches still touches. */
function sinceNs(epochMs: number, ms: number): number {
  return Math.round((ms - epochMs) * NANOSECONDS_PER_MS);
}

/** @param slices ordered by their start */
function tracksOf(slices: readonly Slice[]): Track[] {
  const lanes = new Map<string, { readonly lane: Lane; readonly tracks: Track[] }>();
  for (const slice of slices) {
    const { lane, owner } = slice.span;
    const name = `${lane} ${owner}`;
    const known = lanes.get(name) ?? { lane, tracks: [] };
    lanes.set(name, known);
    const free = known.tracks.find(({ slices }) => (slices.at(-1)?.endNs ?? 0) <= slice.startNs);
    if (free) free.slices.push(slice);
    else known.tracks.push({ name: numbered(name, known.tracks.length), slices: [slice] });
  }
  return [...lanes.values()]
    .sort((a, b) => LANES.indexOf(a.lane) - LANES.indexOf(b.lane))
    .flatMap(({ tracks }) => tracks);
}

function numbered(name: string, before: number): string {
  return before === 0 ? name : `${name} (${before + 1})`;
}
