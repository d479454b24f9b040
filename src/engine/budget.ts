// Budgets beside what there is: one that is too large for the machine is told of, and a plan that needs more is refused.

import {
  cudaStatus,
  detectHardware,
  formatBytes,
  type Hardware,
  MiB,
  OperatingError,
  type Plan,
} from '../../offload/index.js';

/** What Node and this program take beside everything that a plan counts. */
const PROCESS_BYTES = 80 * MiB;

export interface Budgets {
  readonly dramBudgetBytes: number | undefined;
  readonly deviceBudgetBytes: number | undefined;
  readonly device: 'cpu' | 'cuda';
  readonly deviceCount: number;
}

/** Warnings about budgets that this machine cannot meet. */
export function budgetWarnings(budgets: Budgets, hardware: Hardware = detectHardware()): string[] {
  const { dramBudgetBytes, deviceBudgetBytes, device, deviceCount } = budgets;
  const gpus = device === 'cuda' && deviceBudgetBytes !== undefined ? cudaStatus().devices : [];
  const free = gpus.slice(0, deviceCount).map(({ freeBytes }) => freeBytes);
  return [
    ...dramWarning(dramBudgetBytes, hardware.dramAvailableBytes, placeOf(hardware)),
    ...deviceWarning(deviceBudgetBytes, free.length > 0 ? Math.min(...free) : undefined),
  ];
}

/** @param place where so much may be taken */
export function dramWarning(budget: number | undefined, availableBytes: number, place: string): string[] {
  if (budget === undefined || budget <= availableBytes) return [];
  return [
    `--dram_memory is ${formatBytes(budget)}, but ${formatBytes(availableBytes)} may be taken ${place}: ` +
      'a plan that needs more ends in swapping, or is ended by the system',
  ];
}

export function deviceWarning(budget: number | undefined, freeBytes: number | undefined): string[] {
  if (budget === undefined || freeBytes === undefined || budget <= freeBytes) return [];
  return [
    `--gpu_memory is ${formatBytes(budget)}, but a GPU has ${formatBytes(freeBytes)} free, and no more is planned with`,
  ];
}

function placeOf({ limitBytes }: Hardware): string {
  return limitBytes === undefined
    ? 'on this machine now'
    : `by this process now (its group is limited to ${formatBytes(limitBytes)})`;
}

/**
 * Throws DOES_NOT_FIT where all that is planned is more than the machine or the control group has in all. What is
 * available at the moment is no reason: the system may drop caches, or swap.
 * @param virtualDevices whose memory is taken from the same
 */
export function checkMachineHolds(
  plan: Plan,
  virtualDevices: number,
  { totalBytes, limitBytes }: Hardware = detectHardware(),
): void {
  const sum = (tier: 'dram' | 'gpu') =>
    plan.terms.reduce((all, term) => all + (term.tier === tier ? term.bytes : 0), 0);
  const devicesBytes = virtualDevices * sum('gpu');
  const needed = sum('dram') + devicesBytes + PROCESS_BYTES;
  if (needed <= totalBytes) return;
  const parts = [`DRAM ${formatBytes(sum('dram'))}`];
  if (virtualDevices > 0) parts.push(`${virtualDevices} × ${formatBytes(sum('gpu'))} for --virtual_devices`);
  parts.push(`the program ${formatBytes(PROCESS_BYTES)}`);
  const owner = limitBytes === totalBytes ? 'the control group of this process' : 'this machine';
  throw new OperatingError(
    'DOES_NOT_FIT',
    `the plan needs ${formatBytes(needed)} (${parts.join(', ')}), but ${owner} has ${formatBytes(totalBytes)} in all: ` +
      `lower ${virtualDevices > 0 ? '--virtual_devices or ' : ''}--dram_memory, or leave it out`,
  );
}
