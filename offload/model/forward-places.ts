// Where in a forward a hidden state may cease to be finite. Places are counted in the order of the forward.

import { present } from '../errors.js';
import type { ModelSpec } from './model.js';

/** −1 for what is finite everywhere, and for what nobody watched. */
export interface PassPlaces {
  /** Per token of the pass. */
  readonly tokens: Int32Array;
  /** Per output, of the head's input. */
  readonly outputs: Int32Array;
}

export const EMBEDDING_PLACE = 0;

export function blockPlace(blockIndex: number): number {
  return blockIndex + 1;
}

/** What the head's projection takes. */
export function headInputPlace({ blocks }: Pick<ModelSpec, 'blocks'>): number {
  return blocks.length + 1;
}

/** As a sentence goes on. @param place undefined where hidden states are finite up to the logits */
export function placeName(model: Pick<ModelSpec, 'blocks'>, place: number | undefined): string {
  if (place === EMBEDDING_PLACE) return 'the embedding';
  if (place === headInputPlace(model)) return 'the last norm';
  if (place === undefined) return 'the head, whose products they are';
  return `${present(model.blocks[place - 1], 'a block').name} (of ${model.blocks.length}, counted from 0)`;
}
