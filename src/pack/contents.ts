// What a checkpoint's tensors become: matrices of blocks are packed, everything else goes along as it is.

import { OperatingError } from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { textPart } from '../checkpoint/text-part.js';
import { QUANTISATION_KEYS, quantisedTensor } from '../checkpoint/unreadable.js';
import { type ArchitectureModel, isMatrix } from '../models/architecture.js';
import { storedBlock } from '../models/binding.js';
import type { MatrixShape } from './scheme.js';

/** A matrix to be packed, and where its values lie. */
export interface Matrix extends MatrixShape {
  readonly fileIndex: number;
  readonly fileOffset: number;
  /** They are stored [inputs, rows]. */
  readonly inputMajor: boolean;
}

/** A block; or what belongs to none, the last of them. */
export interface LayerContents {
  /** Its files are called so, and people know it by it. */
  readonly name: string;
  readonly matrices: readonly Matrix[];
  readonly copies: readonly StoredTensor[];
}

export interface Contents {
  readonly layers: readonly LayerContents[];
  /** Modules with matrices that stay as they are. */
  readonly ignored: readonly string[];
}

const FLOATS: Readonly<Record<string, { readonly dtype: MatrixShape['dtype']; readonly bytes: number }>> = {
  F32: { dtype: 'f32', bytes: 4 },
  F16: { dtype: 'f16', bytes: 2 },
  BF16: { dtype: 'bf16', bytes: 2 },
};

/** @param checkpoint one that the architecture is bound to. Throws UNSUPPORTED. */
export function contentsOf(checkpoint: Checkpoint, architecture: ArchitectureModel): Contents {
  refuseUnpackable(checkpoint);
  const used = new Set<string>();
  const ignored = new Set(stayingModules(architecture));
  const layers = Array.from({ length: architecture.blockCount }, (_, index): LayerContents => {
    const matrices: Matrix[] = [];
    const copies: StoredTensor[] = [];
    for (const { def, stored, source } of storedBlock(architecture, checkpoint, index)) {
      const prefix = stored.name.slice(0, stored.name.length - source.name.length);
      const [rows, inputs] = def.shape;
      const packs = def.isRouter !== true && isMatrix(def) && rows !== undefined && inputs !== undefined;
      if (packs) {
        const { dtype, bytes } = floatOf(stored);
        const fileOffset = stored.fileOffset + source.firstElement * bytes;
        const { fileIndex } = stored;
        const inputMajor = source.inputMajor ?? def.inputMajor ?? false;
        if (inputMajor && source.shape.at(-2) !== rows) throw sideBySide(stored);
        matrices.push({
          module: moduleOf(`${prefix}${def.name}`),
          rows,
          inputs,
          dtype,
          fileIndex,
          fileOffset,
          inputMajor,
        });
      } else if (!used.has(stored.name)) copies.push(stored);
      if (def.isRouter === true) ignored.add(moduleOf(`${architecture.prefixes[0] ?? ''}${def.name}`));
      used.add(stored.name);
    }
    return { name: `block-${String(index).padStart(5, '0')}`, matrices, copies };
  });
  const rest = [...checkpoint.tensors.values()].filter(({ name }) => !used.has(name));
  return { layers: [...layers, { name: 'rest', matrices: [], copies: rest }], ignored: [...ignored] };
}

function floatOf({ name, dtype }: StoredTensor) {
  const float = FLOATS[dtype];
  if (!float)
    throw new OperatingError('UNSUPPORTED', `${name} is stored as ${dtype}: only float weights are packed`);
  return float;
}

export function moduleOf(name: string): string {
  return name.replace(/\.weight$/, '');
}

/** Tables and the head. Norms have no matrices. */
export function stayingModules({ tables, head, prefixes }: ArchitectureModel): string[] {
  const prefix = prefixes[0] ?? '';
  return [...tables.map(({ name }) => moduleOf(`${prefix}${name}`)), moduleOf(head.projection.name)];
}

function refuseUnpackable({ folder, config, tensors, quantiser }: Checkpoint): void {
  const text = textPart(config).config;
  const key = QUANTISATION_KEYS.find((name) => text[name] !== undefined && text[name] !== null);
  const quantised = quantisedTensor(tensors.values());
  if (key !== undefined || quantised || quantiser) {
    const holds = quantised?.name ?? quantiser?.path;
    const why = key === undefined ? `it holds ${holds}` : `config.json has ${key}`;
    throw new OperatingError(
      'UNSUPPORTED',
      `${folder} is quantised already (${why}), and packing it again would lose more: give the checkpoint that it was ` +
        'made from, or use it as it is',
    );
  }
}

function sideBySide({ name }: StoredTensor): OperatingError {
  return new OperatingError(
    'UNSUPPORTED',
    `${name} holds several matrices side by side, [inputs, outputs], which are not taken apart: use it as it is`,
  );
}
