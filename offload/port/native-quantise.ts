// What the addon has of making fewer bits of values: rows of a matrix to codes and scales.

/** Some bytes of host memory. */
export interface HostPlace {
  /** Id of the memory. */
  readonly memory: number;
  readonly offsetBytes: number;
}

/** int4: nibbles, lowest first, of q + 8; int8: bytes of q + 128; e4m3: floats of one byte. */
export type QuantiseTo = 'int4' | 'int8' | 'e4m3';

/** N rows of K inputs. Its memories stay as they are until it has ended. */
export interface QuantiseJob {
  readonly to: QuantiseTo;
  readonly dtype: 'f32' | 'f16' | 'bf16';
  readonly scaleDtype: 'f32' | 'f16' | 'bf16';
  readonly rows: number;
  readonly inputs: number;
  /** Inputs that share a scale. */
  readonly group: number;
  /** [N, K] of `dtype`, at any address. */
  readonly values: HostPlace;
  /** [N, K] codes; rows of int4 and int8 end at whole 32-bit words. */
  readonly codes: HostPlace;
  /** [N, ⌈K / group⌉] of `scaleDtype`. */
  readonly scales: HostPlace;
}

/** What was lost to a reader, who multiplies each code by its scale and rounds to `dtype`. */
export interface QuantiseLoss {
  readonly squares: number;
  readonly lostSquares: number;
  readonly largestLoss: number;
  /** The first value, counted row by row, that is no finite number; −1 where all are. Then rows may lack. */
  readonly notFinite: number;
}
