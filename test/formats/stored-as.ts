// A fixture of plain values written in a style of storing: made when a test runs, so that no file of it is kept.

import { contiguousStrides } from '../../offload/port/ops.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import type { TestTensor } from '../helpers/safetensors.js';
import { Values } from '../native/reference-values.js';
import type { NamedMatrix } from './encoders.js';
import type { Style } from './styles.js';

const FLOATS = { F32: 'f32', F16: 'f16', BF16: 'bf16' } as const;
/** Matrices of blocks that makers quantise: no router, and nothing that weighs tokens. */
const QUANTISED = /layers\.(\d+)\.(?!.*(?:compressor|indexer)).*(proj|w[123]|wq_[ab]|wkv|wo_[ab])\.weight$/;
const EXPERT =
  /^(.*layers\.\d+\.)(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(w1|w2|w3|gate_proj|up_proj|down_proj)\.weight$/;

export interface StoredAsOptions {
  /** Experts of a layer are one tensor, as transformers 5 can write them. */
  readonly fused?: boolean;
  /** In place of the style's quantization_config; null for none. */
  readonly config?: Readonly<Record<string, unknown>> | null;
  readonly json?: Readonly<Record<string, unknown>>;
  /** Only so many blocks; the others stay plain. */
  readonly blocks?: number;
  /** Also the head. */
  readonly head?: boolean;
  /** What becomes of the tensors afterwards. */
  readonly change?: (tensors: readonly TestTensor[]) => readonly TestTensor[];
}

export function storedAs(fixture: string, style: Style, options: StoredAsOptions = {}): Promise<string> {
  const {
    blocks = Number.POSITIVE_INFINITY,
    fused = false,
    config = style.config,
    json = {},
    head = false,
    change = (all) => all,
  } = options;
  return changedCheckpoint(fixture, {
    config: config === null ? {} : { quantization_config: config },
    json,
    tensors: (all) => {
      const plain: TestTensor[] = [];
      const experts = new Map<string, Map<number, NamedMatrix>>();
      for (const tensor of all) {
        const block = Number(QUANTISED.exec(tensor.name)?.[1] ?? Number.NaN);
        const isMatrix = block < blocks || (head && tensor.name === 'lm_head.weight');
        const expert = fused && isMatrix ? EXPERT.exec(tensor.name) : null;
        if (expert) {
          const [, layer = '', index = '', part = ''] = expert;
          const key = `${layer} ${part}`;
          const own = experts.get(key) ?? new Map<number, NamedMatrix>();
          experts.set(key, own.set(Number(index), matrixOf(tensor)));
        } else if (isMatrix) plain.push(...style.encode(matrixOf(tensor)));
        else plain.push(tensor);
      }
      return change([...plain, ...fusedTensors(experts, style)]);
    },
  });
}

function matrixOf({ name, dtype, shape, data }: Required<TestTensor>): NamedMatrix {
  const [N = 0, K = 0] = shape;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const memory = { id: 0, sizeBytes: data.byteLength };
  const type = FLOATS[dtype as keyof typeof FLOATS];
  const { values } = new Values(
    { memory, offsetBytes: 0, dtype: type, shape, strides: contiguousStrides(shape) },
    () => view,
  );
  return { name, N, K, values };
}

/** gate over up, then down, for all experts of a layer. */
function fusedTensors(
  experts: ReadonlyMap<string, ReadonlyMap<number, NamedMatrix>>,
  style: Style,
): TestTensor[] {
  const layers = [...new Set([...experts.keys()].map((key) => key.split(' ')[0] ?? ''))];
  return layers.flatMap((layer) => {
    const part = (...names: readonly string[]) =>
      names.flatMap((name) => experts.get(`${layer} ${name}`) ?? [])[0];
    const [gates, ups, downs] = [part('w1', 'gate_proj'), part('w3', 'up_proj'), part('w2', 'down_proj')];
    const count = gates?.size ?? 0;
    const stacked = (name: string, matrices: (e: number) => readonly (NamedMatrix | undefined)[]) =>
      stack(
        Array.from({ length: count }, (_, e) => {
          const parts = matrices(e).flatMap((matrix) => matrix ?? []);
          const values = parts.flatMap((matrix) => Array.from(matrix.values));
          const N = parts.reduce((sum, matrix) => sum + matrix.N, 0);
          return style.encode({ name: `${layer}mlp.experts.${name}`, N, K: parts[0]?.K ?? 0, values });
        }),
      );
    return [
      ...stacked('gate_up_proj', (e) => [gates?.get(e), ups?.get(e)]),
      ...stacked('down_proj', (e) => [downs?.get(e)]),
    ];
  });
}

/** The tensors of each expert, laid behind each other under one more dimension. */
function stack(encoded: readonly (readonly TestTensor[])[]): TestTensor[] {
  const [first = []] = encoded;
  return first.map(({ name, dtype, shape }, index) => ({
    name,
    dtype,
    shape: [encoded.length, ...shape],
    data: Buffer.concat(encoded.map((tensors) => tensors[index]?.data ?? Buffer.alloc(0))),
  }));
}
