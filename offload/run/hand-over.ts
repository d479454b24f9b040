// What one device has made that another goes on with: hidden states of a stage of a pipeline, and tokens.

import type { DeviceEvent } from '../port/backend.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import { dimension } from '../port/tensor.js';
import type { DeviceState } from './device-state.js';
import type { LayerTimes } from './layer-times.js';
import type { Running } from './running.js';

export interface HandOver {
  readonly from: DeviceState;
  /** Reached when `from` has computed its layers. */
  readonly made: DeviceEvent;
  readonly to: DeviceState;
  readonly running: readonly Running[];
  readonly times: LayerTimes;
}

/**
 * Queues the copy of the hidden states, which compute of `to` waits for. Each batch has hidden states of its own on every
 * device, and its next pass begins when this one has ended everywhere: nobody else writes or reads there.
 */
export function queueHandOver({ from, made, to, running, times }: HandOver, hiddenSize: number): void {
  const last = running.at(-1);
  if (!last) return;
  const tokens = last.firstToken + last.tokens;
  const bytes = tokens * hiddenSize * DTYPE_BYTES.f32;
  const { gather, compute } = to.device;
  gather.wait(made);
  const started = gather.record();
  gather.copy(to.hidden.memory, to.hidden.offsetBytes, from.hidden.memory, from.hidden.offsetBytes, bytes);
  if (running.some(({ microBatch }) => microBatch.watched)) {
    const places = tokens * DTYPE_BYTES.i32;
    gather.copy(
      to.tokenPlaces.memory,
      to.tokenPlaces.offsetBytes,
      from.tokenPlaces.memory,
      from.tokenPlaces.offsetBytes,
      places,
    );
  }
  const ended = gather.record();
  compute.wait(ended);
  times.addHandOver(bytes, started, ended);
}

/**
 * Queues the copy of drawn tokens, which compute of `to` goes on with. `from` draws again only when it has summed with `to`, which
 * has then read them.
 */
export function queueTokensOver({ ids: from }: DeviceState, drew: DeviceEvent, to: DeviceState): void {
  const { device, ids } = to;
  device.compute.wait(drew);
  device.compute.copy(
    ids.memory,
    ids.offsetBytes,
    from.memory,
    from.offsetBytes,
    dimension(ids, 0) * DTYPE_BYTES.i32,
  );
}
