// What can be wrong with stored weights: each ends in one sentence with a code, the tensor and its file, when the model is opened.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import type { TestTensor } from '../helpers/safetensors.js';
import { type StoredAsOptions, storedAs } from './stored-as.js';
import { STYLES, type Style } from './styles.js';

const style = (label: string): Style =>
  present(
    STYLES.find((candidate) => candidate.label === label),
    label,
  );
const FP8 = style('fp8, blocks with short last ones');
const INT4 = style('pack-quantized, 4 bits in groups');
const SCATTERED = style('pack-quantized, 4 bits with zeros and scattered groups');
const GPTQ = style('GPTQ of 4 bits');
const AWQ = style('AWQ');
const NVFP4 = style('NVFP4 of ModelOpt');
const NF4 = style('bitsandbytes NF4, nested, kept as bf16');
const BNB8 = style('bitsandbytes int8');
const Q = 'model.layers.0.self_attn.q_proj';

type Change = (tensors: readonly TestTensor[]) => readonly TestTensor[];

const without =
  (name: string): Change =>
  (all) =>
    all.filter((tensor) => tensor.name !== name);
const altered =
  (name: string, change: (tensor: TestTensor) => Partial<TestTensor>): Change =>
  (all) =>
    all.map((tensor) => (tensor.name === name ? { ...tensor, ...change(tensor) } : tensor));
/** The bytes at an offset, written over. */
const patched = (name: string, at: number, bytes: readonly number[]): Change =>
  altered(name, ({ data }) => {
    const copy = Uint8Array.from(data ?? []);
    copy.set(bytes, at);
    return { data: copy };
  });
const typed = (name: string, dtype: string): Change => altered(name, () => ({ dtype }));
const shaped = (name: string, shape: readonly number[]): Change => altered(name, () => ({ shape }));
/** The first of its elements of 16 bits, in another shape. */
const firstOf = (name: string, shape: readonly [number, number]): Change =>
  altered(name, ({ data }) => ({ shape, data: (data ?? Buffer.alloc(0)).slice(0, 2 * shape[0] * shape[1]) }));
/** quant_state with some settings changed, as long as it was. */
const restated = (settings: Readonly<Record<string, unknown>>): Change =>
  altered(`${Q}.weight.quant_state.bitsandbytes__nf4`, ({ data }) => {
    const state = JSON.parse(Buffer.from(data ?? []).toString()) as object;
    const text = Buffer.from(JSON.stringify({ ...state, ...settings }));
    return { data: text, shape: [text.length] };
  });

const I32 = (value: number) => [...new Uint8Array(Int32Array.of(value).buffer)];

const CASES: readonly (readonly [string, Style, Change, string, RegExp])[] = [
  [
    'no scales',
    FP8,
    without(`${Q}.weight_scale_inv`),
    'MISSING_TENSOR',
    /no tensor .*q_proj\.weight_scale_inv or .*_scale or .*\.scale, without which the F8_E4M3 values of .*q_proj\.weight mean nothing/,
  ],
  [
    'no scales beside words',
    INT4,
    without(`${Q}.weight_scale`),
    'MISSING_TENSOR',
    /q_proj\.weight_scale, without/,
  ],
  ['no zeros', GPTQ, without(`${Q}.qzeros`), 'MISSING_TENSOR', /q_proj\.qzeros, without/],
  [
    'no zero points of an asymmetric scheme',
    SCATTERED,
    without(`${Q}.weight_zero_point`),
    'MISSING_TENSOR',
    /q_proj\.weight_zero_point/,
  ],
  ['no global scale', NVFP4, without(`${Q}.weight_scale_2`), 'MISSING_TENSOR', /q_proj\.weight_scale_2/],
  ['no table', NF4, without(`${Q}.weight.quant_map`), 'MISSING_TENSOR', /quant_map/],
  [
    'no state',
    NF4,
    without(`${Q}.weight.quant_state.bitsandbytes__nf4`),
    'MISSING_TENSOR',
    /bitsandbytes__nf4 or .*__fp4/,
  ],
  ['no nested scales', NF4, without(`${Q}.weight.nested_absmax`), 'MISSING_TENSOR', /nested_absmax/],
  [
    'no codes',
    INT4,
    without(`${Q}.weight_packed`),
    'MISSING_TENSOR',
    /no tensor model\.layers\.0\.self_attn\.q_proj\.weight/,
  ],
  [
    'scales of other blocks',
    FP8,
    shaped(`${Q}.weight_scale_inv`, [1, 4]),
    'WRONG_SHAPE',
    /model\.safetensors: tensor .*weight_scale_inv has shape \[1, 4\], but blocks of 48 × 48 of \[64, 64\] need \[2, 2\]/,
  ],
  [
    'scales of integers',
    FP8,
    typed(`${Q}.weight_scale_inv`, 'I32'),
    'WRONG_SHAPE',
    /is stored as I32, but must be U8 or F32/,
  ],
  [
    'scales of other groups',
    INT4,
    shaped(`${Q}.weight_scale`, [32, 4]),
    'WRONG_SHAPE',
    /weight_scale has shape \[32, 4\], but groups of \d+ inputs of \[64, 64\] need \[64, 2\]/,
  ],
  [
    'one group where several are declared',
    INT4,
    firstOf(`${Q}.weight_scale`, [64, 1]),
    'WRONG_SHAPE',
    /weight_scale has shape \[64, 1\], but groups of 32 inputs of \[64, 64\] need \[64, 2\]/,
  ],
  [
    'the same of GPTQ',
    GPTQ,
    firstOf(`${Q}.scales`, [1, 64]),
    'WRONG_SHAPE',
    /scales has shape \[1, 64\], but groups of 32 inputs of \[64, 64\] need \[2, 64\]/,
  ],
  ['codes of another shape', INT4, shaped(`${Q}.weight_packed`, [32, 16]), 'WRONG_SHAPE', /need \[64, 8\]/],
  [
    'codes of another type',
    GPTQ,
    typed(`${Q}.qweight`, 'F32'),
    'WRONG_SHAPE',
    /qweight is stored as F32, but must be I32/,
  ],
  [
    'zeros of another shape',
    GPTQ,
    shaped(`${Q}.qzeros`, [8, 2]),
    'WRONG_SHAPE',
    /qzeros has shape \[8, 2\], but zeros of 4 bits of 64 outputs in 2 groups need \[2, 8\]/,
  ],
  [
    'scales of 16 other bits',
    AWQ,
    typed(`${Q}.scales`, 'BF16'),
    'WRONG_SHAPE',
    /scales is stored as BF16, but must be F16/,
  ],
  [
    'a layout of AWQ that is not gemm',
    AWQ,
    shaped(`${Q}.qweight`, [8, 64]),
    'WRONG_SHAPE',
    /in AWQ's gemm layout need \[64, 8\]/,
  ],
  [
    'a shape that disagrees',
    INT4,
    patched(`${Q}.weight_shape`, 0, [63]),
    'WRONG_SHAPE',
    /weight_shape says that the weights are \[63, 64\], but config\.json implies \[64, 64\]/,
  ],
  [
    'an index out of range',
    GPTQ,
    patched(`${Q}.g_idx`, 12, I32(2)),
    'BAD_WEIGHTS',
    /g_idx puts input 3 into group 2, but there are scales of groups 0 to 1/,
  ],
  ['a negative index', GPTQ, patched(`${Q}.g_idx`, 12, I32(-1)), 'BAD_WEIGHTS', /puts input 3 into group -1/],
  [
    'an index of another length',
    GPTQ,
    shaped(`${Q}.g_idx`, [2, 32]),
    'WRONG_SHAPE',
    /g_idx has shape \[2, 32\], but groups of 64 inputs need \[64\]/,
  ],
  [
    'a scattered index out of range',
    SCATTERED,
    patched(`${Q}.weight_g_idx`, 0, I32(900)),
    'BAD_WEIGHTS',
    /weight_g_idx puts input 0 into group 900/,
  ],
  [
    'a scale that is NaN',
    FP8,
    patched(`${Q}.weight_scale_inv`, 4, [0, 0, 0xc0, 0x7f]),
    'BAD_WEIGHTS',
    /q_proj\.weight_scale_inv holds a scale that is no finite number, at element 1/,
  ],
  [
    'an infinite scale',
    INT4,
    patched(`${Q}.weight_scale`, 6, [0x80, 0x7f]),
    'BAD_WEIGHTS',
    /weight_scale holds a scale that is no finite number, at element 3/,
  ],
  [
    'a scale that is NaN as a power of two',
    style('mxfp8'),
    patched(`${Q}.weight_scale_inv`, 9, [255]),
    'BAD_WEIGHTS',
    /no finite number, at element 9/,
  ],
  [
    'an e4m3 scale that is NaN',
    NVFP4,
    patched(`${Q}.weight_scale`, 5, [0xff]),
    'BAD_WEIGHTS',
    /no finite number, at element 5/,
  ],
  [
    'a global scale of zero',
    NVFP4,
    patched(`${Q}.weight_scale_2`, 0, [0, 0, 0, 0]),
    'BAD_WEIGHTS',
    /weight_scale_2 is zero/,
  ],
  [
    'a scale of zero for codes that are not',
    FP8,
    patched(`${Q}.weight_scale_inv`, 8, [0, 0, 0, 0]),
    'BAD_WEIGHTS',
    /weight_scale_inv holds a scale of zero for codes that are not zero, at element 2/,
  ],
  [
    'the same of nibbles',
    INT4,
    patched(`${Q}.weight_scale`, 2, [0, 0]),
    'BAD_WEIGHTS',
    /scale of zero for codes that are not zero, at element 1/,
  ],
  [
    'a table with another value',
    NF4,
    patched(`${Q}.weight.quant_map`, 8, [0, 0, 0x80, 0x3f]),
    'BAD_WEIGHTS',
    /q_proj\.weight\.quant_map is neither the table of NF4 nor that of FP4/,
  ],
  [
    'a nested table with infinity',
    NF4,
    patched(`${Q}.weight.nested_quant_map`, 0, [0, 0, 0x80, 0x7f]),
    'BAD_WEIGHTS',
    /quant_map holds/,
  ],
  [
    'a state of another matrix',
    NF4,
    restated({ shape: [64, 32] }),
    'WRONG_SHAPE',
    /says shape \[64,32\], but config\.json implies \[64, 64\]/,
  ],
  [
    'a state that is no JSON',
    NF4,
    patched(`${Q}.weight.quant_state.bitsandbytes__nf4`, 0, [0]),
    'BAD_WEIGHTS',
    /is not the JSON/,
  ],
  ['a block size that is none', NF4, restated({ blocksize: 0 }), 'UNSUPPORTED', /says blocksize 0/],
  [
    'blocks of another size than the scales',
    NF4,
    restated({ blocksize: 128 }),
    'WRONG_SHAPE',
    /absmax has shape \[64\], but blocks of 128/,
  ],
  [
    'nested blocks of another size',
    NF4,
    restated({ nested_blocksize: 64 }),
    'UNSUPPORTED',
    /says nested_blocksize 64/,
  ],
  [
    'an offset that is no number',
    NF4,
    restated({ nested_offset: 'x' }),
    'BAD_WEIGHTS',
    /says nested_offset "x"/,
  ],
  [
    'too few codes',
    NF4,
    altered(`${Q}.weight`, ({ data }) => ({ shape: [512], data: (data ?? Buffer.alloc(0)).slice(0, 1024) })),
    'WRONG_SHAPE',
    /has 1024 bytes, but codes of 4 bits of \[64, 64\] need 2048/,
  ],
  [
    'rows in a GPU’s order',
    BNB8,
    patched(`${Q}.weight_format`, 0, [2]),
    'UNSUPPORTED',
    /weight_format says layout 2/,
  ],
  [
    'inputs that are scaled',
    AWQ,
    (all) => [...all, { name: `${Q}.pre_quant_scale`, dtype: 'F16', shape: [64] }],
    'UNSUPPORTED',
    /pre_quant_scale scales the inputs/,
  ],
  [
    'e5m2',
    FP8,
    typed(`${Q}.weight`, 'F8_E5M2'),
    'UNSUPPORTED',
    /q_proj\.weight is stored as F8_E5M2 \[64, 64\], and nothing beside it or in a configuration of fp8 says/,
  ],
  [
    'floats beside scales',
    FP8,
    altered(`${Q}.weight`, () => ({ dtype: 'BF16', data: Buffer.alloc(8192) })),
    'UNSUPPORTED',
    /is stored as BF16 beside .*weight_scale_inv/,
  ],
  [
    'integers without a companion',
    BNB8,
    without(`${Q}.SCB`),
    'UNSUPPORTED',
    /q_proj\.weight is stored as I8 \[64, 64\], and nothing/,
  ],
];

describe('refused', () => {
  it.each(CASES)('%s', async (_what, stored, change, code, message) => {
    const folder = await storedAs('llama', stored, { blocks: 1, change });
    await expect(openModel(folder)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  const open = async (stored: Style, options: StoredAsOptions) =>
    openModel(await storedAs('llama', stored, { blocks: 1, ...options }));

  it('words of which nothing says by whom they are', async () => {
    await expect(open(GPTQ, { config: null })).rejects.toThrow(
      /q_proj\.qweight is stored as I32 \[8, 64\], and nothing in config\.json or beside it says/,
    );
  });

  it('activations that AWQ scales', async () => {
    const scales = { name: 'model.layers.0.mlp.act.scales', dtype: 'F16', shape: [64] };
    await expect(open(AWQ, { change: (all) => [...all, scales] })).rejects.toThrow(
      /mlp\.act\.scales scales what an activation gives/,
    );
  });

  it('scales of blocks that nothing tells of', async () => {
    await expect(open(FP8, { config: null })).rejects.toThrow(/state weight_block_size in config\.json/);
    await expect(open(INT4, { config: null })).rejects.toThrow(
      /weight_scale has 2 groups of 64 inputs, of which nothing says .*state group_size/,
    );
  });

  it('a mixture whose experts differ', async () => {
    const expert = /experts\.1\.w1\.weight/;
    const folder = await storedAs('mixtral', FP8, {
      blocks: 1,
      change: (all) =>
        all.flatMap((tensor) => {
          if (!expert.test(tensor.name)) return [tensor];
          if (!tensor.name.endsWith('.weight')) return [];
          return [{ name: tensor.name, dtype: 'BF16', shape: tensor.shape }];
        }),
    });
    await expect(openModel(folder)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(
        /block 0 stores .*experts\.\*\.w1\.weight partly as e4m3 \(.*codes e4m3 .*\) and partly as bf16 .*experts of a layer need one format/,
      ),
    });
  });
});
