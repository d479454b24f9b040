// The tensors of a model of which only the shape is known, in any type or format that weights are stored in.

import { textPart } from '../checkpoint/text-part.js';
import type { DummyTensor } from '../dummy/values.js';
import type { JsonObject } from '../files/json-file.js';
import { type ArchitectureModel, isMatrix, type TensorDef } from '../models/architecture.js';
import { tensorList } from '../models/registry.js';
import { moduleOf, stayingModules } from '../pack/contents.js';
import { partsOf, quantizationConfig, type Scheme, schemeOf } from '../pack/scheme.js';

export const FLOAT_TYPES = { float16: 'F16', bfloat16: 'BF16', float32: 'F32' } as const;
export type TypeName = keyof typeof FLOAT_TYPES;

/** What matrices of blocks may be stored as besides; everything else is bfloat16 then. */
export const SHAPE_FORMATS = ['fp8', 'mxfp4', 'int8', 'int4'] as const;
export type ShapeFormat = (typeof SHAPE_FORMATS)[number];
export type ShapeType = TypeName | ShapeFormat;
export const SHAPE_TYPES: readonly ShapeType[] = ['float16', 'bfloat16', 'float32', ...SHAPE_FORMATS];

/** The type that the configuration names, in the key of either generation; bfloat16 where it names none. */
export function shapeType(config: JsonObject): TypeName {
  const text = textPart(config).config;
  const named = text.dtype ?? text.torch_dtype;
  return named === 'float16' || named === 'float32' ? named : 'bfloat16';
}

/** The configuration of a checkpoint of the shape whose weights have that type. */
export function shapeConfig(
  config: JsonObject,
  architecture: ArchitectureModel,
  type: ShapeType,
): JsonObject {
  const { torch_dtype: _, ...rest } = config;
  if (isFloatType(type)) return { ...rest, dtype: type };
  const ignored = ignoredModules(architecture, type);
  return { ...rest, dtype: 'bfloat16', quantization_config: FORMATS[type].configuration(ignored) };
}

/** Every tensor that such a checkpoint holds, in the order of the layers. */
export function shapeTensors(architecture: ArchitectureModel, type: ShapeType): DummyTensor[] {
  if (isFloatType(type)) return storedTensors(architecture, type, () => undefined);
  const isStored = storedSo(architecture, type);
  return storedTensors(architecture, 'bfloat16', (def) => (isStored(def) ? type : undefined));
}

/** The format of a block's matrix where it is none of plain values, or undefined. */
export type StoredFormatOf = (def: TensorDef) => ShapeFormat | undefined;

/** The same where each matrix of a block has a format of its own, or the type of plain values. */
export function storedTensors(
  architecture: ArchitectureModel,
  plain: TypeName,
  formatOf: StoredFormatOf,
): DummyTensor[] {
  return tensorList(architecture).flatMap(({ name, shape, inBlock }): DummyTensor | DummyTensor[] => {
    const format = inBlock && formatOf(inBlock);
    if (inBlock && format) return matrixParts(name, inBlock.shape, format);
    const below = inBlock?.integersBelow;
    return below === undefined
      ? { name, shape, dtype: FLOAT_TYPES[plain] }
      : { name, shape, dtype: 'I64', below };
  });
}

export function isFloatType(type: ShapeType): type is TypeName {
  return type in FLOAT_TYPES;
}

const EXPERT = /experts\.\d+\./;

export function isExpert({ key }: TensorDef): boolean {
  return EXPERT.test(key);
}

/** Which matrices of blocks are stored so; in MXFP4 only the experts of a mixture are, as makers have it. */
function storedSo(architecture: ArchitectureModel, type: ShapeFormat): (def: TensorDef) => boolean {
  const hasExperts = () => tensorList(architecture).some(({ inBlock }) => inBlock && isExpert(inBlock));
  const onlyExperts = type === 'mxfp4' && hasExperts();
  return (def) => {
    const [, inputs = 0] = def.shape;
    const fits = isMatrix(def) && def.isRouter !== true && inputs % FORMATS[type].inputs === 0;
    return fits && (!onlyExperts || isExpert(def));
  };
}

function matrixParts(
  name: string,
  [rows = 0, inputs = 0]: readonly number[],
  type: ShapeFormat,
): DummyTensor[] {
  const { of, parts } = FORMATS[type];
  const { codes, scales } = parts({ module: moduleOf(name), rows, inputs });
  return [
    { ...codes, part: { is: 'codes', of } },
    { ...scales, part: { is: 'scales', of } },
  ];
}

/** Modules with matrices that stay as they are. */
function ignoredModules(architecture: ArchitectureModel, type: ShapeFormat): string[] {
  const isStored = storedSo(architecture, type);
  const inBlocks = tensorList(architecture).flatMap(({ name, inBlock }) =>
    inBlock && isMatrix(inBlock) && !isStored(inBlock) ? moduleOf(name) : [],
  );
  return [...stayingModules(architecture), ...inBlocks];
}

interface ShapeMatrix {
  readonly module: string;
  readonly rows: number;
  readonly inputs: number;
}

type Entry = Pick<DummyTensor, 'name' | 'shape' | 'dtype'>;

interface StoredFormat {
  /** How random values become its codes. */
  readonly of: NonNullable<DummyTensor['part']>['of'];
  /** What a matrix's inputs must be a multiple of. */
  readonly inputs: number;
  readonly parts: (matrix: ShapeMatrix) => { readonly codes: Entry; readonly scales: Entry };
  readonly configuration: (ignored: readonly string[]) => JsonObject;
}

const FP8_BLOCK = 128;
const MXFP4_GROUP = 32;
const INT_GROUP = 64;

const FORMATS: Readonly<Record<ShapeFormat, StoredFormat>> = {
  /** As DeepSeek publishes it: squares of values share a scale. */
  fp8: {
    of: 'e4m3',
    inputs: 1,
    parts: ({ module, rows, inputs }) => ({
      codes: { name: `${module}.weight`, shape: [rows, inputs], dtype: 'F8_E4M3' },
      scales: {
        name: `${module}.weight_scale_inv`,
        shape: [Math.ceil(rows / FP8_BLOCK), Math.ceil(inputs / FP8_BLOCK)],
        dtype: 'F32',
      },
    }),
    configuration: (ignored) => ({
      quant_method: 'fp8',
      fmt: 'e4m3',
      activation_scheme: 'dynamic',
      weight_block_size: [FP8_BLOCK, FP8_BLOCK],
      modules_to_not_convert: ignored,
    }),
  },
  mxfp4: {
    of: 'e2m1',
    inputs: MXFP4_GROUP,
    parts: ({ module, rows, inputs }) => ({
      codes: { name: `${module}.weight_packed`, shape: [rows, inputs / 2], dtype: 'U8' },
      scales: { name: `${module}.weight_scale`, shape: [rows, inputs / MXFP4_GROUP], dtype: 'U8' },
    }),
    configuration: (ignored) => {
      const ints = quantizationConfig(schemeOf('int4', MXFP4_GROUP), ignored);
      const { group_0: group } = ints.config_groups;
      const weights = { ...group.weights, type: 'float', scale_dtype: 'torch.uint8' };
      return { ...ints, format: 'mxfp4-pack-quantized', config_groups: { group_0: { ...group, weights } } };
    },
  },
  int8: packedInts('int8', schemeOf('int8', INT_GROUP)),
  int4: packedInts('int4', schemeOf('int4', INT_GROUP)),
};

/** As `pack` writes them. */
function packedInts(of: 'int8' | 'int4', scheme: Scheme): StoredFormat {
  return {
    of,
    inputs: 1,
    parts: (matrix) => {
      const { codes, scales } = partsOf(scheme, { ...matrix, dtype: 'bf16' });
      return {
        codes: { name: codes.name, shape: codes.shape, dtype: 'I32' },
        scales: { name: scales.name, shape: scales.shape, dtype: 'BF16' },
      };
    },
    configuration: (ignored) => quantizationConfig(scheme, ignored),
  };
}
