// Operations as numbers for the native streams of every device; native/ops/decode.cc reads them.
//
// Word 0 is the opcode. Then the operands follow in the order that port/op-table.ts gives:
//   tensor    12 words: memory id, offset in bytes, type, rank, shape (4), strides in elements (4); unused are 0.
//             An absent optional tensor has memory id 0.
//   weight    14 words: format, which parts it has (bit i is part i), rows, inputs, first row, the numbers of its format in the order
//             of FORMAT_NUMBERS, types and flags as places; then the parts that it has, as tensors.
//   like      the places of the parts of one of several weights that are like the one before: memory id, offset in bytes, each (0 and 0
//             for an index of groups that it has not); then its nestedOffset where scales are nested.
//   memory    its id.
//   number    itself; a flag is 0 or 1; an activation or a score is its place in ENCODED_ACTIVATIONS or ENCODED_SCORES.

import { assert, present } from '../errors.js';
import type { RowCopy } from '../port/backend.js';
import type { DType } from '../port/dtype.js';
import { FORMATS, type FormatName, isLike, PART_NAMES } from '../port/formats.js';
import { MOST_EXPERTS, type SlotsOfFiles } from '../port/mixture-ops.js';
import {
  ENCODED_ACTIVATIONS,
  ENCODED_DTYPES,
  ENCODED_SCORES,
  OPERATIONS,
  type OperationName,
} from '../port/op-table.js';
import type { Activation, Memory, Op, RouteRule, RouteScore, Tensor, Weight } from '../port/ops.js';

const OPCODES: Readonly<Record<OperationName, number>> = placesOf(OPERATIONS.map(([name]) => name));
const DTYPES: Readonly<Record<DType, number>> = placesOf(ENCODED_DTYPES);
const ACTIVATIONS: Readonly<Record<Activation, number>> = placesOf(ENCODED_ACTIVATIONS);
const SCORES: Readonly<Record<RouteScore, number>> = placesOf(ENCODED_SCORES);
const FORMAT_CODES: Readonly<Record<FormatName, number>> = placesOf(FORMATS);
const TENSOR_WORDS = 12;
const WEIGHT_WORDS = 14;
const MAX_RANK = 4;

// Longest: expert_linear, with the opcode, 5 tensors, 6 numbers, a weight, and the places of the other experts.
const words = new Float64Array(
  1 + (5 + PART_NAMES.length) * TENSOR_WORDS + 6 + WEIGHT_WORDS + (2 * PART_NAMES.length + 1) * MOST_EXPERTS,
);
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
      numbers(op.eps, op.weightOffset ?? 0);
      break;
    case 'rms_norm':
      tensors(op.out, op.x, op.weight);
      numbers(op.eps, op.weightOffset);
      break;
    case 'linear':
      tensors(op.out, op.x);
      weight(op.weight);
      tensors(op.bias);
      numbers(ACTIVATIONS[op.activation], Number(op.accumulate));
      break;
    case 'head_linear':
      tensors(op.out, op.x);
      weight(op.weight);
      numbers(op.headRows, op.firstRow, Number(op.transposed));
      break;
    case 'gated':
      tensors(op.out, op.gate, op.up);
      numbers(ACTIVATIONS[op.activation], op.limit, Number(op.limitAfter));
      break;
    case 'route':
      tensors(op.experts, op.weights, op.logits, op.bias, op.expertScale, op.table, op.rows);
      routeRule(op.rule);
      break;
    case 'expert_linear':
      tensors(op.out, op.x, op.experts, op.slots?.table ?? null);
      numbers(op.slots?.count ?? 0, op.slots?.bytes ?? 0);
      slotsOfFiles(op.slots?.files);
      expertWeights(op.weights);
      break;
    case 'bring_experts': {
      const { slotOf, uses, keyOf, stamps, calls, list } = op.tables;
      tensors(op.experts, op.slots, op.home, op.places, slotOf, uses, keyOf, stamps, calls, op.counts, list);
      numbers(op.firstKey, op.ageCalls);
      const { aside } = op;
      tensors(aside?.here ?? null, aside?.there ?? null, aside?.x ?? null, aside?.hostX ?? null);
      tensors(aside?.weights ?? null, aside?.hostWeights ?? null);
      tensors(aside?.mail.words ?? null, aside?.mail.state ?? null);
      numbers(aside?.job ?? 0, op.files?.id ?? 0);
      const { behind } = op;
      tensors(behind?.slots ?? null, behind?.asked ?? null, behind?.found ?? null);
      tensors(behind?.mail.words ?? null, behind?.mail.state ?? null);
      numbers(behind?.job ?? 0);
      break;
    }
    case 'find_experts': {
      const { slotOf, keyOf, uses, stamps, readAs, calls } = op.tables;
      tensors(op.asked, op.found, op.slots, op.begins, op.alike);
      tensors(slotOf, keyOf, uses, stamps, readAs, calls, op.counts);
      numbers(op.ageCalls, op.files.id);
      break;
    }
    case 'ask_host':
      tensors(op.from, op.to, op.mail.words, op.mail.state);
      numbers(op.job);
      break;
    case 'take_host':
      tensors(op.out, op.from, op.choices, op.mail.words, op.mail.state);
      break;
    case 'expert_bias':
      tensors(op.x, op.experts, op.bias);
      break;
    case 'gated_pairs':
      tensors(op.out, op.x);
      numbers(op.alpha, op.limit);
      break;
    case 'scale_rows':
      tensors(op.x, op.weights);
      break;
    case 'gate_sigmoid':
      tensors(op.x, op.gate);
      break;
    case 'combine':
      tensors(op.x, op.y, op.weights);
      numbers(Number(op.accumulate));
      break;
    case 'causal_conv':
      tensors(op.out, op.x, op.weight, op.bias, op.state, op.tables.sequences, op.tables.slots);
      numbers(ACTIVATIONS[op.activation]);
      break;
    case 'state_scan':
      tensors(op.out, op.q, op.k, op.v, op.step, op.beta, op.stepBias, op.decay, op.skip, op.state);
      tensors(op.tables.sequences, op.tables.slots);
      numbers(op.minStep, op.maxStep, op.normEps, op.queryScale);
      break;
    case 'gated_rms':
      tensors(op.out, op.x, op.gate, op.weight);
      numbers(op.eps, Number(op.gateFirst));
      break;
    case 'compress':
      tensors(op.entries, op.values, op.gates, op.bias, op.norm, op.inverseFrequencies, op.state);
      tensors(op.tables.sequences, op.tables.slots);
      numbers(op.eps, op.rotaryScale);
      break;
    case 'window_attention':
      tensors(op.out, op.q, op.k, op.window, op.entries, op.sinks);
      tensors(op.tables.sequences, op.tables.slots);
      numbers(op.ratio, op.scale);
      break;
    case 'hyper_weights':
      tensors(op.gather, op.spread, op.mix, op.logits, op.base, op.scale);
      numbers(op.iterations, op.eps);
      break;
    case 'hyper_mix':
      tensors(op.x, op.y, op.spread, op.mix);
      break;
    case 'add':
      tensors(op.out, op.a, op.b, op.factor ?? null);
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
      const { scale, alibi, sinks, windowTokens = 0, chunkTokens = 0, softCap = 0 } = op.score;
      tensors(sequences, pages, positions, alibi?.slopes ?? null, sinks ?? null);
      numbers(scale, windowTokens, chunkTokens, softCap, op.tables.maxContextTokens);
      numbers(Number(alibi?.rounded ?? false));
      break;
    }
    case 'reduce':
      tensors(op.x, op.partial);
      numbers(op.exchange.id, Number(op.accumulate));
      break;
    case 'argmax':
      tensors(op.out, op.logits);
      break;
    case 'token_rows':
      tensors(op.rows, op.tokens);
      break;
    case 'top_tokens':
      tensors(op.tokens, op.values, op.logits);
      break;
    case 'sample': {
      const { settings, draws, history, added, allowed } = op.tables;
      tensors(op.out, op.logits, settings, draws, history);
      tensors(added?.entriesOf ?? null, added?.tokens ?? null, added?.values ?? null);
      tensors(allowed?.maskOf ?? null, allowed?.masks ?? null);
      break;
    }
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
    case 'position_scale':
      tensors(op.x, op.positions);
      numbers(op.beta, op.offset, op.length);
      break;
    case 'clamp':
      tensors(op.x);
      numbers(op.limit);
      break;
  }
  return encoded();
}

/** Several, each after its length, as streams take them together. */
export function joinEncoded(operations: Iterable<Float64Array>): Float64Array {
  const all = [...operations];
  const joined = new Float64Array(all.reduce((sum, { length }) => sum + 1 + length, 0));
  let next = 0;
  for (const encoded of all) {
    joined[next] = encoded.length;
    joined.set(encoded, next + 1);
    next += 1 + encoded.length;
  }
  return joined;
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

/** As `DeviceStream.copyRows`. */
export function encodeCopyRows(copy: RowCopy): Float64Array {
  const { to, toOffsetBytes, toStrideBytes, from, fromOffsetBytes, fromStrideBytes, rowBytes, rows } = copy;
  begin(OPCODES.copy_rows);
  numbers(to.id, toOffsetBytes, toStrideBytes, from.id, fromOffsetBytes, fromStrideBytes, rowBytes, rows);
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

function weight({ format, shape, firstRow, parts }: Weight): void {
  words[at] = FORMAT_CODES[format.name];
  words[at + 1] = partMask(parts);
  words[at + 2] = shape[0];
  words[at + 3] = shape[1];
  words[at + 4] = firstRow;
  words[at + 5] = format.rowGroup;
  words[at + 6] = format.inputGroup;
  words[at + 7] = DTYPES[format.product];
  words[at + 8] = DTYPES[format.type];
  words[at + 9] = format.bits;
  words[at + 10] = Number(format.zeroPlusOne);
  words[at + 11] = Number(format.globalDivides);
  words[at + 12] = format.factor;
  words[at + 13] = format.nestedOffset;
  at += WEIGHT_WORDS;
  for (const name of PART_NAMES) {
    const part = parts[name];
    if (part) tensors(part);
  }
}

function partMask(parts: Weight['parts']): number {
  return PART_NAMES.reduce((mask, name, place) => (parts[name] ? mask | (1 << place) : mask), 0);
}

function routeRule(rule: RouteRule): void {
  numbers(SCORES[rule.score], rule.groups, rule.groupsKept, rule.groupBest, Number(rule.normalize));
  numbers(rule.addedToSum, rule.leastSum, rule.scale, rule.sparseMixer);
}

function slotsOfFiles(files: SlotsOfFiles | undefined): void {
  tensors(files?.places ?? null);
  numbers(files?.firstPart ?? 0, files?.firstPiece ?? 0, files?.pieces.id ?? 0);
}

/** The number of experts, a weight that all are like, and the places of each one's parts. */
function expertWeights(weights: readonly Weight[]): void {
  const first = present(weights[0], 'an expert');
  assert(weights.length <= MOST_EXPERTS, `at most ${MOST_EXPERTS} experts`);
  numbers(weights.length);
  // Some experts may have no index of groups, which follow each other then.
  const indexed = first.parts.groups ? first : weights.find(({ parts }) => parts.groups);
  const model = indexed ?? first;
  weight(model);
  const isNested = model.parts.nestedScales !== undefined;
  for (const own of weights) {
    assert(
      isLike(model.format, own.format) && model.firstRow === own.firstRow,
      'all experts have one format',
    );
    for (const name of PART_NAMES) {
      const [part, like] = [own.parts[name], model.parts[name]];
      const isMissing = !part && name === 'groups';
      assert(
        part === like || isMissing || (part && like && areAlike(part, like)),
        'all experts have one type and shape',
      );
      if (!like) continue;
      words[at++] = part?.memory.id ?? 0;
      words[at++] = part?.offsetBytes ?? 0;
    }
    if (isNested) words[at++] = own.format.nestedOffset;
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
