// What is fuzzed: every reader of a file that a user may have got from anywhere. A damaged file must be read, within
// its bounds, or refused with an operating error of one readable line.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type ErrorCode, OperatingError, type Workload } from '../offload/index.js';
import { type Checkpoint, openCheckpoint } from '../src/checkpoint/checkpoint.js';
import { type HeaderTensor, parseSafetensorsFile } from '../src/checkpoint/safetensors.js';
import { parseTorchFile } from '../src/checkpoint/torch-bin.js';
import { parseWeightMap } from '../src/checkpoint/weight-files.js';
import { planFor } from '../src/engine/plan-for.js';
import { sourceOf } from '../src/files/byte-source.js';
import { parseJsonObject } from '../src/files/json-file.js';
import { readDeclared } from '../src/formats/declared.js';
import { type Notes, readNotes } from '../src/formats/notes.js';
import { bindModel } from '../src/models/binding.js';
import { buildArchitecture } from '../src/models/registry.js';
import { loadTokenizer } from '../src/text/tokenizer/tokenizer.js';
import { vocabularyCases } from '../test/helpers/vocabulary-cases.js';
import { stateDictPickle, type TorchTensor, torchBin, torchFile } from '../test/helpers/write-torch-bin.js';
import { mutateBytes, mutateJson, mutateJsonText, pick, type Random } from './fuzz-mutations.js';
import { storedWeights } from './fuzz-stored.js';

export interface FuzzTarget {
  readonly name: string;
  /** The target's share of all mutations. */
  readonly share: number;
  /** Codes that a refusal may have. */
  readonly codes: readonly ErrorCode[];
  /** Called once; the result reads one damaged file, which may be laid into `folder`. */
  prepare(folder: string): Promise<(random: Random) => Promise<void> | void>;
}

const MODELS = 'test/fixtures/models';
const words = (...texts: readonly string[]) => texts.map((text) => Buffer.from(text, 'latin1'));
const JSON_WORDS = words(
  '{',
  '}',
  '[',
  ']',
  '"',
  ',',
  ':',
  '\\',
  '\\u0000',
  '\\ud800',
  '1e999',
  '-0',
  'null',
  '\xff',
);

const safetensors: FuzzTarget = {
  name: 'safetensors',
  share: 0.3,
  codes: ['BAD_SAFETENSORS'],
  async prepare() {
    const file = readFileSync(join(MODELS, 'stories260K', 'model.safetensors'));
    const headerBytes = Number(file.readBigUInt64LE());
    const header: unknown = JSON.parse(file.subarray(8, 8 + headerBytes).toString());
    const small = smallHeader(header, 6);
    const data = Buffer.alloc(small.dataBytes);
    return async (random) => {
      const text = mutateJsonText(random, small.header, [
        ...JSON_WORDS,
        ...words('data_offsets', 'BF16', '[0,8]'),
      ]);
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(text.length));
      const whole = Buffer.concat([length, text, data]);
      const bytes = random() < 0.3 ? mutateBytes(random, whole, JSON_WORDS) : whole;
      const { tensors } = await parseSafetensorsFile(sourceOf(bytes, 'model.safetensors'));
      checkWithin(tensors, bytes.length);
    };
  },
};

/** The first tensors of a header, so that a change hits something that matters. */
function smallHeader(header: unknown, count: number): { header: unknown; dataBytes: number } {
  const entries = Object.entries(header as Record<string, { shape: number[] }>)
    .filter(([name]) => name !== '__metadata__')
    .slice(0, count);
  let dataBytes = 0;
  const small = entries.map(([name, entry]) => {
    const begin = dataBytes;
    dataBytes += 4 * entry.shape.reduce((product) => product * 2, 1);
    const shape = entry.shape.map(() => 2);
    return [name, { dtype: 'F32', shape, data_offsets: [begin, dataBytes] }];
  });
  return { header: { __metadata__: { format: 'pt' }, ...Object.fromEntries(small) }, dataBytes };
}

function checkWithin(tensors: ReadonlyMap<string, HeaderTensor>, fileBytes: number): void {
  for (const { name, fileOffset, sizeBytes } of tensors.values()) {
    if (!(fileOffset >= 0 && sizeBytes >= 0 && fileOffset + sizeBytes <= fileBytes)) {
      throw new Error(`tensor ${name} at [${fileOffset}, +${sizeBytes}) of ${fileBytes} bytes`);
    }
  }
}

const index: FuzzTarget = {
  name: 'index',
  share: 0.15,
  codes: ['BAD_INDEX'],
  async prepare() {
    const path = join(MODELS, 'llama3-rope', 'model.safetensors.index.json');
    const { weight_map: map } = JSON.parse(readFileSync(path, 'utf8')) as { weight_map: object };
    const original = {
      metadata: { total_size: 1 },
      weight_map: Object.fromEntries(Object.entries(map).slice(0, 8)),
    };
    return (random) => {
      const text = mutateJsonText(random, original, [
        ...JSON_WORDS,
        ...words('../', '/', '.safetensors', 'weight_map'),
      ]);
      const parsed = parseJsonObject(text.toString(), 'index.json', 'BAD_INDEX');
      for (const shard of parseWeightMap(parsed.weight_map, 'index.json').values()) {
        const path = resolve('/checkpoint', shard);
        if (path !== `/checkpoint/${shard}` || shard.includes('\\'))
          throw new Error(`the index leads to ${shard}`);
      }
    };
  },
};

const WORKLOAD: Workload = { sequences: 2, contextTokens: 24, promptTokens: 16, output: 'tokens' };

const config: FuzzTarget = {
  name: 'config',
  share: 0.25,
  codes: [
    'BAD_CONFIG',
    'UNSUPPORTED',
    'MISSING_TENSOR',
    'WRONG_SHAPE',
    'BAD_WEIGHTS',
    'DOES_NOT_FIT',
    'PROMPT_TOO_LONG',
  ],
  async prepare() {
    const opened: { readonly checkpoint: Checkpoint; readonly notes: Notes }[] = [];
    for (const name of readdirSync(MODELS)) {
      const checkpoint = await openCheckpoint(join(MODELS, name));
      opened.push({ checkpoint, notes: await readNotes(checkpoint, readDeclared(checkpoint.config, name)) });
    }
    return (random) => {
      const { checkpoint, notes } = pick(random, opened);
      const changed =
        random() < 0.1
          ? parseJsonObject(
              mutateJsonText(random, checkpoint.config, JSON_WORDS).toString(),
              'config.json',
              'BAD_CONFIG',
            )
          : mutateJson(random, checkpoint.config);
      if (typeof changed !== 'object' || changed === null || Array.isArray(changed)) return;
      const { model } = bindModel(
        buildArchitecture(changed as Checkpoint['config'], 'config.json'),
        { ...checkpoint, config: changed as Checkpoint['config'] },
        notes,
      );
      // Planning runs the whole forward without data, which takes a hundred times as long as reading.
      if (random() < 0.1) planFor(model, { offload: 'dram', dramBudgetBytes: 2 ** 30, workload: WORKLOAD });
    };
  },
};

const TORCH_TENSORS: readonly TorchTensor[] = [
  { name: 'w', dtype: 'F16', shape: [2, 3], data: Buffer.alloc(12) },
  { name: 'tied', dtype: 'F16', shape: [3], offsetElements: 3, sharedWith: 'w', data: Buffer.alloc(12) },
  { name: 'b', dtype: 'BF16', shape: [4], data: Buffer.alloc(8), parameter: true },
  { name: 'e', dtype: 'F8_E4M3', shape: [1, 5], data: Buffer.alloc(5), torchType: 'float8_e4m3fn' },
];
const TORCH_WORDS = words(
  ...[
    'PK\x01\x02',
    'PK\x03\x04',
    'PK\x05\x06',
    'PK\x06\x06',
    'PK\x06\x07',
    'pytorch_model/data.pkl',
    'storage',
  ],
  ...[
    'cos\nsystem\n',
    'cbuiltins\neval\n',
    '(',
    ')',
    'R',
    'b',
    'Q',
    't',
    '\x85',
    '\x8a\xff',
    'q\x00',
    'h\x00',
    '}',
  ],
  ...[
    'ctorch\nHalfStorage\n',
    'ctorch._utils\n_rebuild_tensor_v2\n',
    'ccollections\nOrderedDict\n',
    '\x8a\x08',
  ],
);

const torch: FuzzTarget = {
  name: 'torch .bin',
  share: 0.28,
  codes: ['BAD_TORCH_FILE'],
  async prepare() {
    const files = [2, 4].map((protocol) => torchBin(TORCH_TENSORS, { protocol, wide: protocol === 4 }));
    const pickles = [2, 4].map((protocol) => stateDictPickle(TORCH_TENSORS, protocol));
    const storages = TORCH_TENSORS.flatMap(({ sharedWith, data }) => (sharedWith || !data ? [] : [data]));
    return async (random) => {
      // Damage to the pickle is put into a sound zip file, or the directory would be refused before it is read.
      const bytes =
        random() < 0.6
          ? torchFile(mutateBytes(random, pick(random, pickles), TORCH_WORDS), storages)
          : mutateBytes(random, pick(random, files), TORCH_WORDS);
      const { tensors } = await parseTorchFile(sourceOf(bytes, 'pytorch_model.bin'));
      checkWithin(tensors, bytes.length);
    };
  },
};

const TOKENIZERS = ['llama', 'bloom', 'gpt2', 'stories260K'];

const tokenizer: FuzzTarget = {
  name: 'tokenizer',
  share: 0.02,
  codes: ['BAD_TOKENIZER', 'BAD_CONFIG'],
  async prepare(folder) {
    const read = (name: string, file: string): unknown =>
      JSON.parse(readFileSync(join(MODELS, name, file), 'utf8'));
    const originals = TOKENIZERS.map((name) => ({
      tokenizer: read(name, 'tokenizer.json'),
      settings: read(name, 'tokenizer_config.json'),
    }));
    return async (random) => {
      const original = pick(random, originals);
      const hit = random() < 0.8;
      const text = hit ? mutateTokenizer(random, original.tokenizer) : JSON.stringify(original.tokenizer);
      const settings = hit
        ? JSON.stringify(original.settings)
        : mutateJsonText(random, original.settings, JSON_WORDS);
      writeFileSync(join(folder, 'tokenizer.json'), text);
      writeFileSync(join(folder, 'tokenizer_config.json'), settings);
      const loaded = await loadTokenizer(folder);
      const ids = await loaded.encode('King Richard ✓ said <s>: 12\n');
      loaded.decode([...ids, 0, 7, loaded.vocabSize + 5], { skipSpecialTokens: random() < 0.5 });
    };
  },
};

/** Most of such a file is vocabulary, of which one entry is like another: the rest is changed more often. */
function mutateTokenizer(random: Random, original: unknown): Buffer {
  if (random() < 0.3) return mutateJsonText(random, original, JSON_WORDS);
  const { model, ...rest } = original as { model: Record<string, unknown> };
  const { vocab, merges, ...settings } = model;
  const changed = mutateJson(random, { ...rest, model: settings });
  if (typeof changed !== 'object' || changed === null) return Buffer.from(JSON.stringify(changed));
  const inner = (changed as { model?: unknown }).model;
  const whole =
    typeof inner === 'object' && inner !== null ? { vocab, ...(merges ? { merges } : {}), ...inner } : inner;
  return Buffer.from(JSON.stringify({ ...changed, model: whole }));
}

const stored: FuzzTarget = {
  name: 'stored weights',
  share: 0.005,
  codes: ['BAD_CONFIG', 'UNSUPPORTED', 'MISSING_TENSOR', 'WRONG_SHAPE', 'BAD_WEIGHTS'],
  prepare: async (folder) => storedWeights(folder),
};

const PIECE_WORDS = words('▁', '<0x41>', '<unk>', '<s>', '==', ' 300\n', '\u0000', '\x18\x02', '\x0a\x00');

/** As they are kept for the suite, all but the texts. */
const vocabularies: FuzzTarget = {
  name: 'vocabularies',
  share: 0.02,
  codes: ['BAD_TOKENIZER', 'UNSUPPORTED'],
  async prepare(folder) {
    const cases = vocabularyCases();
    return async (random) => {
      const inside = mkdtempSync(join(folder, 'vocabulary-'));
      try {
        for (const [name, content] of Object.entries(pick(random, cases).files)) {
          const bytes = Buffer.from(content, 'base64');
          const isVocabulary = !name.endsWith('.json');
          writeFileSync(join(inside, name), isVocabulary ? mutateBytes(random, bytes, PIECE_WORDS) : bytes);
        }
        const loaded = await loadTokenizer(inside);
        loaded.decode(await loaded.encode('King Richard ✓ said <sep>: 12\n\u3000ﬁ'));
      } finally {
        rmSync(inside, { recursive: true });
      }
    };
  },
};

export const FUZZ_TARGETS: readonly FuzzTarget[] = [
  safetensors,
  index,
  config,
  torch,
  stored,
  tokenizer,
  vocabularies,
];

/** What is wrong with what a reader threw; undefined for a refusal as it should be. */
export function problemOf(error: unknown, target: FuzzTarget): string | undefined {
  if (!(error instanceof OperatingError)) {
    return error instanceof Error ? (error.stack ?? error.message) : `thrown: ${String(error)}`;
  }
  if (!target.codes.includes(error.code)) return `refused with ${error.code}: ${error.message}`;
  if (error.message.length > 999) return `a message of ${error.message.length} characters: ${error.code}`;
  const raw = /[^\P{Cc}\n]/u.test(error.message);
  return raw ? `a control character in: ${JSON.stringify(error.message)}` : undefined;
}
