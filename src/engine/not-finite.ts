// A sequence whose logits are no finite numbers: it is computed again while every layer is watched, so that its error
// can say where it began.

import { type Executor, OperatingError, type PassPlaces, type Plan, placeName } from '../../offload/index.js';
import type { Work } from './packing.js';

/** What watching has found of one sequence so far. */
export class Suspect {
  #place: number | undefined;
  #position: number | undefined;
  /** Its logits were not finite the second time either. */
  isRepeated = false;

  /** @param first where in the pass the slice's tokens and its outputs begin */
  note(
    places: PassPlaces,
    first: SliceStart,
    { slice, outputs }: Pick<Work<unknown>, 'slice' | 'outputs'>,
  ): void {
    for (let index = 0; index < slice.tokens.length; index++) {
      this.#add(places.tokens[first.token + index], slice.startPosition + index);
    }
    for (let index = 0; index < outputs.length; index++)
      this.#add(places.outputs[first.output + index], undefined);
  }

  #add(place: number | undefined, position: number | undefined): void {
    if (place === undefined || place < 0 || place >= (this.#place ?? Number.POSITIVE_INFINITY)) return;
    this.#place = place;
    this.#position = position;
  }

  /**
   * @param what cannot be told, as a sentence begins
   * @param isRepeated the logits were not finite the second time either
   */
  error(what: string, isRepeated: boolean, { model, plan }: Executor): OperatingError {
    const sentence = `${what}, since logits are not finite`;
    if (!isRepeated && this.#place === undefined) {
      return new OperatingError(
        'NOT_FINITE',
        `${sentence}; computed again, they are: memory or a drive returned wrong bytes, or the weights changed meanwhile, so run it again`,
      );
    }
    const at = this.#position === undefined ? '' : `, at position ${this.#position} of the sequence`;
    return new OperatingError(
      'NOT_FINITE',
      `${sentence}: NaN or infinite values begin in ${placeName(model, this.#place)}${at}. ` +
        `Its weights are damaged, or values exceed ${plan.activationType}${narrowKv(plan)}: compare the checkpoint's files with their source`,
    );
  }
}

/** Where keys and values are stored in a type of fewer exponents than they have. */
function narrowKv({ activationType, kvType }: Plan): string {
  if (kvType !== 'f16' || activationType === 'f16') return '';
  return ', or keys and values the float16 of --kv_dtype (then give bfloat16 or auto)';
}

interface SliceStart {
  readonly token: number;
  readonly output: number;
}

/** Enters the places of a pass, by its work. */
export function noteSuspects(
  work: readonly Work<{ readonly suspect: Suspect | undefined }>[],
  places: PassPlaces,
): void {
  const next = { token: 0, output: 0 };
  for (const item of work) {
    item.sequence.suspect?.note(places, next, item);
    next.token += item.slice.tokens.length;
    next.output += item.outputs.length;
  }
}
