// The vocabulary that encoded operations are written in: native/ops/decode.cc reads by the same table, compared at loading.
//
// An opcode is a row's place. A row names what its operation holds, in the order of the words and as ops.ts does.

import type { DType } from './dtype.js';
import { FORMAT_NUMBERS, FORMATS, PART_NAMES } from './formats.js';
import type { Activation, Op, RouteScore } from './ops.js';

/** What is launched: the operations of forwards, and what backends do with bytes. */
export type OperationName = Op['op'] | 'copy' | 'copy_rows' | 'fill';

export const OPERATIONS = [
  ['gather_rows', 'out table rows accumulate scale'],
  ['layer_norm', 'out x weight bias eps weightOffset'],
  ['rms_norm', 'out x weight eps weightOffset'],
  ['linear', 'out x weight bias activation accumulate'],
  ['gated', 'out gate up activation limit limitAfter'],
  ['add', 'out a b factor'],
  ['rotary', 'x positions inverseFrequencies interleaved scale'],
  ['kv_store', 'k v keys values keyScales valueScales slots'],
  [
    'attention',
    'out q keys values keyScales valueScales tables.sequences tables.pages tables.positions score.alibi.slopes score.sinks score.scale score.windowTokens score.chunkTokens score.softCap tables.maxContextTokens score.alibi.rounded',
  ],
  ['argmax', 'out logits'],
  ['nll_fold', 'state logits targets firstColumn first'],
  ['scale_cap', 'x scale softCap'],
  ['copy', 'to toOffsetBytes from fromOffsetBytes sizeBytes'],
  ['fill', 'to offsetBytes sizeBytes byte'],
  [
    'route',
    'experts weights logits bias expertScale table rows rule.score rule.groups rule.groupsKept rule.groupBest rule.normalize rule.addedToSum rule.leastSum rule.scale rule.sparseMixer',
  ],
  [
    'expert_linear',
    'out x experts slots.table slots.count slots.bytes slots.files.places slots.files.firstPart slots.files.firstPiece slots.files.pieces weights',
  ],
  ['combine', 'x y weights accumulate'],
  [
    'sample',
    'out logits tables.settings tables.draws tables.history tables.added.entriesOf tables.added.tokens tables.added.values tables.allowed.maskOf tables.allowed.masks',
  ],
  ['note_not_finite', 'found x place first'],
  ['expert_bias', 'x experts bias'],
  ['gated_pairs', 'out x alpha limit'],
  ['position_scale', 'x positions beta offset length'],
  ['clamp', 'x limit'],
  ['causal_conv', 'out x weight bias state tables.sequences tables.slots activation'],
  [
    'state_scan',
    'out q k v step beta stepBias decay skip state tables.sequences tables.slots minStep maxStep normEps queryScale',
  ],
  ['gated_rms', 'out x gate weight eps gateFirst'],
  ['gate_sigmoid', 'x gate'],
  ['scale_rows', 'x weights'],
  ['head_linear', 'out x weight headRows firstRow transposed'],
  [
    'compress',
    'entries values gates bias norm inverseFrequencies state tables.sequences tables.slots eps rotaryScale',
  ],
  ['window_attention', 'out q k window entries sinks tables.sequences tables.slots ratio scale'],
  ['hyper_weights', 'gather spread mix logits base scale iterations eps'],
  ['hyper_mix', 'x y spread mix'],
  [
    'bring_experts',
    'experts slots home places tables.slotOf tables.uses tables.keyOf tables.stamps tables.calls counts tables.list firstKey ageCalls aside.here aside.there aside.x aside.hostX aside.weights aside.hostWeights aside.mail.words aside.mail.state aside.job files behind.slots behind.asked behind.found behind.mail.words behind.mail.state behind.job',
  ],
  ['ask_host', 'from to mail.words mail.state job'],
  ['take_host', 'out from choices mail.words mail.state'],
  ['copy_rows', 'to toOffsetBytes toStrideBytes from fromOffsetBytes fromStrideBytes rowBytes rows'],
  [
    'find_experts',
    'asked found slots begins alike tables.slotOf tables.keyOf tables.uses tables.stamps tables.readAs tables.calls counts ageCalls files',
  ],
  ['reduce', 'x partial exchange accumulate'],
  ['top_tokens', 'tokens values logits'],
  ['token_rows', 'rows tokens'],
] as const satisfies readonly (readonly [OperationName, string])[];

/** Written as their places. */
export const ENCODED_DTYPES = [
  'f32',
  'f16',
  'bf16',
  'i32',
  'u8',
  'i8',
  'e4m3',
  'e8m0',
] as const satisfies readonly DType[];
export const ENCODED_ACTIVATIONS = [
  'none',
  'relu',
  'gelu',
  'gelu_tanh',
  'gelu_quick',
  'silu',
  'relu2',
] as const satisfies readonly Activation[];

export const ENCODED_SCORES = [
  'softmax',
  'sigmoid',
  'sqrt_softplus',
] as const satisfies readonly RouteScore[];

/** A weight is its format, which parts it has (a bit each), its shape, numbers, and then those parts. */
const WEIGHT_OPERANDS = `format parts shape firstRow ${FORMAT_NUMBERS.join(' ')} ${PART_NAMES.join(' ')}`;

/** As the addon answers. */
export function operationTable(): string[] {
  return [
    ...OPERATIONS.map(([name, operands]) => `${name}: ${operands}`),
    `types: ${ENCODED_DTYPES.join(' ')}`,
    `activations: ${ENCODED_ACTIVATIONS.join(' ')}`,
    `scores: ${ENCODED_SCORES.join(' ')}`,
    `formats: ${FORMATS.join(' ')}`,
    `weights: ${WEIGHT_OPERANDS}`,
  ];
}
