// Operations as numbers for the native streams of every device; native/ops/decode.cc reads them.
//
// Word 0 is the opcode. Then the operands follow in the order that port/op-table.ts gives:
//   tensor    12 words: memory id, offset in bytes, type, rank, shape (4), strides in elements (4); unused are 0.
//             An absent optional tensor has memory id 0.
//   same      the place of a further tensor that is like the one before: memory id, offset in bytes.
//   memory    its id.
//   number    itself; a flag is 0 or 1; an activation is its place in ENCODED_ACTIVATIONS.

import { assert, present } from '../errors.js';
import type { DType } from '../port/dtype.js';
import { ENCODED_ACTIVATIONS, ENCODED_DTYPES, OPERATIONS, type OperationName } from '../port/op-table.js';
import type { Activation, Memory, Op, Tensor } from '../port/ops.js';

const OPCODES: Readonly<Record<OperationName, number>> = placesOf(OPERATIONS.map(([name]) => name));
const DTYPES: Readonly<Record<DType, number>> = placesOf(ENCODED_DTYPES);
const ACTIVATIONS: Readonly<Record<Activation, number>> = placesOf(ENCODED_ACTIVATIONS);
const TENSOR_WORDS = 12;
const MAX_RANK = 4;

const MAX_EXPERTS = 1024;

// Longest: expert_linear, with the opcode, 4 tensors, a number, and the places of the other experts.
const words = new Float64Array(1 + 4 * TENSOR_WORDS + 1 + 2 * MAX_EXPERTS);
/** Views of `words` by length: each operation has one length, so launching allocates nothing. */
const views: Float64Array[] = [];
let at = 0;

/** The encoded operation, in scratch that the next call overwrites: launch it at once. */
export function encodeOp(op: Op): Float64Array {
  begin(OPCODES[op.op]);
  switch (op.op) {
    case 'gather_rows':
      tensors(op.out, op.table, op.rows);
      numbers(Number(op.accumulate), op.scale);
      break;
    case 'layer_norm':
      tensors(op.out, op.x, op.weight, op.bias);
      numbers(op.eps);
      break;
    case 'rms_norm':
      tensors(op.out, op.x, op.weight);
      numbers(op.eps, op.weightOffset);
      break;
    case 'linear':
      tensors(op.out, op.x, op.weight, op.bias);
      numbers(Number(op.inputMajor), ACTIVATIONS[op.activation], Number(op.accumulate));
      break;
    case 'gated':
      tensors(op.out, op.gate, op.up);
      numbers(ACTIVATIONS[op.activation]);
      break;
    case 'route':
      tensors(op.experts, op.weights, op.logits);
      numbers(Number(op.normalize));
      break;
    case 'expert_linear':
      tensors(op.out, op.x, op.experts);
      expertWeights(op.weights);
      break;
    case 'combine':
      tensors(op.x, op.y, op.weights);
      break;
    case 'add':
      tensors(op.out, op.a, op.b);
      break;
    case 'rotary':
      tensors(op.x, op.positions, op.inverseFrequencies);
      numbers(Number(op.interleaved), op.scale);
      break;
    case 'kv_store':
      tensors(op.k, op.v, op.keys, op.values, op.keyScales, op.valueScales, op.slots);
      break;
    case 'attention': {
      const { sequences, pages, positions } = op.tables;
      tensors(op.out, op.q, op.keys, op.values, op.keyScales, op.valueScales);
      tensors(sequences, pages, positions, op.alibiSlopes);
      numbers(
        op.scale,
        op.windowTokens,
        op.softCap,
        op.tables.maxContextTokens,
        Number(op.alibiRounded ?? false),
      );
      break;
    }
    case 'argmax':
      tensors(op.out, op.logits);
      break;
    case 'sample':
      tensors(op.out, op.logits, op.tables.settings, op.tables.draws, op.tables.history);
      break;
    case 'nll_fold':
      tensors(op.state, op.logits, op.targets);
      numbers(op.firstColumn, Number(op.first));
      break;
    case 'note_not_finite':
      tensors(op.found, op.x);
      numbers(op.place, Number(op.first));
      break;
    case 'scale_cap':
      tensors(op.x);
      numbers(op.scale, op.softCap);
      break;
  }
  return encoded();
}

/** Several, each after its length, as streams take them together. */
export function joinEncoded(operations: Iterable<Float64Array>): Float64Array {
  return Float64Array.from([...operations].flatMap((encoded) => [encoded.length, ...encoded]));
}

/** Copies bytes between memories (of virtual devices); the two ranges must not overlap. */
export function encodeCopy(
  to: Memory,
  toOffsetBytes: number,
  from: Memory,
  fromOffsetBytes: number,
  sizeBytes: number,
): Float64Array {
  begin(OPCODES.copy);
  numbers(to.id, toOffsetBytes, from.id, fromOffsetBytes, sizeBytes);
  return encoded();
}

/** Sets every byte of a range to `byte`. */
export function encodeFill(to: Memory, offsetBytes: number, sizeBytes: number, byte: number): Float64Array {
  begin(OPCODES.fill);
  numbers(to.id, offsetBytes, sizeBytes, byte);
  return encoded();
}

function placesOf<Name extends string>(names: readonly Name[]): Record<Name, number> {
  return Object.fromEntries(names.map((name, place) => [name, place])) as Record<Name, number>;
}

function begin(opcode: number): void {
  words[0] = opcode;
  at = 1;
}

function numbers(...values: readonly number[]): void {
  for (const value of values) words[at++] = value;
}

function tensors(...operands: readonly (Tensor | null)[]): void {
  for (const tensor of operands) {
    words.fill(0, at, at + TENSOR_WORDS);
    if (tensor) {
      words[at] = tensor.memory.id;
      words[at + 1] = tensor.offsetBytes;
      words[at + 2] = DTYPES[tensor.dtype];
      words[at + 3] = tensor.shape.length;
      for (let i = 0; i < MAX_RANK && i < tensor.shape.length; i++) {
        words[at + 4 + i] = tensor.shape[i] ?? 0;
        words[at + 8 + i] = tensor.strides[i] ?? 0;
      }
    }
    at += TENSOR_WORDS;
  }
}

/** The number of experts, the first one's weight, and the places of the others, which must be like it. */
function expertWeights(weights: readonly Tensor[]): void {
  const first = present(weights[0], 'an expert');
  assert(weights.length <= MAX_EXPERTS, `at most ${MAX_EXPERTS} experts`);
  numbers(weights.length);
  tensors(first);
  for (let e = 1; e < weights.length; e++) {
    const weight = present(weights[e], 'an expert');
    assert(areAlike(first, weight), 'all experts have one type and shape');
    words[at++] = weight.memory.id;
    words[at++] = weight.offsetBytes;
  }
}

/** Compared for hundreds of experts in every layer, so without a function for each dimension. */
function areAlike(a: Tensor, b: Tensor): boolean {
  if (a.dtype !== b.dtype || a.shape.length !== b.shape.length) return false;
  for (let i = 0; i < a.shape.length; i++) {
    if (a.shape[i] !== b.shape[i] || a.strides[i] !== b.strides[i]) return false;
  }
  return true;
}

function encoded(): Float64Array {
  const view = views[at] ?? words.subarray(0, at);
  views[at] = view;
  return view;
}
