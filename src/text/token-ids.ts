// Token ids from outside: whole numbers that are rows of the embedding table, or a sentence about the first that is not.

import { OperatingError } from '../../offload/index.js';

/** Throws BAD_INPUT for the first that is no id of the vocabulary. @param what whose they are, as a sentence begins */
export function checkIds(
  ids: readonly unknown[],
  vocabSize: number,
  what: string,
): asserts ids is readonly number[] {
  const problem = idProblem(ids, vocabSize, what);
  if (problem) throw problem;
}

export function areIds(ids: readonly unknown[], vocabSize: number): ids is readonly number[] {
  return idProblem(ids, vocabSize, '') === undefined;
}

/** Looks at every token of every prompt, so it calls no function for each. */
export function idProblem(
  ids: ArrayLike<unknown>,
  vocabSize: number,
  what: string,
): OperatingError | undefined {
  for (
    let index = ids instanceof Int32Array ? firstOutside(ids, vocabSize) : 0;
    index < ids.length;
    index++
  ) {
    const id = ids[index];
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0) {
      const sentence = `${what} has ${shown(id)} at ${index}, which is no token id: ids are whole numbers from 0 on`;
      return new OperatingError('BAD_INPUT', sentence);
    }
    if (id >= vocabSize) {
      const sentence = `${what} has token id ${id} at ${index}, but the model's vocabulary has ${vocabSize} tokens (0 to ${vocabSize - 1})`;
      return new OperatingError('BAD_INPUT', sentence);
    }
  }
  return undefined;
}

/** A loop over nothing but numbers: a text may have a million. */
function firstOutside(ids: Int32Array, vocabSize: number): number {
  let index = 0;
  while (index < ids.length && (ids[index] as number) >= 0 && (ids[index] as number) < vocabSize) index++;
  return index;
}

/** The same of tokens that a program gives; an array of any other kind would be cut to whole numbers without a word. */
export function tokensProblem(
  tokens: Int32Array,
  vocabSize: number,
  what: string,
): OperatingError | undefined {
  // The class is compared by name, since another realm has a class of its own.
  const kind = Object.prototype.toString.call(tokens).slice('[object '.length, -1);
  if (kind === 'Int32Array') return idProblem(tokens, vocabSize, what);
  return new OperatingError(
    'BAD_INPUT',
    `${what} has its tokens in a value of type ${kind}: give an Int32Array`,
  );
}

const MOST_SHOWN = 40;

function shown(id: unknown): string {
  const text = typeof id === 'bigint' ? `${id}n` : (JSON.stringify(id) ?? String(id));
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text;
}
