// The runs in which faults are injected: each a command line on the smallest models, and files it begins with.

import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url)).replace(/dist\/$/, '');

export interface Scenario {
  readonly name: string;
  /** The words of the command line; `folder` is empty, on a drive, and of this run alone. */
  readonly words: (folder: string) => readonly string[];
  /** Files that a run leaves, as patterns of their paths within the folder, however it ends. */
  readonly leaves: readonly RegExp[];
  /** What it prints is the same every time. */
  readonly repeats: boolean;
  /** The command line that goes on with the results, where there are any to go on with. */
  readonly again?: (folder: string) => readonly string[];
}

const model = (name: string) => join(ROOT, 'test/fixtures/models', name);
const BRIEF = ['--max_new_tokens', '4', '--device', 'cpu', '--log_level', 'warn'];
const PROMPTS = ['--name', model('bloom'), ...BRIEF];
const asWhole = (words: readonly string[]) => ['generate', ...words];

function promptsFile(folder: string): string {
  const path = join(folder, 'in.jsonl');
  const lines = Array.from({ length: 5 }, (_, index) => ({
    prompt_token_ids: [index + 1, 2 * index + 3, 7],
  }));
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  return path;
}

const results = (folder: string) => [
  ...['--prompts_file', join(folder, 'in.jsonl'), '--output', join(folder, 'out.jsonl'), '--batch_size', '2'],
];

/** A shape of a few kilobytes. */
function shapeFile(folder: string): string {
  const path = join(folder, 'shape.json');
  copyFileSync(join(model('bloom'), 'config.json'), path);
  return path;
}

function textFile(folder: string): string {
  const path = join(folder, 'text.txt');
  writeFileSync(path, readFileSync(join(model('bloom'), 'tokenizer_config.json'), 'utf8').repeat(2));
  return path;
}

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'from the drive',
    words: (folder) => asWhole([...PROMPTS, '--prompt', 'ab', '--nvme_offload_path', folder]),
    leaves: [],
    repeats: true,
  },
  {
    name: 'from the drive, by threads and through the page cache',
    words: (folder) =>
      asWhole([
        ...PROMPTS,
        ...['--prompt', 'ab', '--nvme_offload_path', folder, '--io_engine', 'threads', '--no_direct_io'],
      ]),
    leaves: [],
    repeats: true,
  },
  {
    name: 'in DRAM',
    words: () => asWhole([...PROMPTS, '--prompt', 'ab', '--cpu_offload']),
    leaves: [],
    repeats: true,
  },
  {
    name: 'copied to another drive',
    words: (folder) => {
      const memory = mkdtempSync('/dev/shm/zi-faults-');
      writeFileSync(join(folder, 'also'), memory);
      return asWhole([...PROMPTS, '--prompt', 'ab', '--nvme_offload_path', memory]);
    },
    // What was copied serves the next run.
    leaves: [/^also$/, /\.partial$/, /\/lock$/],
    repeats: true,
  },
  {
    name: 'results to a file, with report and trace',
    words: (folder) => {
      promptsFile(folder);
      const files = ['--report', join(folder, 'report.json'), '--trace', join(folder, 'trace.json')];
      return asWhole([...PROMPTS, ...results(folder), ...files]);
    },
    leaves: [/^in\.jsonl$/, /^out\.jsonl/, /^report\.json$/, /^trace\.json$/],
    repeats: true,
    again: (folder) => asWhole([...PROMPTS, ...results(folder), '--resume']),
  },
  {
    name: 'results resumed',
    words: (folder) => {
      promptsFile(folder);
      const made = join(folder, 'half');
      if (existsSync(made)) copyFileSync(made, join(folder, 'out.jsonl'));
      return asWhole([...PROMPTS, ...results(folder), '--resume']);
    },
    leaves: [/^in\.jsonl$/, /^out\.jsonl/],
    repeats: true,
    again: (folder) => asWhole([...PROMPTS, ...results(folder), '--resume']),
  },
  {
    name: 'several devices',
    words: () => asWhole([...PROMPTS, '--prompt', 'ab', '--virtual_devices', '2']),
    leaves: [],
    repeats: true,
  },
  {
    name: 'dummy weights',
    words: (folder) => {
      mkdirSync(join(folder, 'made'));
      const dummy = ['--name', shapeFile(folder), '--dummy_weights', join(folder, 'made')];
      return asWhole([...dummy, ...BRIEF, '--benchmark', '--cycles', '1', '--warmup_cycles', '0']);
    },
    leaves: [/^shape\.json$/, /^made\//],
    repeats: false,
  },
  {
    name: 'score',
    words: (folder) => [
      ...['score', '--name', model('bloom'), '--text_file', textFile(folder), '--context', '32'],
      ...['--device', 'cpu', '--log_level', 'warn'],
    ],
    leaves: [/^text\.txt$/],
    repeats: true,
  },
  {
    name: 'plan',
    words: () => ['plan', '--name', model('bloom'), '--machine', join(ROOT, 'configs/machines/laptop.json')],
    leaves: [],
    repeats: false,
  },
  {
    name: 'doctor',
    words: (folder) => ['doctor', '--path', folder, '--save', join(folder, 'machine.json')],
    leaves: [/^machine\.json$/],
    repeats: false,
  },
];
