// bitsandbytes: NF4 and FP4 codes with a scale per block of the flat matrix, which may be quantised itself, and LLM.int8's rows.

import { type FloatType, formatOf, OperatingError, sameShape } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import { isJsonObject, type JsonObject, show } from '../files/json-file.js';
import type { Reading, StoredMatrix } from './reading.js';

const STATE = '.quant_state.bitsandbytes__';
/** As bitsandbytes has it: an eight-bit number's largest magnitude. */
const INT8_FACTOR = Math.fround(1 / 127);
const TABLE_SIZE = 16;
const NESTED_TABLE_SIZE = 256;
const NESTED_BLOCK = 256;

export function readBitsAndBytes4(reading: Reading): StoredMatrix | undefined {
  const { stored: codes } = reading;
  const absmax = reading.find('.absmax');
  const state = reading.find(`${STATE}nf4`) ?? reading.find(`${STATE}fp4`);
  if (!codes || !(absmax || state)) return undefined;
  const [N, K] = reading.place.shape;
  const settings = readState(
    reading,
    state ?? reading.need(codes, reading.named(`${STATE}nf4`), reading.named(`${STATE}fp4`)),
  );
  const { whole } = reading.place;
  if (whole.length !== 2 || whole[0] !== N || (N * K) % 2 !== 0) {
    throw reading.fault(
      'UNSUPPORTED',
      codes,
      `holds codes of [${whole.join(', ')}], which are not taken apart`,
    );
  }
  // The bytes may be declared as any type: bnb_4bit_quant_storage.
  if (codes.sizeBytes !== (N * K) / 2) {
    throw reading.fault(
      'WRONG_SHAPE',
      codes,
      `has ${codes.sizeBytes} bytes, but codes of 4 bits of [${N}, ${K}] need ${(N * K) / 2}`,
    );
  }
  const scales = reading.need(codes, reading.named('.absmax'));
  const table = reading.need(codes, reading.named('.quant_map'));
  const count = Math.ceil((N * K) / settings.blockSize);
  const scaleType = reading.typeOf(scales, ['f32', 'u8']);
  reading.expectShape(scales, [[count]], `blocks of ${settings.blockSize} of [${N}, ${K}]`);
  reading.typeOf(table, ['f32']);
  reading.expectShape(table, [[TABLE_SIZE]], 'codes of 4 bits');
  const parts = {
    codes: reading.perMatrix('codes', codes, 'u8', [(N * K) / 2]),
    scales: reading.perMatrix('scales', scales, scaleType, [count]),
    table: reading.perMatrix('table', table, 'f32', [TABLE_SIZE]),
  };
  const { product, blockSize: inputGroup } = settings;
  if (scaleType === 'f32') {
    return { format: formatOf('table4', reading.context.type, { inputGroup, product }), firstRow: 0, parts };
  }
  const nested = nestedParts(reading, codes, count);
  const { nestedOffset } = nestedSettings(reading, state ?? codes, settings.json);
  const options = { inputGroup, product, nestedOffset };
  return {
    format: formatOf('table4', reading.context.type, options),
    firstRow: 0,
    parts: { ...parts, ...nested },
  };
}

function nestedParts(reading: Reading, codes: StoredTensor, count: number) {
  const scales = reading.need(codes, reading.named('.nested_absmax'));
  const table = reading.need(codes, reading.named('.nested_quant_map'));
  const blocks = Math.ceil(count / NESTED_BLOCK);
  reading.typeOf(scales, ['f32']);
  reading.typeOf(table, ['f32']);
  reading.expectShape(scales, [[blocks]], `blocks of ${NESTED_BLOCK} of ${count} scales`);
  reading.expectShape(table, [[NESTED_TABLE_SIZE]], 'scales of 8 bits');
  return {
    nestedScales: reading.perMatrix('nestedScales', scales, 'f32', [blocks]),
    nestedTable: reading.perMatrix('nestedTable', table, 'f32', [NESTED_TABLE_SIZE]),
  };
}

interface State {
  readonly blockSize: number;
  /** What the product of a table's entry and its scale is rounded to. */
  readonly product: FloatType;
  readonly json: JsonObject;
}

const TYPES: Readonly<Record<string, FloatType>> = { float32: 'f32', float16: 'f16', bfloat16: 'bf16' };

/** Throws WRONG_SHAPE where it tells of another matrix, BAD_WEIGHTS for what is no such state. */
function readState(reading: Reading, stored: StoredTensor): State {
  const json = parseState(reading, stored);
  const { blocksize: blockSize, shape, dtype } = json;
  const [N, K] = reading.place.shape;
  if (!Array.isArray(shape) || !sameShape(shape, [N, K])) {
    throw reading.fault(
      'WRONG_SHAPE',
      stored,
      `says shape ${show(shape)}, but config.json implies [${N}, ${K}]`,
    );
  }
  const name = typeof dtype === 'string' ? dtype.replace(/^torch\./, '') : '';
  const product = Object.hasOwn(TYPES, name) ? TYPES[name] : undefined;
  if (!product)
    throw reading.fault(
      'UNSUPPORTED',
      stored,
      `says dtype ${show(dtype)}; read: ${Object.keys(TYPES).join(', ')}`,
    );
  if (
    typeof blockSize !== 'number' ||
    !Number.isSafeInteger(blockSize) ||
    blockSize < 2 ||
    blockSize > 2 ** 20
  ) {
    throw reading.fault(
      'UNSUPPORTED',
      stored,
      `says blocksize ${show(blockSize)}: whole numbers from 2 are read`,
    );
  }
  return { blockSize, product, json };
}

function nestedSettings(reading: Reading, stored: StoredTensor, json: JsonObject) {
  const { nested_blocksize: size, nested_offset: offset, nested_dtype: dtype } = json;
  if (size !== NESTED_BLOCK || (dtype !== undefined && dtype !== 'float32')) {
    throw reading.fault(
      'UNSUPPORTED',
      stored,
      `says nested_blocksize ${show(size)} of ${show(dtype)}; read: ${NESTED_BLOCK} of float32`,
    );
  }
  if (typeof offset !== 'number' || !Number.isFinite(offset)) {
    throw reading.fault('BAD_WEIGHTS', stored, `says nested_offset ${show(offset)}, which is no number`);
  }
  return { nestedOffset: Math.fround(offset) };
}

function parseState(reading: Reading, stored: StoredTensor): JsonObject {
  const bytes = reading.context.notes.bytes(stored.name);
  let json: unknown;
  try {
    json = bytes && JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    json = undefined;
  }
  if (isJsonObject(json)) return json;
  throw reading.fault(
    'BAD_WEIGHTS',
    stored,
    'is not the JSON that says how the weights beside it are stored',
  );
}

export function readBitsAndBytes8(reading: Reading): StoredMatrix | undefined {
  const { stored: codes, rows, K, context } = reading;
  const scales = codes?.dtype === 'I8' ? reading.beside('.SCB') : undefined;
  if (!codes || !scales) return undefined;
  checkLayout(reading);
  reading.typeOf(scales, ['f32']);
  reading.expectShape(codes, [[rows, K]], `weights of [${rows}, ${K}]`);
  reading.expectShape(scales, [[rows], [rows, 1]], `scales of ${rows} rows`);
  return {
    format: formatOf('int8', context.type, { inputGroup: K, product: 'f32', factor: INT8_FACTOR }),
    firstRow: 0,
    parts: {
      codes: reading.codes(codes, 'i8', K),
      scales: reading.perRow('scales', scales, { dtype: 'f32', unitRows: 1, columns: 1 }),
    },
  };
}

/** GPUs of some generations were given rows in other orders. */
function checkLayout(reading: Reading): void {
  const stored = reading.beside('.weight_format');
  const [layout = 0] = (stored && reading.context.notes.bytes(stored.name)) ?? [];
  if (!stored || layout === 0) return;
  throw new OperatingError(
    'UNSUPPORTED',
    `${reading.context.checkpoint.files[stored.fileIndex]}: tensor ${stored.name} says layout ${layout}; read: 0, rows in their order`,
  );
}
