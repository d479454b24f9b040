// What one architecture file provides: dimensions, the tensors of each layer, and the forward.

import type { CacheSpec, LayerForward } from '../../offload/index.js';
import type { ConfigReader, DeviceShare } from '../checkpoint/config-reader.js';

/** A tensor as the checkpoint names it, without the model's prefix, and the key the forward uses. */
export interface TensorDef {
  readonly key: string;
  readonly name: string;
  /** [outputs, inputs] where it is a matrix, otherwise as it is stored. */
  readonly shape: readonly number[];
  /** A matrix that is stored [inputs, outputs] where it is stored as values. */
  readonly inputMajor?: boolean;
  /** Sizes of runs of outputs that devices share each by itself; default all outputs are one. */
  readonly sections?: readonly number[];
  /** Rows that results of products are added to or scaled by, not multiplied with. */
  readonly isBias?: boolean;
  /** Whole numbers from 0 up to but not including it, stored as I32 or as I64, which are read as pairs whose first is the value. */
  readonly integersBelow?: number;
  /** A matrix whose products choose experts: it is small, and decides much. */
  readonly isRouter?: boolean;
  /** Which of several ways to store the same it belongs to; absent where there is one. See `chooseWay`. */
  readonly way?: number;
  /** Where checkpoints that lack that name keep it, in the order of trying. */
  readonly elsewhere?: readonly TensorSource[];
}

/** A whole stored tensor, or a contiguous part of one. */
export interface TensorSource {
  /** Without the model's prefix. */
  readonly name: string;
  /** Shape of the stored tensor. */
  readonly shape: readonly number[];
  /** Where in it the part begins. */
  readonly firstElement: number;
  /** Its matrices are stored [inputs, outputs] where they are stored as values, unlike that of the definition. */
  readonly inputMajor?: boolean;
}

export interface TableDef extends TensorDef {
  readonly rowsFrom: 'token' | 'position';
  readonly rowOffset: number;
}

/** An architecture applied to one configuration. */
export interface ArchitectureModel {
  readonly architecture: string;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  /** Undefined where positions are not limited. */
  readonly maxContextTokens: number | undefined;
  /** See ModelSpec. */
  readonly recomputeAtTokens?: number | undefined;
  readonly lengthDependentAfterTokens?: number | undefined;
  readonly blocksReadTokens?: boolean;
  /** By block. */
  readonly caches: readonly CacheSpec[];
  readonly blockCount: number;
  /** Prefixes that checkpoints of this architecture put before names, most usual first; '' is always tried last. */
  readonly prefixes: readonly string[];
  /** Names of tensors that its checkpoints hold, and contexts up to `maxContextTokens` do not need. */
  readonly unneeded?: RegExp;
  readonly tables: readonly TableDef[];
  readonly fixed: readonly TensorDef[];
  block(index: number): readonly TensorDef[];
  /** Full names; a tied head names the token table. */
  readonly head: { readonly projection: TensorDef; readonly bias?: TensorDef; readonly tied: boolean };
  readonly logits: { readonly scale: number; readonly softCap: number };
  readonly constants: Readonly<Record<string, Float32Array>>;
  readonly forward: LayerForward;
}

/** What a file in this folder exports, and `registry.ts` lists. */
export interface Architecture {
  /** Values of `model_type` in config.json. */
  readonly modelTypes: readonly string[];
  /** Several devices can compute it together: what it builds for a share of them has their heads and inner sizes. */
  readonly isShareable?: boolean;
  /** Reads the configuration; throws an OperatingError for what is malformed or not supported. */
  build(config: ConfigReader): ArchitectureModel;
}

/** `{ 'ln_1.weight': [H] }` under `h.0.` → definitions whose key is the short name; what has two dimensions is a matrix. */
export function tensorsUnder(
  path: string,
  shapes: Readonly<Record<string, readonly number[] | undefined>>,
): TensorDef[] {
  return Object.entries(shapes).flatMap(([key, shape]) =>
    shape ? [{ key, name: `${path}${key}`, shape }] : [],
  );
}

/** Those of these keys lie in runs of outputs that devices share one by one, of these sizes. */
export function inSections(
  defs: readonly TensorDef[],
  sections: Readonly<Record<string, readonly number[] | undefined>>,
): TensorDef[] {
  return defs.map((def) => {
    const sizes = sections[def.key];
    return sizes ? { ...def, sections: sizes } : def;
  });
}

/** The same with every matrix stored [inputs, outputs]. */
export function inputMajorUnder(
  path: string,
  shapes: Readonly<Record<string, readonly number[] | undefined>>,
): TensorDef[] {
  return tensorsUnder(path, shapes).map((def) => (isMatrix(def) ? { ...def, inputMajor: true } : def));
}

/**
 * The definitions that a checkpoint is read by: those of the first way whose own first definition it has, and all that belong to none.
 * Where it has none of them, the first way is what is missed.
 */
export function chooseWay(
  defs: readonly TensorDef[],
  isThere: (def: TensorDef) => boolean,
): readonly TensorDef[] {
  const firsts = new Map<number, TensorDef>();
  for (const def of defs) if (def.way !== undefined && !firsts.has(def.way)) firsts.set(def.way, def);
  if (firsts.size === 0) return defs;
  const [usual] = firsts.keys();
  const way = [...firsts].find(([, def]) => isThere(def))?.[0] ?? usual;
  return defs.filter((def) => def.way === undefined || def.way === way);
}

/** The shape that a checkpoint's values have. */
export function storedShape({ shape, inputMajor = false }: TensorDef): readonly number[] {
  return inputMajor ? [...shape].reverse() : shape;
}

/** Whether the forward multiplies with it. */
export function isMatrix({ shape, isBias = false, integersBelow }: TensorDef): boolean {
  return shape.length === 2 && !isBias && integersBelow === undefined;
}

/** A device's equal share of one value per head. */
export function ofDevice(values: Float32Array, { device, devices }: DeviceShare): Float32Array {
  const each = values.length / devices;
  return values.slice(device * each, (device + 1) * each);
}

/** Logits as the head gives them. */
export const PLAIN_LOGITS = { scale: 1, softCap: 0 } as const;
