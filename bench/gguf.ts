// Rewrites a checkpoint of Llama or Qwen3-MoE as a GGUF file, so that llama.cpp can be measured on the very same weights' sizes and types.
//
// Format: the GGUF specification of the ggml project. Rows of query and key are not permuted as its converter does:
// that changes text, not speed.

import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { present } from '../offload/index.js';
import { type Checkpoint, openCheckpoint, type StoredTensor } from '../src/checkpoint/checkpoint.js';

const ALIGNMENT_BYTES = 32;
const TYPES = { F32: 0, F16: 1, Q4_0: 2, BF16: 30 } as const;
/** Q4_0: a scale in f16 and 32 codes of 4 bits. */
const [Q4_VALUES, Q4_BYTES] = [32, 18];
const CHUNK_BYTES = 8 * 1024 * 1024;

const NAMES: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens\.weight$/, 'token_embd.weight'],
  [/^model\.norm\.weight$/, 'output_norm.weight'],
  [/^lm_head\.weight$/, 'output.weight'],
  [/^model\.layers\.(\d+)\.input_layernorm\.weight$/, 'blk.$1.attn_norm.weight'],
  [/^model\.layers\.(\d+)\.post_attention_layernorm\.weight$/, 'blk.$1.ffn_norm.weight'],
  [/^model\.layers\.(\d+)\.self_attn\.(q|k|v)_proj\.weight$/, 'blk.$1.attn_$2.weight'],
  [/^model\.layers\.(\d+)\.self_attn\.o_proj\.weight$/, 'blk.$1.attn_output.weight'],
  [/^model\.layers\.(\d+)\.self_attn\.(q|k)_norm\.weight$/, 'blk.$1.attn_$2_norm.weight'],
  [/^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight$/, 'blk.$1.ffn_$2.weight'],
  [/^model\.layers\.(\d+)\.mlp\.gate\.weight$/, 'blk.$1.ffn_gate_inp.weight'],
  [/^model\.layers\.(\d+)\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight$/, 'blk.$1.ffn_$2_exps.weight'],
];

interface Entry {
  readonly name: string;
  /** Experts' matrices follow each other in one. */
  readonly all: readonly StoredTensor[];
  /** llama.cpp wants one-dimensional weights in float32. */
  readonly widened: boolean;
  /** As Q4_0. */
  readonly packed: boolean;
  readonly offset: number;
  readonly sizeBytes: number;
}

/**
 * @param folder a Llama checkpoint in safetensors
 * @param packed matrices of blocks as Q4_0, the embeddings as they are
 */
export async function writeGguf(folder: string, path: string, packed = false): Promise<void> {
  const checkpoint = await openCheckpoint(folder);
  let offset = 0;
  const entries: Entry[] = [];
  for (const [name, all] of byName(checkpoint)) {
    const stored = present(all[0], name);
    const widened = stored.shape.length === 1;
    const isPacked = packed && !widened && stored.name.startsWith('model.layers.');
    const values = stored.shape.reduce((product, size) => product * size, 1);
    const packedBytes = (values / Q4_VALUES) * Q4_BYTES;
    const sizeBytes = all.length * (widened ? values * 4 : isPacked ? packedBytes : stored.sizeBytes);
    entries.push({ name, all, widened, packed: isPacked, offset, sizeBytes });
    offset += padded(sizeBytes);
  }
  const head = header(checkpoint.config, entries);
  const out = openSync(path, 'w');
  writeSync(out, head);
  const start = padded(head.length);
  for (const entry of entries) copyTensor(checkpoint, entry, out, start + entry.offset);
  closeSync(out);
}

function byName({ tensors }: Checkpoint): ReadonlyMap<string, StoredTensor[]> {
  const found = new Map<string, StoredTensor[]>();
  for (const stored of tensors.values()) {
    const name = ggufName(stored.name);
    found.set(name, [...(found.get(name) ?? []), stored]);
  }
  const expert = ({ name }: StoredTensor) => Number(/\.experts\.(\d+)\./.exec(name)?.[1] ?? 0);
  for (const all of found.values()) all.sort((a, b) => expert(a) - expert(b));
  return found;
}

function ggufName(name: string): string {
  for (const [pattern, replacement] of NAMES)
    if (pattern.test(name)) return name.replace(pattern, replacement);
  throw new Error(`no GGUF name for ${name}`);
}

function padded(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
}

function header(config: Readonly<Record<string, unknown>>, entries: readonly Entry[]): Buffer {
  const number = (key: string) => Number(config[key]);
  const heads = number('num_attention_heads');
  const headDim = Number(config.head_dim ?? number('hidden_size') / heads);
  const isMixture = config.num_experts !== undefined;
  const architecture = isMixture ? 'qwen3moe' : 'llama';
  const mixture = isMixture
    ? [
        u32('qwen3moe.expert_count', number('num_experts')),
        u32('qwen3moe.expert_used_count', number('num_experts_per_tok')),
        u32('qwen3moe.expert_feed_forward_length', number('moe_intermediate_size')),
        u32('qwen3moe.attention.key_length', headDim),
        u32('qwen3moe.attention.value_length', headDim),
        f32('qwen3moe.rope.freq_base', number('rope_theta')),
      ]
    : [];
  const values = [
    text('general.architecture', architecture),
    u32(`${architecture}.context_length`, number('max_position_embeddings')),
    u32(`${architecture}.embedding_length`, number('hidden_size')),
    u32(`${architecture}.block_count`, number('num_hidden_layers')),
    u32(`${architecture}.feed_forward_length`, number('intermediate_size')),
    u32(`${architecture}.attention.head_count`, heads),
    u32(`${architecture}.attention.head_count_kv`, Number(config.num_key_value_heads ?? heads)),
    u32(`${architecture}.rope.dimension_count`, headDim),
    f32(`${architecture}.attention.layer_norm_rms_epsilon`, number('rms_norm_eps')),
    u32(`${architecture}.vocab_size`, number('vocab_size')),
    ...mixture,
    ...vocabulary(number('vocab_size')),
  ];
  const tensors = entries.map(({ name, all, widened, packed, offset }) => {
    const stored = present(all[0], name);
    const stays = TYPES[stored.dtype as keyof typeof TYPES];
    const type = widened ? TYPES.F32 : packed ? TYPES.Q4_0 : stays;
    const shape = name.includes('_exps.') ? [all.length, ...stored.shape] : stored.shape;
    const dims = [...shape].reverse().map((size) => u64(size));
    return Buffer.concat([string(name), word(dims.length), ...dims, word(type), u64(offset)]);
  });
  const counts = [Buffer.from('GGUF'), word(3), u64(entries.length), u64(values.length)];
  return Buffer.concat([...counts, ...values, ...tensors]);
}

/** Made-up pieces: only token ids are ever used. */
function vocabulary(size: number): Buffer[] {
  const [NORMAL, UNKNOWN, CONTROL, BYTE] = [1, 2, 3, 6];
  const special = ['<unk>', '<s>', '</s>'];
  const bytes = Array.from(
    { length: 256 },
    (_, value) => `<0x${value.toString(16).toUpperCase().padStart(2, '0')}>`,
  );
  const rest = Array.from({ length: size - 259 }, (_, index) => `piece${index}`);
  const types = [UNKNOWN, CONTROL, CONTROL, ...bytes.map(() => BYTE), ...rest.map(() => NORMAL)];
  const array = (key: string, type: number, items: Buffer[]) =>
    Buffer.concat([string(key), word(9), word(type), u64(items.length), ...items]);
  return [
    text('tokenizer.ggml.model', 'llama'),
    array('tokenizer.ggml.tokens', 8, [...special, ...bytes, ...rest].map(string)),
    array(
      'tokenizer.ggml.scores',
      6,
      Array.from({ length: size }, () => float(0)),
    ),
    array(
      'tokenizer.ggml.token_type',
      5,
      types.map((type) => word(type ?? 1)),
    ),
    u32('tokenizer.ggml.bos_token_id', 1),
    u32('tokenizer.ggml.eos_token_id', 2),
  ];
}

function copyTensor(checkpoint: Checkpoint, entry: Entry, out: number, position: number): void {
  if (entry.packed) {
    writePacked(out, position, entry.sizeBytes);
    return;
  }
  const eachBytes = entry.sizeBytes / entry.all.length;
  entry.all.forEach((stored, index) => {
    copyStored(checkpoint, stored, { out, position: position + index * eachBytes, widened: entry.widened });
  });
}

function copyStored(
  { files }: Checkpoint,
  stored: StoredTensor,
  { out, position, widened }: { out: number; position: number; widened: boolean },
): void {
  const from = openSync(files[stored.fileIndex] ?? '', 'r');
  try {
    if (widened && stored.dtype === 'BF16') {
      const halves = new Uint16Array(stored.sizeBytes / 2);
      readSync(from, new Uint8Array(halves.buffer), 0, stored.sizeBytes, stored.fileOffset);
      // Norms say which experts are chosen.
      const wide = Uint32Array.from(halves, (bits) => bits << 16);
      writeSync(out, new Uint8Array(wide.buffer), 0, 2 * stored.sizeBytes, position);
      return;
    }
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (let done = 0; done < stored.sizeBytes; ) {
      const wanted = Math.min(CHUNK_BYTES, stored.sizeBytes - done);
      const got = readSync(from, chunk, 0, wanted, stored.fileOffset + done);
      if (got === 0) throw new Error(`${stored.name} ends early`);
      writeSync(out, chunk, 0, got, position + done);
      done += got;
    }
  } finally {
    closeSync(from);
  }
}

/** Blocks of scale 1/64 and codes of all kinds: what they are does not matter for speed. */
function writePacked(out: number, position: number, sizeBytes: number): void {
  const blocks = Buffer.alloc(Q4_BYTES * 4096, 0x9c);
  for (let at = 0; at < blocks.length; at += Q4_BYTES) {
    blocks.writeUInt16LE(0x2400, at);
    for (let i = 2; i < Q4_BYTES; i++) blocks[at + i] = (at * 31 + i * 97) & 0xff;
  }
  for (let done = 0; done < sizeBytes; done += blocks.length) {
    writeSync(out, blocks, 0, Math.min(blocks.length, sizeBytes - done), position + done);
  }
}

function word(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
}

function float(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeFloatLE(value);
  return buffer;
}

function u64(value: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(value));
  return buffer;
}

function string(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

function text(key: string, value: string): Buffer {
  return Buffer.concat([string(key), word(8), string(value)]);
}

function u32(key: string, value: number): Buffer {
  return Buffer.concat([string(key), word(4), word(value)]);
}

function f32(key: string, value: number): Buffer {
  return Buffer.concat([string(key), word(6), float(value)]);
}
