// compressed-tensors' integers: packed four or eight to a word with scales per group or row, or one to a byte.

import { type FloatType, formatOf, sameShape } from '../../offload/index.js';
import type { StoredTensor } from '../checkpoint/checkpoint.js';
import { groupsPart, inputsOfGroup } from './group-index.js';
import { int64sOf } from './notes.js';
import type { Reading, StoredMatrix } from './reading.js';
import { scaleBlocks } from './scale-blocks.js';
import { type Scheme, schemeOf } from './schemes.js';

const WORD_BITS = 32;
const WIDTHS = [4, 8];

export function readPackedInts(reading: Reading): StoredMatrix | undefined {
  const codes = reading.find('_packed');
  if (codes?.dtype !== 'I32') return undefined;
  const { rows, K, context } = reading;
  const scheme = ownScheme(reading);
  const bits = widthOf(reading, codes, scheme);
  reading.expectShape(codes, [[rows, wordsFor(K, bits)]], `codes of ${bits} bits of [${rows}, ${K}]`);
  checkShapeTensor(reading);
  const scales = reading.need(codes, reading.named('_scale'));
  const scaleType = reading.typeOf(scales, ['f32', 'bf16', 'f16']) as FloatType;
  const { inputGroup, groupCount } = groupsOf(reading, scales, scheme, bits);
  const zeros = zeroPoint(reading, codes, scheme);
  const alignRows = zeros ? WORD_BITS / bits : 1;
  if (zeros) {
    reading.typeOf(zeros, ['i32']);
    const shape = [wordsFor(rows, bits), groupCount];
    reading.expectShape(zeros, [shape], `zero points of ${bits} bits of [${rows}, ${groupCount}]`);
  }
  const groups = groupsPart(reading, reading.find('_g_idx'), {
    groupCount,
    inputGroup,
    isUnused: (index) => index.includes(-1),
  });
  return {
    format: formatOf(bits === 4 ? 'packed4' : 'packed8', context.type, { inputGroup, product: scaleType }),
    firstRow: reading.firstRow(alignRows),
    parts: {
      codes: reading.codes(codes, 'i32', wordsFor(K, bits)),
      scales: reading.perRow(
        'scales',
        scales,
        { dtype: scaleType, unitRows: 1, columns: groupCount },
        alignRows,
      ),
      ...(zeros
        ? {
            zeros: reading.perRow('zeros', zeros, { dtype: 'i32', unitRows: alignRows, columns: groupCount }),
          }
        : {}),
      ...(groups ? { groups } : {}),
    },
  };
}

export function readInts(reading: Reading): StoredMatrix | undefined {
  const { stored: codes, K, rows, context } = reading;
  const scales = codes?.dtype === 'I8' ? reading.find('_scale') : undefined;
  if (!codes || !scales) return undefined;
  reading.expectShape(codes, [[rows, K]], `weights of [${rows}, ${K}]`);
  const scaleType = reading.typeOf(scales, ['f32', 'bf16', 'f16']) as FloatType;
  const { rowGroup, inputGroup, firstRow, part } = scaleBlocks(reading, scales, scaleType);
  const zeros = zeroPoint(reading, codes, ownScheme(reading));
  if (zeros) {
    reading.typeOf(zeros, ['i8']);
    if (!sameShape(zeros.shape, scales.shape)) {
      const shapes = `shape [${zeros.shape.join(', ')}], but its scales [${scales.shape.join(', ')}]`;
      throw reading.fault('WRONG_SHAPE', zeros, `has ${shapes}`);
    }
  }
  return {
    format: formatOf('int8', context.type, { rowGroup, inputGroup, product: scaleType }),
    firstRow,
    parts: {
      codes: reading.codes(codes, 'i8', K),
      scales: part('scales', scales, scaleType),
      ...(zeros ? { zeros: part('zeros', zeros, 'i8') } : {}),
    },
  };
}

function ownScheme({ context, module }: Reading): Scheme | undefined {
  return schemeOf(context.declared.schemes, module, context.checkpoint.folder);
}

function wordsFor(count: number, bits: number): number {
  return Math.ceil((count * bits) / WORD_BITS);
}

/** The module's own width where the codes are of it; lists of modules differ in prefixes, so else one that others have. */
function widthOf(reading: Reading, codes: StoredTensor, scheme: Scheme | undefined): number {
  const columns = codes.shape.at(-1);
  const others = reading.context.declared.schemes.flatMap(({ type, bits }) => (type === 'int' ? [bits] : []));
  const widths = [...(scheme?.type === 'int' ? [scheme.bits] : []), ...(others.length > 0 ? others : WIDTHS)];
  return widths.find((bits) => wordsFor(reading.K, bits) === columns) ?? widths[0] ?? 4;
}

function groupsOf(reading: Reading, scales: StoredTensor, scheme: Scheme | undefined, bits: number) {
  const { rows, K, context } = reading;
  const groupCount = scales.shape.at(-1) ?? 0;
  // Lists of modules differ in prefixes: what others have counts as well.
  const others = context.declared.schemes.filter((other) => other.type === 'int' && other.bits === bits);
  const declared = [scheme ?? [], others].flat().map(({ groupSize }) => groupSize ?? -1);
  const inputGroup = inputsOfGroup(K, groupCount, declared);
  const [first = -1] = declared;
  const wanted = first > 0 ? Math.ceil(K / first) : declared.length > 0 ? 1 : groupCount;
  const what = inputGroup ?? (first > 0 ? first : K);
  reading.expectShape(
    scales,
    [[rows, wanted], ...(inputGroup ? [[rows, groupCount]] : [])],
    `groups of ${what} inputs of [${rows}, ${K}]`,
  );
  if (inputGroup === undefined) {
    throw reading.fault(
      'UNSUPPORTED',
      scales,
      `has ${groupCount} groups of ${K} inputs, of which nothing says how many inputs each has: state group_size in config.json`,
    );
  }
  return { inputGroup, groupCount };
}

/** Codes without one are signed; a scheme that is not symmetric needs it. */
function zeroPoint(
  reading: Reading,
  codes: StoredTensor,
  scheme: Scheme | undefined,
): StoredTensor | undefined {
  if (scheme && !scheme.symmetric) return reading.need(codes, reading.named('_zero_point'));
  return reading.find('_zero_point');
}

/** What packing has hidden is repeated beside the codes. */
function checkShapeTensor(reading: Reading): void {
  const stored = reading.find('_shape');
  if (!stored || reading.place.whole.length === 3) return;
  reading.expectShape(stored, [[2]], 'two dimensions');
  const told = int64sOf(reading.context.notes.bytes(stored.name));
  if (!told) return;
  const { rows, K } = reading;
  const shape = [...told].map(Number);
  if (sameShape(shape, [rows, K])) return;
  throw reading.fault(
    'WRONG_SHAPE',
    stored,
    `says that the weights are [${shape.join(', ')}], but config.json implies [${rows}, ${K}]`,
  );
}
