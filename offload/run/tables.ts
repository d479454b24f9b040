// A micro-batch's tables: written where JavaScript does, and brought to where kernels read them.

import { DTYPE_BYTES } from '../port/dtype.js';
import { type ControlTables, type MicroBatch, writeControl } from './pass.js';
import type { DeviceWork } from './running.js';

/** What the micro-batches before it have left. */
export interface TablesPlace {
  readonly firstWord: number;
  readonly firstOutput: number;
}

/** @param rows per table of the model, the row of each token in its look-up; empty where another device embeds */
export function writeTables(
  { model, plan, state }: DeviceWork,
  microBatch: MicroBatch,
  rows: readonly Int32Array[],
  { firstWord, firstOutput }: TablesPlace,
): ControlTables {
  return writeControl(microBatch, {
    rows,
    words: state.controlWords,
    firstWord,
    memory: state.controlDevice,
    pageTokens: plan.pageTokens,
    withTokens: model.blocksReadTokens,
    masks: state.masks && { all: state.masks.all, first: firstOutput },
  });
}

export function uploadTables(
  { device, controlHost, controlDevice }: DeviceWork['state'],
  { firstWord, words }: ControlTables,
): void {
  if (controlDevice === controlHost) return;
  const [offset, sizeBytes] = [firstWord * DTYPE_BYTES.i32, words * DTYPE_BYTES.i32];
  device.compute.copy(controlDevice, offset, controlHost, offset, sizeBytes);
}
