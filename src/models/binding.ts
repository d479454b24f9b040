// The step from an architecture and a checkpoint to a ModelSpec: every tensor that the one needs, found in the other.

import { join } from 'node:path';
import {
  areAlike,
  DTYPE_BYTES,
  elementCount,
  type FloatType,
  type LayerSpec,
  layerOf,
  type MatrixSpec,
  type ModelSpec,
  OperatingError,
  sameShape,
  type TensorSpec,
} from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { show } from '../files/json-file.js';
import { refuseScaledActivations } from '../formats/awq.js';
import { isIgnored } from '../formats/companions.js';
import { NOTHING_DECLARED, readDeclared } from '../formats/declared.js';
import { describeStored } from '../formats/describe-stored.js';
import { modelType } from '../formats/model-type.js';
import { NO_NOTES, type Notes } from '../formats/notes.js';
import { type FormatContext, floatTypeOf } from '../formats/reading.js';
import { type FoundMatrix, readMatrix } from '../formats/registry.js';
import { refuseUnreadNames } from '../formats/unread-names.js';
import {
  type ArchitectureModel,
  chooseWay,
  isMatrix,
  type TensorDef,
  type TensorSource,
} from './architecture.js';

export interface BoundModel {
  readonly model: ModelSpec;
  /** Tensors of the checkpoint that no part of the model is. */
  readonly unused: readonly StoredTensor[];
  /** Token table and head where they are one by the configuration and the checkpoint has both. */
  readonly tiedPair: readonly [StoredTensor, StoredTensor] | undefined;
}

/**
 * Finds every tensor of the architecture in the checkpoint.
 * Throws MISSING_TENSOR, WRONG_SHAPE, BAD_WEIGHTS, BAD_CONFIG or UNSUPPORTED.
 * @param notes what was read of the checkpoint beside its headers
 */
export function bindModel(
  architecture: ArchitectureModel,
  checkpoint: Checkpoint,
  notes: Notes = NO_NOTES,
): BoundModel {
  const { config, folder, quantiser } = checkpoint;
  const declared = readDeclared(config, join(folder, 'config.json'), quantiser);
  const context = { checkpoint, declared, notes, type: modelType(checkpoint) };
  refuseScaledActivations(context);
  const binding = new Binding(architecture, context);
  const { projection, bias, tied } = architecture.head;
  const tokenTable = architecture.tables.find(({ rowsFrom }) => rowsFrom === 'token');
  const tables = architecture.tables.map((def) => {
    // Which of two tied tensors a file keeps is chance.
    const { dtype, extent } = binding.bind(tied && def === tokenTable ? withStandIn(def, projection) : def);
    const [rowCount = 0, columns = 0] = def.shape;
    const { key, rowsFrom, rowOffset } = def;
    return { key, rowCount, columns, dtype, extent, rowsFrom, rowOffset };
  });
  // Where both are there and differ, transformers does not tie them: each is used as it is stored.
  const headDef = tied && tokenTable ? withStandIn(projection, tokenTable) : projection;
  const model: ModelSpec = {
    architecture: architecture.architecture,
    hiddenSize: architecture.hiddenSize,
    vocabSize: architecture.vocabSize,
    maxContextTokens: architecture.maxContextTokens,
    recomputeAtTokens: architecture.recomputeAtTokens,
    lengthDependentAfterTokens: architecture.lengthDependentAfterTokens,
    blocksReadTokens: architecture.blocksReadTokens,
    caches: architecture.caches,
    tables,
    fixed: binding.layer('fixed weights', architecture.fixed),
    blocks: Array.from({ length: architecture.blockCount }, (_, index) =>
      binding.layer(`block ${index}`, architecture.block(index)),
    ),
    head: { projection: binding.matrix(headDef), ...(bias ? { bias: binding.bind(bias) } : {}) },
    logits: architecture.logits,
    constants: architecture.constants,
    forward: architecture.forward,
  };
  const stored = (def: TensorDef | undefined) => def && binding.storedUnder(def);
  const [table, head] = tied ? [stored(tokenTable), stored(projection)] : [];
  return { model, unused: binding.unused(), tiedPair: table && head ? [table, head] : undefined };
}

/** A definition, the stored tensor that it is or is part of, and which part. */
export interface StoredDef {
  readonly def: TensorDef;
  readonly stored: StoredTensor;
  readonly source: TensorSource;
}

/** A block's tensors where they lie, of an architecture that is bound to the checkpoint. */
export function storedBlock(
  architecture: ArchitectureModel,
  checkpoint: Checkpoint,
  index: number,
): StoredDef[] {
  const plain = { declared: NOTHING_DECLARED, notes: NO_NOTES, type: 'bf16' } as const;
  const binding = new Binding(architecture, { checkpoint, ...plain });
  return binding.chosen(architecture.block(index)).map((def) => ({ def, ...binding.find(def) }));
}

/** The definition, found under the other's names where it has none of its own. */
function withStandIn(def: TensorDef, other: TensorDef): TensorDef {
  const ofOther = { name: other.name, shape: other.shape, firstElement: 0 };
  return { ...def, elsewhere: [...(def.elsewhere ?? []), ofOther, ...(other.elsewhere ?? [])] };
}

class Binding {
  readonly #architecture: ArchitectureModel;
  readonly #context: FormatContext;
  readonly #checkpoint: Checkpoint;
  readonly #used = new Set<string>();
  readonly #prefixes: readonly string[];

  constructor(architecture: ArchitectureModel, context: FormatContext) {
    this.#architecture = architecture;
    this.#prefixes = [...new Set([...architecture.prefixes, ''])];
    this.#context = context;
    this.#checkpoint = context.checkpoint;
  }

  layer(name: string, defs: readonly TensorDef[]): LayerSpec {
    const layer = layerOf(
      name,
      this.chosen(defs).map((def) => {
        if (isMatrix(def)) return this.matrix(def);
        return def.integersBelow !== undefined ? this.integers(def) : this.bind(def);
      }),
    );
    checkExperts(layer, this.#checkpoint);
    return layer;
  }

  /** Where a layer may be stored in several ways, the one that the checkpoint has. */
  chosen(defs: readonly TensorDef[]): readonly TensorDef[] {
    return chooseWay(defs, (def) => {
      const [N = 0, K = 0] = def.shape;
      const read = this.#matrixUnder(def, [N, K]);
      const isThere = (name: string, source: TensorSource) => {
        const stored = this.#checkpoint.find(name);
        // The matrices of several experts tell by their sizes how they are stored.
        if (!stored || source.shape.length < 3) return read(name, source) !== undefined;
        const { shape, inputMajor = false } = source;
        const [count = 0, rows = 0, inputs = 0] = shape;
        return sameShape(stored.shape, inputMajor ? [count, inputs, rows] : shape);
      };
      return this.#look(def, isThere).found === true;
    });
  }

  /** A matrix in whatever format it is stored. */
  matrix(def: TensorDef): MatrixSpec {
    const { key, shape } = def;
    const [N = 0, K = 0] = shape;
    const { format, firstRow, parts, used } = this.#findMatrix(def, [N, K]);
    for (const name of used) this.#used.add(name);
    return { key, format, shape: [N, K], firstRow, parts };
  }

  /** A tensor that is stored as its values. */
  bind(def: TensorDef): TensorSpec & { readonly dtype: FloatType } {
    const { folder } = this.#checkpoint;
    const { stored, source } = this.find(def);
    const dtype = floatTypeOf(stored);
    if (!dtype) {
      throw new OperatingError(
        'UNSUPPORTED',
        `${folder}: tensor ${stored.name} is stored as ${stored.dtype}; supported of what is no matrix to multiply ` +
          'with: F32, F16, BF16',
      );
    }
    const elementBytes = DTYPE_BYTES[dtype];
    const { shape } = source;
    if (!sameShape(stored.shape, shape) || stored.sizeBytes !== elementCount(shape) * elementBytes) {
      throw new OperatingError(
        'WRONG_SHAPE',
        `${folder}: tensor ${stored.name} has shape [${stored.shape.join(', ')}], ` +
          `but config.json implies [${shape.join(', ')}]`,
      );
    }
    this.#used.add(stored.name);
    const extent = {
      fileIndex: stored.fileIndex,
      fileOffset: stored.fileOffset + source.firstElement * elementBytes,
      sizeBytes: elementCount(def.shape) * elementBytes,
    };
    return { key: def.key, dtype, shape: def.shape, extent };
  }

  /** Whole numbers of 32 or 64 bits: the second word of a long one says nothing of numbers that are small and not negative. */
  integers(def: TensorDef): TensorSpec {
    const { folder } = this.#checkpoint;
    const { stored, source } = this.find(def);
    const words = { I32: 1, I64: 2 }[stored.dtype];
    const shown = (shape: readonly number[]) => `[${shape.join(', ')}]`;
    if (words === undefined) {
      throw new OperatingError(
        'UNSUPPORTED',
        `${folder}: tensor ${stored.name} is stored as ${stored.dtype}; supported of whole numbers: I32, I64`,
      );
    }
    if (!sameShape(stored.shape, source.shape)) {
      throw new OperatingError(
        'WRONG_SHAPE',
        `${folder}: tensor ${stored.name} has shape ${shown(stored.shape)}, but config.json implies ${shown(source.shape)}`,
      );
    }
    this.#used.add(stored.name);
    const { fileIndex, fileOffset, sizeBytes } = stored;
    const shape = [...def.shape.slice(0, -1), (def.shape.at(-1) ?? 0) * words];
    return { key: def.key, dtype: 'i32', shape, extent: { fileIndex, fileOffset, sizeBytes } };
  }

  unused(): StoredTensor[] {
    const all = [...this.#checkpoint.tensors.values()];
    const isUnneeded = (name: string) => isIgnored(name) || this.#architecture.unneeded?.test(name) === true;
    return all.filter(({ name }) => !this.#used.has(name) && !isUnneeded(name));
  }

  /** The tensor under one of the definition's own names. */
  storedUnder({ name, elsewhere = [] }: TensorDef): StoredTensor | undefined {
    const spellings = [name, ...elsewhere.map((source) => source.name)];
    for (const candidate of spellings.flatMap((spelling) => this.#names(spelling))) {
      const stored = this.#checkpoint.find(candidate);
      if (stored) return stored;
    }
    return undefined;
  }

  /** Checkpoints name tensors with the model's prefix, or without it. */
  #names(name: string): string[] {
    return this.#prefixes.map((prefix) => `${prefix}${name}`);
  }

  find(def: TensorDef): { stored: StoredTensor; source: TensorSource } {
    return this.#first(def, (name, source) => {
      const stored = this.#checkpoint.find(name);
      return stored && { stored, source };
    });
  }

  #findMatrix(def: TensorDef, shape: readonly [number, number]): FoundMatrix {
    return this.#first(def, this.#matrixUnder(def, shape));
  }

  #matrixUnder({ key, inputMajor = false }: TensorDef, shape: readonly [number, number]) {
    return (name: string, source: TensorSource): FoundMatrix | undefined => {
      const { shape: whole, firstElement } = source;
      const [rows = 0, inputs = 0] = whole.slice(-2);
      const matrix = Math.floor(firstElement / (rows * inputs));
      const row = (firstElement % (rows * inputs)) / inputs;
      return readMatrix(this.#context, {
        key,
        name,
        shape,
        whole,
        matrix,
        row,
        inputMajor: source.inputMajor ?? inputMajor,
      });
    };
  }

  /** The first of all that the definition may be found under, or MISSING_TENSOR. */
  #first<T>(def: TensorDef, look: (name: string, source: TensorSource) => T | undefined): T {
    const { found, tried } = this.#look(def, look);
    if (found) return found;
    throw this.#missing([...new Set(tried)]);
  }

  #look<T>(def: TensorDef, look: (name: string, source: TensorSource) => T | undefined) {
    const tried: string[] = [];
    for (const source of [{ ...def, firstElement: 0 }, ...(def.elsewhere ?? [])]) {
      for (const name of this.#names(source.name)) {
        const found = look(name, source);
        if (found) return { found, tried };
        tried.push(name);
      }
    }
    return { found: undefined, tried };
  }

  #missing(tried: readonly string[]): OperatingError {
    const { folder, tensors, unfound, config } = this.#checkpoint;
    refuseUnreadNames(folder, tensors.keys());
    const promised = tried.find((name) => unfound.has(name));
    const [made] = Array.isArray(config.architectures) ? config.architectures : [];
    const hint = promised
      ? `; the index puts it into ${unfound.get(promised)}, which does not hold it: download that file again`
      : typeof made === 'string' && !/(CausalLM|LMHead\w*)$/.test(made)
        ? `; config.json says that it was saved as ${show(made)}, which may have no such part`
        : '';
    return new OperatingError(
      'MISSING_TENSOR',
      `${folder}: the checkpoint has no tensor ${namesOf(tried)}, which ${this.#architecture.architecture} needs${hint}`,
    );
  }
}

/** A sentence names as many as one reads. */
const MOST_NAMES = 4;

function namesOf(tried: readonly string[]): string {
  const more = tried.length - MOST_NAMES;
  const named = tried.slice(0, MOST_NAMES).join(' or ');
  return more > 0 ? `${named} (nor any of ${more} other names of it)` : named;
}

/** The experts of a layer go through one product together. Throws UNSUPPORTED where they are not stored alike. */
function checkExperts({ name, matrices }: LayerSpec, { folder }: Checkpoint): void {
  const firsts = new Map<string, MatrixSpec>();
  for (const expert of matrices) {
    if (!/experts\.\d+\./.test(expert.key)) continue;
    const matrix = expert.key.replace(/experts\.\d+\./, 'experts.*.');
    const first = firsts.get(matrix) ?? expert;
    if (!areAlike(first, expert)) {
      throw new OperatingError(
        'UNSUPPORTED',
        `${folder}: ${name} stores ${matrix} partly as ${describeStored(first)} and partly as ` +
          `${describeStored(expert)} (${expert.key}): experts of a layer need one format`,
      );
    }
    firsts.set(matrix, first);
  }
}
