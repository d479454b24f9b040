// What a worker does with a part that it has taken: the texts of prompts, or the answers to requests.

import type { ChunkResult } from '../../queue/chunk.js';
import type { HeldChunk } from '../../queue/leases.js';

/** One part under way. */
export interface PartAtWork {
  /** Texts that are not made yet. */
  readonly open: number;
  /** Rejects with what ends the worker. */
  readonly result: Promise<ChunkResult>;
  /** Somebody else has the part. */
  cancel(): void;
}

export interface PartMaker<P> {
  /** Texts for each prompt. */
  readonly samples: number;
  /** Begins parts that were taken together. @param onText told of each text that is made */
  begin(chunks: readonly HeldChunk<P>[], onText: () => void): Promise<readonly PartAtWork[]>;
  /** How many a line of its results says. */
  newTokensOf(line: Readonly<Record<string, unknown>>): number;
}
