// Where the hidden states of watched micro-batches were not finite for the first time: noted on the device, read at the end.

import { headInputPlace, type PassPlaces } from '../model/forward-places.js';
import type { Tensor } from '../port/ops.js';
import { dimension, rows } from '../port/tensor.js';
import type { DeviceState } from './device-state.js';
import { type DeviceWork, outputCount, type Running } from './running.js';

/** @param isFirst what was noted before is of another pass */
export function noteTokens(state: DeviceState, running: Running, place: number, isFirst: boolean): void {
  if (!running.microBatch.watched) return;
  const { ops, tokenPlaces, hidden } = state;
  const { firstToken, tokens } = running;
  const noted = rows(tokenPlaces, firstToken, tokens);
  ops.noteNotFinite(noted, rows(hidden, firstToken, tokens), place, isFirst);
}

/** @param input what the head takes of the micro-batch's outputs */
export function noteHeadInput(
  { model, state }: DeviceWork,
  { microBatch, firstOutput }: Running,
  input: Tensor,
): void {
  if (!microBatch.watched) return;
  const noted = rows(state.headPlaces, firstOutput, microBatch.outputs.length);
  state.ops.noteNotFinite(noted, input, headInputPlace(model), true);
}

/** Queues the copy to where `readPlaces` finds them. */
export function copyPlaces(state: DeviceState, running: readonly Running[]): void {
  if (!isWatched(running)) return;
  const { device, results, placesOffset, tokenPlaces } = state;
  device.compute.copy(results, placesOffset, tokenPlaces.memory, 0, results.sizeBytes - placesOffset);
}

/** Once the copy is done; undefined where nothing was watched. */
export function readPlaces(state: DeviceState, running: readonly Running[]): PassPlaces | undefined {
  if (!isWatched(running)) return undefined;
  const { results, placesOffset, tokenPlaces, headPlaces } = state;
  const { buffer, byteOffset } = results.bytes;
  const read = (noted: Tensor, count: number, runOf: (one: Running) => readonly [number, number]) => {
    const start = byteOffset + placesOffset + noted.offsetBytes;
    const from = new Int32Array(buffer, start, dimension(noted, 0));
    const places = new Int32Array(count).fill(-1);
    for (const one of running) {
      const [first, length] = runOf(one);
      if (one.microBatch.watched) places.set(from.subarray(first, first + length), first);
    }
    return places;
  };
  const tokenCount = running.reduce((sum, { tokens }) => sum + tokens, 0);
  return {
    tokens: read(tokenPlaces, tokenCount, ({ firstToken, tokens }) => [firstToken, tokens]),
    outputs: read(headPlaces, outputCount(running), ({ firstOutput, microBatch }) => [
      firstOutput,
      microBatch.outputs.length,
    ]),
  };
}

function isWatched(running: readonly Running[]): boolean {
  return running.some(({ microBatch }) => microBatch.watched);
}
