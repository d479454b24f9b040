// What a configuration says about how weights are stored; methods and settings that are not read are refused by name.
//
// Whether a matrix is stored so is never decided here: what is stored beside it decides.

import { basename } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ConfigReader } from '../checkpoint/config-reader.js';
import type { QuantiserFile } from '../checkpoint/quantiser-file.js';
import { textPart } from '../checkpoint/text-part.js';
import { QUANTISATION_KEYS } from '../checkpoint/unreadable.js';
import { isJsonObject, type JsonObject, show } from '../files/json-file.js';
import { readSchemes, type Scheme } from './schemes.js';

/** Rows and inputs that share a scale. */
export type Block = readonly [rows: number, inputs: number];

export interface GptqSettings {
  /** Several where modules differ. */
  readonly bits: readonly number[];
  /** Inputs of a group; -1 for all. Several where modules differ. */
  readonly groupSizes: readonly number[];
  /** Stored zeros are one too small: GPTQ's first format. */
  readonly zeroPlusOne: boolean;
  /** Inputs of a group need not follow each other. */
  readonly scattered: boolean;
}

export interface Declared {
  /** Undefined where nothing is said. */
  readonly method: string | undefined;
  /** Blocks of codes of one byte, where the configuration names any. */
  readonly blocks: readonly Block[];
  /** compressed-tensors' groups of modules. */
  readonly schemes: readonly Scheme[];
  readonly gptq?: GptqSettings;
  /** Inputs of a group of AWQ; -1 for all. */
  readonly awqGroupSize?: number;
}

export const NOTHING_DECLARED: Declared = { method: undefined, blocks: [], schemes: [] };

const USE_THE_SOURCE = 'use the checkpoint that they were made from, with weights in F32, F16 or BF16';

/** Files of quantisers that name no method. */
const METHOD_OF_FILE: Readonly<Record<string, string>> = {
  'hf_quant_config.json': 'modelopt',
  'quantize_config.json': 'gptq',
  'quant_config.json': 'awq',
};

/** Reads one method's settings, or throws UNSUPPORTED. */
type MethodReader = (settings: ConfigReader) => Partial<Declared>;

const METHODS: Readonly<Record<string, MethodReader>> = {
  fp8: readFp8Settings,
  mxfp8: () => ({ blocks: [[1, 32]] }),
  fbgemm_fp8: () => ({}),
  mxfp4: () => ({}),
  'compressed-tensors': (settings) => {
    const schemes = readSchemes(settings);
    return { schemes, blocks: schemes.flatMap(({ block }) => (block ? [block] : [])) };
  },
  gptq: readGptqSettings,
  awq: readAwqSettings,
  bitsandbytes: (settings) => {
    oneOf(settings, ['bnb_4bit_quant_type'], ['nf4', 'fp4'], 'fp4');
    return {};
  },
  modelopt: readModelOptSettings,
};

/**
 * What config.json, or else a file of the quantiser, says. Throws BAD_CONFIG, or UNSUPPORTED for what is not read.
 * @param path of config.json, for messages
 */
export function readDeclared(config: JsonObject, path: string, quantiser?: QuantiserFile): Declared {
  const text = textPart(config).config;
  for (const key of QUANTISATION_KEYS) {
    const value = text[key];
    if (value === undefined || value === null) continue;
    if (!isJsonObject(value) || key === 'quantization') throw notRead(path, key, value);
    return readMethod(
      value,
      `${path}: ${key}`,
      key === 'compression_config' ? 'compressed-tensors' : undefined,
    );
  }
  if (!quantiser) return NOTHING_DECLARED;
  const { path: file, values } = quantiser;
  const inner = isJsonObject(values.quantization) ? values.quantization : values;
  return readMethod(inner, file, METHOD_OF_FILE[basename(file)]);
}

function readMethod(values: JsonObject, path: string, fallback: string | undefined): Declared {
  const named = values.quant_method ?? (flagged(values) ? 'bitsandbytes' : undefined) ?? fallback;
  const method = named ?? ('quant_algo' in values ? 'modelopt' : undefined);
  const key = typeof method === 'string' ? method.toLowerCase().replace(/^modelopt_\w+$/, 'modelopt') : '';
  const read = Object.hasOwn(METHODS, key) ? METHODS[key] : undefined;
  if (!read) throw notRead(path, undefined, values);
  return { ...NOTHING_DECLARED, method: key, ...read(new ConfigReader(values, path)) };
}

/** Configurations of bitsandbytes before they had a method. */
function flagged(values: JsonObject): boolean {
  return values.load_in_4bit === true || values.load_in_8bit === true;
}

function notRead(path: string, key: string | undefined, value: unknown): OperatingError {
  const what = key === undefined ? path : `${path}: ${key}`;
  const known = Object.keys(METHODS).join(', ');
  return new OperatingError(
    'UNSUPPORTED',
    `${what} is ${describe(value)}: weights that were quantised so are not read (read: ${known}); ${USE_THE_SOURCE}`,
  );
}

/** `hqq with 4 bits`, or the value itself. */
function describe(value: unknown): string {
  if (!isJsonObject(value)) return show(value);
  const method = value.quant_method ?? value.quantization_method ?? value.quant_algo;
  const bits = value.bits ?? value.nbits ?? value.w_bit;
  const named =
    typeof method === 'string' ? show(method) : typeof bits === 'number' ? 'quantised' : show(value);
  return typeof bits === 'number' ? `${named} with ${bits} bits` : named;
}

/** The text under one of the names, in lower case, refused unless it is one of those known. */
function oneOf(
  settings: ConfigReader,
  names: readonly string[],
  known: readonly string[],
  fallback: string,
): string {
  const value = settings.text(names, fallback).toLowerCase();
  if (known.includes(value)) return value;
  const name = names.find((candidate) => settings.raw(candidate) !== undefined) ?? names[0] ?? '';
  throw settings.unsupported(name, value, `${known.join(', ')}; ${USE_THE_SOURCE}`);
}

function readFp8Settings(settings: ConfigReader): Partial<Declared> {
  oneOf(settings, ['fmt'], ['e4m3', 'float8_e4m3fn'], 'e4m3');
  const name = 'weight_block_size';
  if (settings.has(name) && settings.raw(name) === undefined) return {};
  const [rows = 0, inputs = 0] = settings.raw(name) === undefined ? [128, 128] : settings.numbers([name], 2);
  if (!Number.isSafeInteger(rows) || !Number.isSafeInteger(inputs) || rows < 1 || inputs < 1) {
    throw settings.unsupported(name, [rows, inputs], 'two whole numbers from 1');
  }
  return { blocks: [[rows, inputs]] };
}

/** A number of inputs, or -1 for all of them. */
function readGroupSize(settings: ConfigReader, names: readonly string[], fallback: number): number {
  const value = settings.number(names, fallback);
  if (value === -1 || (Number.isSafeInteger(value) && value >= 1)) return value;
  throw settings.unsupported(names[0] ?? '', value, 'whole numbers from 1, and -1');
}

const GPTQ_BITS = [2, 3, 4, 8];

function readGptqSettings(settings: ConfigReader): Partial<Declared> {
  const bits = settings.count(['bits', 'w_bit', 'wbits']);
  settings.refuseUnless(false, 'is_marlin_format');
  settings.refuseUnless(null, 'adapter', 'rotation');
  oneOf(settings, ['pack_dtype'], ['int32'], 'int32');
  const format = oneOf(settings, ['checkpoint_format', 'format'], ['gptq', 'gptq_v2'], 'gptq');
  const overrides = Object.values(readObject(settings, 'dynamic')).filter(isJsonObject);
  const own = overrides.map((values) => new ConfigReader(values, `${settings.path}: dynamic`));
  const widths = [settings, ...own].map((override) => {
    const width = override.optionalCount(['bits', 'w_bit', 'wbits']) ?? bits;
    if (GPTQ_BITS.includes(width)) return width;
    throw override.unsupported('bits', width, GPTQ_BITS.join(', '));
  });
  const base = readGroupSize(settings, ['group_size', 'q_group_size', 'groupsize'], 128);
  return {
    gptq: {
      bits: [...new Set(widths)],
      groupSizes: [
        ...new Set([base, ...own.map((override) => readGroupSize(override, ['group_size'], base))]),
      ],
      zeroPlusOne: format === 'gptq',
      scattered:
        settings.flag(['desc_act'], false) || own.some((override) => override.flag(['desc_act'], false)),
    },
  };
}

function readObject(settings: ConfigReader, name: string): JsonObject {
  const value = settings.raw(name);
  if (value === undefined) return {};
  if (isJsonObject(value)) return value;
  throw settings.unsupported(name, value, 'objects');
}

function readAwqSettings(settings: ConfigReader): Partial<Declared> {
  const bits = settings.count(['bits', 'w_bit'], 4);
  if (bits !== 4) throw settings.unsupported('bits', bits, '4');
  oneOf(settings, ['version', 'format'], ['gemm'], 'gemm');
  if (settings.raw('backend') === 'llm-awq') throw settings.unsupported('backend', 'llm-awq', 'autoawq');
  return { awqGroupSize: readGroupSize(settings, ['group_size', 'q_group_size'], 128) };
}

/** ModelOpt's algorithms whose weights have no factor for their inputs beside them. */
const MODELOPT_ALGORITHMS =
  /^(fp8|nvfp4|fp8_pb_wo|fp8_pb_real|fp8_per_channel_per_token|w4a16_nvfp4|mxfp4|w4a8_mxfp4_fp8|mxfp8|mixed_precision)$/i;

function readModelOptSettings(settings: ConfigReader): Partial<Declared> {
  const algorithm = settings.raw('quant_algo');
  if (algorithm !== undefined && !(typeof algorithm === 'string' && MODELOPT_ALGORITHMS.test(algorithm))) {
    throw settings.unsupported('quant_algo', algorithm, 'FP8, NVFP4, MXFP4, MXFP8 and mixtures of them');
  }
  return {
    blocks: [
      [128, 128],
      [1, 32],
    ],
  };
}
