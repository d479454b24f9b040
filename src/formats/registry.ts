// All formats that are read, and the step from a name to a matrix. A new one is one line here.

import { OperatingError } from '../../offload/index.js';
import { readAwq } from './awq.js';
import { readBitsAndBytes4, readBitsAndBytes8 } from './bitsandbytes.js';
import { readInts, readPackedInts } from './compressed-tensors.js';
import { readDense } from './dense.js';
import { readFp8 } from './fp8.js';
import { readGptq } from './gptq.js';
import { readMxfp4 } from './mxfp4.js';
import { readNvfp4 } from './nvfp4.js';
import { type FormatContext, type MatrixPlace, Reading, type StoredMatrix } from './reading.js';

/** Each yields undefined where a matrix is not stored so; the first that does not counts. */
const FORMATS: readonly ((reading: Reading) => StoredMatrix | undefined)[] = [
  readBitsAndBytes4, // whose codes may be declared as any type
  readDense,
  readFp8,
  readMxfp4,
  readNvfp4,
  readPackedInts,
  readBitsAndBytes8,
  readInts,
  readGptq,
  readAwq,
];

export interface FoundMatrix extends StoredMatrix {
  /** All tensors that it is stored as, or that were looked at. */
  readonly used: readonly string[];
}

/** The matrix under that name; undefined where there is none. Throws MISSING_TENSOR, WRONG_SHAPE, BAD_WEIGHTS or UNSUPPORTED. */
export function readMatrix(context: FormatContext, place: MatrixPlace): FoundMatrix | undefined {
  const reading = new Reading(context, place);
  for (const read of FORMATS) {
    const found = read(reading);
    if (!found) continue;
    refuseScaledInputs(reading);
    return { ...found, used: reading.used };
  }
  refuseUnknown(reading);
  return undefined;
}

/** Methods that scale what goes into a product, so that the weights alone are not it. */
function refuseScaledInputs(reading: Reading): void {
  const factor = reading.beside('.pre_quant_scale');
  if (factor) throw reading.fault('UNSUPPORTED', factor, 'scales the inputs of a product, which is not done');
}

/** Stored as codes that nothing says how to read, which must not be taken for absent. */
function refuseUnknown(reading: Reading): void {
  const { stored, place, context } = reading;
  const others = ['.qweight', '.W_q', '.codebooks', '.weight_quantized'].flatMap(
    (suffix) => reading.beside(suffix) ?? [],
  );
  const packed = reading.find('_packed');
  const codes = stored ?? packed ?? others[0];
  if (!codes) return;
  const { method } = context.declared;
  throw new OperatingError(
    'UNSUPPORTED',
    `${context.checkpoint.files[codes.fileIndex]}: tensor ${codes.name} is stored as ${codes.dtype} ` +
      `[${codes.shape.join(', ')}], and nothing ${method === undefined ? 'in config.json or beside it' : `beside it or in a configuration of ${method}`} ` +
      `says how values of [${place.shape.join(', ')}] are made of it: use weights that are not quantised`,
  );
}
