// A lease's smallest part: some prompts that follow each other, which one worker makes the texts of, all or none.

/** What BullMQ keeps of a part that waits. */
export interface ChunkData<P> {
  /** Its prompts by their index among all of the job. */
  readonly prompts: readonly (readonly [index: number, prompt: P])[];
}

/** What it keeps of one that is done: a line of results per text. */
export interface ChunkResult {
  readonly lines: readonly Readonly<Record<string, unknown>>[];
}

/** Fewer prompts would cost the server more than their texts do; more would leave workers idle at the end of a job. */
export const CHUNK_PROMPTS = 16;
const CHUNK_CHARACTERS = 256 << 10;

export interface Chunk<P> extends ChunkData<P> {
  readonly number: number;
  /** Length of its prompts, as they are stored. */
  readonly characters: number;
}

/** The same parts whenever the same prompts are cut, so that a submission can be gone on with. */
export function* chunksOf<P>(prompts: Iterable<P>): Generator<Chunk<P>, void> {
  let [number, characters, index] = [0, 0, 0];
  let some: (readonly [number, P])[] = [];
  for (const prompt of prompts) {
    const length = JSON.stringify(prompt).length;
    if (some.length === CHUNK_PROMPTS || (some.length > 0 && characters + length > CHUNK_CHARACTERS)) {
      yield { number: number++, prompts: some, characters };
      [some, characters] = [[], 0];
    }
    some.push([index++, prompt]);
    characters += length;
  }
  if (some.length > 0) yield { number, prompts: some, characters };
}

/** BullMQ takes no bare number for a name. */
export function chunkId(number: number): string {
  return `c${number}`;
}

export function chunkNumber(id: string): number {
  return Number(id.slice(1));
}
