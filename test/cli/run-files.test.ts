// Inputs and outputs of a run are compared as files: links, the hub's cache, copies of weights, and what is yet to be made.

import { linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { isModelFile } from '../../src/checkpoint/model-files.js';
import { checkFiles, checkModelFiles, type PathsByOption } from '../../src/cli/results/run-files.js';
import { tempFolder } from '../helpers/temp-folder.js';

/** Files of a model as the hub's cache has them: links to blobs. */
function hubModel() {
  const root = tempFolder();
  const [blobs, folder] = [join(root, 'blobs'), join(root, 'snapshots', 'main')];
  for (const made of [blobs, folder]) mkdirSync(made, { recursive: true });
  const names = [
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'vocab.json',
  ];
  for (const name of names) {
    writeFileSync(join(blobs, `blob-of-${name}`), `{"${name}": 1}`);
    symlinkSync(join(blobs, `blob-of-${name}`), join(folder, name));
  }
  return { root, blobs, folder, names };
}

const OPTIONS = ['--output', '--report', '--trace', '--save'];

describe('outputs that are files of the model', () => {
  it('are refused by the name of the blob, of the link, and of any other link', () => {
    const { root, blobs, folder, names } = hubModel();
    for (const name of names) {
      linkSync(join(blobs, `blob-of-${name}`), join(root, `hard-${name}`));
      symlinkSync(join(folder, name), join(root, `soft-${name}`));
      const spellings = [
        join(folder, name),
        join(blobs, `blob-of-${name}`),
        join(root, `hard-${name}`),
        join(root, `soft-${name}`),
      ];
      for (const path of spellings) {
        for (const option of OPTIONS) {
          expect(() => checkFiles({}, { [option]: path }, folder)).toThrow(
            /a file of the model: give another path/,
          );
        }
      }
    }
  });

  it('are refused where the model is known only later, and among copies of its weights', () => {
    const { root, blobs, folder } = hubModel();
    const copies = join(root, 'zero-inference-0123');
    mkdirSync(copies);
    const staged = join(copies, 'model.safetensors');
    writeFileSync(staged, 'weights');
    const checkpoint = { folder, files: [join(folder, 'model.safetensors')] };
    const check = (path: string) => () =>
      checkModelFiles({ '--report': path }, { opened: { checkpoint }, files: [staged] });
    expect(check(join(blobs, 'blob-of-model.safetensors'))).toThrow(/a file of the model/);
    expect(check(staged)).toThrow(/a file of the model/);
    expect(check(join(copies, 'manifest.json'))).toThrow(/lies among copies of weights/);
    expect(check(join(root, 'report.json'))).not.toThrow();
  });

  it.each([
    'merges.txt',
    'special_tokens_map.json',
    'added_tokens.json',
    'chat_template.jinja',
    'model-00001-of-00002.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'adapter_config.json',
  ])('%s that is not there yet is refused in the folder of the model only', (name) => {
    const { root, folder } = hubModel();
    expect(isModelFile(name)).toBe(true);
    expect(() => checkFiles({}, { '--report': join(folder, name) }, folder)).toThrow(
      /would be taken for a file of the model/,
    );
    expect(() => checkFiles({}, { '--report': join(root, name) }, folder)).not.toThrow();
  });

  it('results and reports may lie beside it', () => {
    const { folder } = hubModel();
    writeFileSync(join(folder, 'out.jsonl'), '{"index":0}\n');
    const outputs = { '--output': join(folder, 'out.jsonl'), '--report': join(folder, 'report.json') };
    expect(() => checkFiles({}, outputs, folder)).not.toThrow();
  });
});

describe('outputs that are inputs or one another', () => {
  it.each<[string, (folder: string) => [PathsByOption, PathsByOption], RegExp]>([
    [
      'the same path',
      (at) => [{ '--machine': `${at}/in` }, { '--save': `${at}/in` }],
      /--machine and --save are both/,
    ],
    [
      'another spelling',
      (at) => [{ '--machine': `${at}/in` }, { '--save': `${at}/./sub/../in` }],
      /--machine and --save are both/,
    ],
    [
      'through a linked folder',
      (at) => [{ '--text_file': `${at}/in` }, { '--trace': `${at}/link/../in` }],
      /--text_file/,
    ],
    [
      'settings of results',
      (at) => [{ '--ds_config': `${at}/out.run.json` }, { '--output': `${at}/out` }],
      /which --ds_config reads|are both/,
    ],
    [
      'damaged lines of results',
      (at) => [{ '--prompts_file': `${at}/out.damaged` }, { '--output': `${at}/out` }],
      /--prompts_file/,
    ],
    [
      'two outputs',
      (at) => [{}, { '--output': `${at}/new`, '--trace': `${at}/link/../new` }],
      /--output and --trace are both/,
    ],
    [
      'an output and settings',
      (at) => [{}, { '--output': `${at}/new`, '--report': `${at}/new.run.json` }],
      /--output and --report/,
    ],
    [
      'stdout twice',
      () => [{}, { '--output': '-', '--report': '/dev/stdout' }],
      /--output and --report are both/,
    ],
  ])('%s', (_, paths, message) => {
    const folder = tempFolder();
    mkdirSync(join(folder, 'sub'));
    symlinkSync('sub', join(folder, 'link'));
    for (const name of ['in', 'out.run.json', 'out.damaged']) writeFileSync(join(folder, name), '');
    const [inputs, outputs] = paths(folder);
    expect(() => checkFiles(inputs, outputs)).toThrow(message);
  });

  it('stdin and stdout have one name and are two streams', () => {
    expect(() => checkFiles({ '--prompts_file': '-' }, { '--output': '-' })).not.toThrow();
  });

  it('devices take what they are given', () => {
    const outputs = { '--output': '/dev/null', '--report': '/dev/null', '--trace': '/dev/null' };
    expect(() => checkFiles({ '--prompts_file': '/dev/null' }, outputs)).not.toThrow();
  });

  it('settings beside the results that are no settings are left alone', () => {
    const folder = tempFolder();
    writeFileSync(join(folder, 'out.run.json'), '{"mine": 1}');
    expect(() => checkFiles({}, { '--output': join(folder, 'out') })).toThrow(/is not the settings of a run/);
  });
});
