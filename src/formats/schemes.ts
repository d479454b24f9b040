// compressed-tensors' groups of modules: which scheme a module has, as far as its tensors do not say it themselves.

import { OperatingError } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { isJsonObject, show } from '../files/json-file.js';

/** How the weights of some modules are stored. */
export interface Scheme {
  /** Names, `re:` with a pattern, or names of classes. */
  readonly targets: readonly string[];
  readonly bits: number;
  readonly type: 'int' | 'float';
  readonly symmetric: boolean;
  /** Inputs of a group; undefined where a row or a matrix has one scale. */
  readonly groupSize: number | undefined;
  /** Rows and inputs that share a scale, where a scale is of a block or a group. */
  readonly block: readonly [number, number] | undefined;
}

const FORMATS = [
  'dense',
  'float-quantized',
  'naive-quantized',
  'int-quantized',
  'pack-quantized',
  'nvfp4-pack-quantized',
  'mxfp4-pack-quantized',
  'mxfp8-quantized',
  'mixed-precision',
];

/** Throws BAD_CONFIG, or UNSUPPORTED for formats, widths and additions that are not read. */
export function readSchemes(settings: ConfigReader): Scheme[] {
  checkFormat(settings);
  for (const name of ['sparsity_config', 'transform_config']) checkAbsent(settings, name);
  const groups = settings.raw('config_groups') ?? {};
  if (!isJsonObject(groups)) throw settings.unsupported('config_groups', groups, 'objects');
  return Object.keys(groups).flatMap((name) => readScheme(settings, name) ?? []);
}

function checkFormat(settings: ConfigReader): void {
  const format = settings.raw('format');
  if (format === undefined || (typeof format === 'string' && FORMATS.includes(format))) return;
  throw settings.unsupported('format', format, FORMATS.join(', '));
}

/** Weights with holes, and weights that are right only for turned activations. */
function checkAbsent(settings: ConfigReader, name: string): void {
  const value = settings.raw(name);
  if (value === undefined || (isJsonObject(value) && Object.keys(value).length === 0)) return;
  if (isJsonObject(value) && value.format === 'dense') return;
  if (
    isJsonObject(value) &&
    isJsonObject(value.config_groups) &&
    Object.keys(value.config_groups).length === 0
  )
    return;
  throw settings.unsupported(name, isJsonObject(value) ? (value.format ?? value) : value, 'none');
}

function readScheme(settings: ConfigReader, name: string): Scheme | undefined {
  const group = settings.object('config_groups')?.object(name);
  const weights = group?.object('weights');
  if (!group || !weights) return undefined; // activations alone
  checkFormat(group);
  const bits = weights.count(['num_bits']);
  const type = weights.text(['type'], 'int');
  const supported = type === 'int' ? [4, 8] : type === 'float' ? [4, 8] : [];
  if (type !== 'int' && type !== 'float') throw weights.unsupported('type', type, 'int, float');
  if (!supported.includes(bits)) throw weights.unsupported('num_bits', bits, supported.join(', '));
  const groupSize = positive(weights, 'group_size');
  const block = readBlock(weights);
  return {
    targets: readTargets(group),
    bits,
    type,
    symmetric: weights.flag(['symmetric'], true),
    groupSize,
    block: block ?? (groupSize === undefined ? undefined : [1, groupSize]),
  };
}

/** Absent where it is -1. */
function positive(weights: ConfigReader, name: string): number | undefined {
  const value = weights.optionalNumber([name]);
  if (value === undefined || value === -1) return undefined;
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw weights.unsupported(name, value, 'whole numbers from 1, and -1');
}

/** `[128, 128]`, or `128x128` in older versions. */
function readBlock(weights: ConfigReader): readonly [number, number] | undefined {
  const value = weights.raw('block_structure');
  if (value === undefined) return undefined;
  const sizes: unknown = typeof value === 'string' ? value.split('x').map(Number) : value;
  const [rows, inputs] = Array.isArray(sizes) && sizes.length === 2 ? sizes : [];
  if (Number.isSafeInteger(rows) && Number.isSafeInteger(inputs) && rows >= 1 && inputs >= 1)
    return [rows, inputs];
  throw weights.unsupported('block_structure', value, 'two whole numbers from 1');
}

function readTargets(group: ConfigReader): string[] {
  const targets = group.raw('targets') ?? [];
  if (Array.isArray(targets) && targets.every((target) => typeof target === 'string')) return targets;
  throw group.unsupported('targets', targets, 'lists of names');
}

/** The scheme of a module: an exact name counts before a pattern, a pattern before a class. */
export function schemeOf(schemes: readonly Scheme[], module: string, path: string): Scheme | undefined {
  const named = schemes.find(({ targets }) => targets.some((target) => isNamed(target, module)));
  const matched = schemes.find(({ targets }) => targets.some((target) => isMatched(target, module, path)));
  const linear = schemes.find(({ targets }) => targets.some((target) => /^\w*Linear\w*$/.test(target)));
  return named ?? matched ?? linear;
}

/** Lists leave out or add what wraps a language model. */
function isNamed(target: string, module: string): boolean {
  return (
    target === module ||
    (target.includes('.') && (module.endsWith(`.${target}`) || target.endsWith(`.${module}`)))
  );
}

function isMatched(target: string, module: string, path: string): boolean {
  if (!target.startsWith('re:')) return false;
  try {
    return new RegExp(`^(?:${target.slice(3)})`).test(module);
  } catch (error) {
    throw new OperatingError(
      'UNSUPPORTED',
      `${path}: the target ${show(target)} is no pattern that can be read`,
      {
        cause: error,
      },
    );
  }
}
