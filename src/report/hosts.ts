// What a plan says of several hosts that share a job's prompts: how long it takes, and from where on more of them help no further.

import { batchCountOf, counted } from '../../offload/index.js';
import type { PlanReport } from './plan-report.js';
import { textTable } from './text-table.js';

/** A job that is given out to hosts, each of which is the planned machine. */
export interface HostsQuestion {
  readonly hosts: number;
  readonly prompts: number;
}

export interface HostsRow {
  readonly hosts: number;
  readonly seconds: number;
  /** One host's time divided by that of all of these together. */
  readonly shareOfLinear: number;
}

export interface HostsPlan {
  readonly prompts: number;
  /** Texts that a host makes at once. */
  readonly texts: number;
  /** A host takes so long before its first pass, and so long for a full batch of texts. */
  readonly loadSeconds: number;
  readonly batchSeconds: number;
  readonly rows: readonly HostsRow[];
  /** With more, none has a full batch, and a pass takes as long. */
  readonly fullHosts: number;
  /** With more, half of what they could do is lost. */
  readonly halfHosts: number;
}

/** Undefined where the machine's rates are not known. */
export function planHosts(report: PlanReport, { hosts, prompts }: HostsQuestion): HostsPlan | undefined {
  const { predicted, batchSize, plan, request, loadMs } = report;
  const { prefill, decode } = predicted;
  if (!prefill || !decode) return undefined;
  const texts = batchSize * batchCountOf(request.model, plan);
  const loadSeconds = (loadMs ?? 0) / 1e3;
  // The prompt's last pass makes the first new token.
  const batchSeconds = (prefill.totalMs + (request.newTokens - 1) * decode.totalMs) / 1e3;
  const seconds = (count: number) => loadSeconds + Math.max(1, prompts / count / texts) * batchSeconds;
  const row = (count: number): HostsRow => ({
    hosts: count,
    seconds: seconds(count),
    shareOfLinear: seconds(1) / (count * seconds(count)),
  });
  const counts = [hosts];
  for (let count = 1; count < hosts; count *= 4) counts.push(count);
  return {
    prompts,
    texts,
    loadSeconds,
    batchSeconds,
    rows: counts.sort((a, b) => a - b).map(row),
    fullHosts: Math.max(1, Math.floor(prompts / texts)),
    halfHosts: lastThat((count) => row(count).shareOfLinear >= 0.5),
  };
}

const MOST_HOSTS = 2 ** 31;

/** The largest number for which it holds; it holds for 1, and for all below one for which it holds. */
function lastThat(holds: (count: number) => boolean): number {
  let [low, high] = [1, 2];
  while (high < MOST_HOSTS && holds(high)) [low, high] = [high, 2 * high];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (holds(middle)) low = middle;
    else high = middle;
  }
  return low;
}

export function hostsText({
  prompts,
  texts,
  loadSeconds,
  batchSeconds,
  rows,
  fullHosts,
  halfHosts,
}: HostsPlan): string {
  const number = (value: number) => value.toLocaleString('en-US');
  const table = textTable(
    [
      ['hosts', 'time', 'of linear'],
      ...rows.map(({ hosts, seconds, shareOfLinear }) => [
        number(hosts),
        duration(seconds),
        `${(shareOfLinear * 100).toFixed(1)} %`,
      ]),
    ],
    ['right', 'right', 'right'],
  );
  return (
    `${number(prompts)} prompts on hosts like this one, each ${counted(texts, 'text')} at once: ${duration(batchSeconds)} for these, ` +
    `after ${duration(loadSeconds)} of loading.\n${table}` +
    `Beyond ${counted(fullHosts, 'host')} batches are no longer full, and a pass takes as long. ` +
    `Beyond ${counted(halfHosts, 'host')} half of them would do nothing.\n`
  );
}

const UNITS = [
  [86_400, 'days'],
  [3600, 'h'],
  [60, 'min'],
] as const;

/** In the largest unit that it has at least two of, as exact as a prediction deserves. */
function duration(seconds: number): string {
  const [size, unit] = UNITS.find(([one]) => seconds >= 2 * one) ?? [1, 's'];
  const value = seconds / size;
  return `${value >= 100 ? Math.round(value).toLocaleString('en-US') : value.toPrecision(3)} ${unit}`;
}
