// What kernels ask of the host: inputs go there, and results come back for the choices that are computed elsewhere.

import { ELSEWHERE } from '../../offload/port/host-ops.js';
import type { AsideExperts, Op, Tensor } from '../../offload/port/ops.js';
import { integers } from './footprint.js';
import { type Answering, workerOf } from './mailboxes.js';
import { wordRows } from './op-rows.js';

/** The worker whose last job must be done before the operation runs. */
export function awaitedBy(op: Op): Answering | undefined {
  if (op.op === 'ask_host' || op.op === 'take_host') return workerOf(op.mail.words.memory);
  const mail = op.op === 'bring_experts' ? (op.aside ?? op.behind)?.mail : undefined;
  return mail && workerOf(mail.words.memory);
}

export function askHost({ from, to, mail, job }: Op & { op: 'ask_host' }): void {
  copyRows(from, to, () => true);
  workerOf(mail.words.memory).ask(job);
}

export function takeHost({ out, from, choices }: Op & { op: 'take_host' }): void {
  const chosen = choices ? integers(choices) : undefined;
  copyRows(from, out, (row) => chosen === undefined || chosen[row] === ELSEWHERE);
}

/** @param left experts that the host computes */
export function leaveToHost(aside: AsideExperts, experts: Tensor, left: ReadonlySet<number>): void {
  const chosen = integers(experts);
  integers(aside.here).set(chosen.map((expert) => (left.has(expert) ? ELSEWHERE : expert)));
  if (left.size === 0) return;
  integers(aside.there).set(chosen.map((expert) => (left.has(expert) ? expert : ELSEWHERE)));
  copyRows(aside.x, aside.hostX, () => true);
  if (aside.weights && aside.hostWeights) copyRows(aside.weights, aside.hostWeights, () => true);
  workerOf(aside.mail.words.memory).ask(aside.job);
}

function copyRows(from: Tensor, to: Tensor, wanted: (row: number) => boolean): void {
  const [source, target] = [wordRows(from), wordRows(to)];
  target.starts.forEach((start, row) => {
    if (!wanted(row)) return;
    const first = source.starts[row] ?? 0;
    target.words.set(source.words.subarray(first, first + source.length), start);
  });
}
