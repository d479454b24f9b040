// Programs get the texts that the reference makes, whoever else asks at the time, and can end any of them.

import { cpSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { present } from '../../offload/errors.js';
import {
  type Engine,
  type GenerateOptions,
  type OpenOptions,
  type OpenProgress,
  open,
} from '../../src/index.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { goldenOf, modelFolder } from '../helpers/fixtures.js';
import { FakeHub } from '../helpers/hub-server.js';
import { tempFolder } from '../helpers/temp-folder.js';

const NAME = 'shakespeare-bloom';
const FOLDER = modelFolder(NAME);
const { prompts, texts = [], greedy } = goldenOf(NAME);
const WHOLE = { maxNewTokens: 100 };
/** Options of texts that are begun for something else. */
const LENGTH = { maxNewTokens: 24 };
const tokenizer = await loadTokenizer(FOLDER);
const starts = greedy.map((ids) => tokenizer.decode(ids.slice(0, 24)));

async function opened(options: OpenOptions = {}, folder = FOLDER): Promise<Engine> {
  const engine = await open(folder, { device: 'cpu', contextTokens: 160, ...options });
  onTestFinished(() => engine.close());
  return engine;
}

describe('texts', () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await open(FOLDER, { device: 'cpu', contextTokens: 160, maxSequences: 6, cacheTokens: 400 });
  });
  afterAll(() => engine.close());

  it('are those of the reference, piece by piece', async () => {
    const made = await Promise.all(
      prompts.map(async (prompt) => {
        let text = '';
        for await (const piece of engine.generate(prompt, WHOLE)) text += piece.text;
        return text;
      }),
    );
    expect(made).toEqual(texts);
    expect(made).toHaveLength(4);
  });

  it('of a hundred at once, each as if it were alone, whatever becomes of the others', async () => {
    const wishes = Array.from({ length: 100 }, (_, index): readonly [string, GenerateOptions] => [
      `${present(prompts[index % 4], 'prompt')}${'And '.repeat(index % 7)}`,
      {
        maxNewTokens: 1 + ((index * 7) % 16),
        ...(index % 3 === 0 ? { temperature: 0.5 + (index % 5) / 5, topK: 50, seed: index } : {}),
        ...(index % 4 === 0 ? { stop: ['\n\n', 'ing'] } : {}),
        ...(index % 11 === 0 ? { repetitionPenalty: 1.4 } : {}),
        ...(index % 2 === 0 ? { logProbs: true } : {}),
      },
    ]);
    const alone = await opened({ maxSequences: 1 });
    const expected = [];
    for (const [prompt, options] of wishes) expected.push(await alone.generate(prompt, options).result);
    const texts = wishes.map(([prompt, options]) => engine.generate(prompt, options));
    const wrong = Array.from({ length: 10 }, () => engine.generate('a', { maxNewTokens: 1000 }).result);
    const left = Array.from({ length: 10 }, async (_, index) => {
      let count = 0;
      for await (const _ of engine.generate('ROMEO:', LENGTH)) if (count++ === index) break;
      return count;
    });
    expect(await Promise.all(texts.map(({ result }) => result))).toEqual(expected);
    expect(new Set(expected.map(({ finishReason }) => finishReason))).toEqual(new Set(['stop', 'length']));
    for (const { reason } of (await Promise.allSettled(wrong)) as PromiseRejectedResult[]) {
      expect(reason).toMatchObject({ code: 'PROMPT_TOO_LONG' });
    }
    expect(await Promise.all(left)).toEqual(left.map((_, index) => index + 1));
  });

  it('with the same seed are the same, and without one say which was taken', async () => {
    const drawing = { maxNewTokens: 20, temperature: 1 };
    const [first, second] = [engine.generate('ROMEO:', drawing), engine.generate('ROMEO:', drawing)];
    const { text, seed = -1 } = await first.result;
    expect((await second.result).text).not.toBe(text);
    const other = await opened({ offload: 'nvme', maxSequences: 2 });
    expect((await other.generate('ROMEO:', { ...drawing, seed }).result).text).toBe(text);
  });

  it('have the log-probabilities that the model gives them', async () => {
    const drawing = { maxNewTokens: 12, logProbs: true, temperature: 2, repetitionPenalty: 2, seed: 5 };
    const { tokens, logProbs = [] } = await engine.generate('To be, or', drawing).result;
    const scorer = await opened({ task: 'score', contextTokens: 64 });
    const all = [...(await engine.tokenize('To be, or')), ...tokens];
    const score = await scorer.score({ tokens: all });
    expect(logProbs).toHaveLength(12);
    logProbs.forEach((logProb, index) => {
      expect(logProb).toBeCloseTo(present(score.logProbs.at(index - 12), 'log-probability'), 3);
    });
  });

  it('end at an end token, at others that are named, or at none', async () => {
    const { tokens } = await engine.generate(prompts[0] ?? '', { maxNewTokens: 10 }).result;
    const at = present(tokens[4], 'token');
    const { finishReason, ...stopped } = await engine.generate(prompts[0] ?? '', {
      maxNewTokens: 10,
      stopTokens: [at],
    }).result;
    expect(finishReason).toBe('stop');
    expect(stopped.tokens).toEqual(tokens.slice(0, tokens.indexOf(at)));
  });

  it('go from tokens and to tokens', async () => {
    const ids = await engine.tokenize('ROMEO:\n');
    expect(ids).toEqual(goldenOf(NAME).input_ids[0]);
    expect(engine.detokenize(ids)).toBe('ROMEO:\n');
    const { text, promptTokens } = await engine.generate({ tokens: Int32Array.from(ids) }, LENGTH).result;
    expect([text, promptTokens]).toEqual([starts[0], ids.length]);
    expect(engine.detokenize([2, ...ids], { specialTokens: true })).toMatch(/^<\/s>/);
  });

  it('that are left for longer than others need are still there', async () => {
    const iterator = engine.generate(prompts[0] ?? '', LENGTH)[Symbol.asyncIterator]();
    const first = await iterator.next();
    await engine.generate(prompts[1] ?? '', LENGTH).result;
    let text = first.value?.text ?? '';
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) text += next.value.text;
    expect(text).toBe(starts[0]);
  });

  it('with a signal end in the middle, and the engine goes on', async () => {
    const controller = new AbortController();
    const text = engine.generate(prompts[0] ?? '', { ...LENGTH, signal: controller.signal });
    const pieces: string[] = [];
    const reading = (async () => {
      for await (const piece of text)
        if (pieces.push(piece.text) === 3) controller.abort(new Error('enough'));
    })();
    await expect(reading).rejects.toThrow('enough');
    await expect(text.result).rejects.toThrow('enough');
    expect(pieces.length).toBeLessThan(starts[0]?.length ?? 0);
    expect((await engine.generate(prompts[0] ?? '', LENGTH).result).text).toBe(starts[0]);
  });
});

describe('an engine', () => {
  it('is one of several in a process', async () => {
    const engines = await Promise.all(
      [{}, { offload: 'nvme' as const }, { maxSequences: 1, threads: 1 }].map((options) => opened(options)),
    );
    const made = await Promise.all(
      engines.flatMap((engine) => prompts.map((prompt) => engine.generate(prompt, LENGTH).result)),
    );
    expect(made.map(({ text }) => text)).toEqual([...starts, ...starts, ...starts]);
    await engines[0]?.close();
    expect((await engines[1]?.generate(prompts[0] ?? '', LENGTH).result)?.text).toBe(starts[0]);
  });

  it('closed in the middle ends its texts at once, and its memory can be had again', async () => {
    for (let round = 0; round < 5; round++) {
      const engine = await opened({ offload: round % 2 ? 'nvme' : 'auto' });
      const running = prompts.map((prompt) =>
        engine.generate(prompt, LENGTH).result.catch((error: unknown) => error),
      );
      for await (const _ of engine.generate('ROMEO:', LENGTH)) break;
      await engine.close();
      for (const error of await Promise.all(running)) expect(error).toMatchObject({ code: 'CLOSED' });
    }
  });

  it('tells what it is, and says nothing unless there is a logger', async () => {
    const spies = (['log', 'info', 'warn', 'error'] as const).map((name) => vi.spyOn(console, name));
    const writes = [vi.spyOn(process.stdout, 'write'), vi.spyOn(process.stderr, 'write')];
    const said: string[] = [];
    const logger = { debug: () => undefined, info: (line: string) => said.push(line), warn: () => undefined };
    const quiet = await opened();
    await quiet.generate('ROMEO:', { maxNewTokens: 2 }).result;
    for (const spy of [...spies, ...writes]) expect(spy).not.toHaveBeenCalled();
    vi.restoreAllMocks();
    await opened({ logger });
    expect(said).toEqual([expect.stringMatching(/shakespeare-bloom is open: all 9 layers rest in DRAM/)]);
    expect(quiet.info).toMatchObject({
      task: 'generate',
      folder: FOLDER,
      vocabSize: 2048,
      contextTokens: 160,
    });
    expect(quiet.info.cacheTokens).toBeGreaterThanOrEqual(4 * 160);
    expect(Object.isFrozen(quiet.info)).toBe(true);
  });

  it('of a folder that is moved meanwhile goes on', async () => {
    const folder = tempFolder();
    cpSync(FOLDER, folder, { recursive: true });
    const engine = await opened({ offload: 'nvme' }, folder);
    writeFileSync(join(folder, 'config.json'), 'another');
    expect((await engine.generate(prompts[0] ?? '', LENGTH).result).text).toBe(starts[0]);
  });
});

describe('scores', () => {
  const { nll, nll_ids: ids } = goldenOf('llama');

  it('are those of the reference, several at a time, in windows', async () => {
    const engine = await opened(
      { task: 'score', contextTokens: ids.length, maxSequences: 2 },
      modelFolder('llama'),
    );
    const all = await Promise.all([ids, ids.slice(0, 90), ids].map((tokens) => engine.score({ tokens })));
    expect(all[0]?.nll).toBeCloseTo(nll, 3);
    expect(all[2]).toEqual(all[0]);
    expect(all[1]?.logProbs).toEqual(all[0]?.logProbs.slice(0, 90));
    const [first, ...rest] = all[0]?.logProbs ?? [];
    expect(first).toBeNaN();
    expect(rest).toHaveLength(ids.length - 1);
    expect(all[0]?.perplexity).toBeCloseTo(Math.exp(-rest.reduce((a, b) => a + b, 0) / rest.length), 6);
    const windows = await opened({ task: 'score', contextTokens: 64 }, modelFolder('llama'));
    const cut = await windows.score({ tokens: Int32Array.from(ids) });
    expect(cut.logProbs).toHaveLength(ids.length);
    // A window begins with the last token of the one before.
    const alone = await windows.score({ tokens: ids.slice(63, 127) });
    expect(cut.logProbs.slice(64, 127)).toEqual(alone.logProbs.slice(1));
  });

  it('of a text; of too little; with a signal; of an engine that is closed', async () => {
    const engine = await opened({ task: 'score', contextTokens: 32 });
    const { tokens } = await engine.score('To be, or not to be');
    expect(tokens).toEqual(await engine.tokenize('To be, or not to be'));
    await expect(engine.score('')).rejects.toMatchObject({
      code: expect.stringMatching(/BAD_INPUT|EMPTY_PROMPT/),
    });
    await expect(engine.score({ tokens: [5] })).rejects.toThrow(/one token: scoring needs at least 2/);
    await expect(engine.generate('a').result).rejects.toMatchObject({ code: 'BAD_OPTION' });
    const long = 'To be, or not to be, that is the question. '.repeat(2000);
    const controller = new AbortController();
    const left = expect(engine.score(long, { signal: controller.signal })).rejects.toThrow('enough');
    await engine.tokenize('To be');
    controller.abort(new Error('enough'));
    await left;
    const closed = expect(engine.score(long)).rejects.toMatchObject({ code: 'CLOSED' });
    await engine.tokenize('To be');
    await engine.close();
    await closed;
  });
});

describe('models', () => {
  /** With a template for chats, and a way of its own to choose tokens. */
  function chatModel(): string {
    const folder = tempFolder();
    cpSync(FOLDER, folder, { recursive: true });
    const template = '{% for m in messages %}{{ m.role | upper }}:\n{{ m.content }}\n{% endfor %}ROMEO:\n';
    writeFileSync(join(folder, 'chat_template.jinja'), template);
    const own = { do_sample: true, temperature: 0.7, top_k: 5, max_new_tokens: 9, stop_strings: ['zzz'] };
    writeFileSync(join(folder, 'generation_config.json'), JSON.stringify(own));
    return folder;
  }

  it('answer messages by their template, with a system message before them', async () => {
    const engine = await opened({}, chatModel());
    const messages = [{ role: 'user', content: 'Who are you?' }] as const;
    const [plain, kind] = await Promise.all([
      engine.generate({ messages }, { maxNewTokens: 8 }).result,
      engine.generate({ messages }, { maxNewTokens: 8, system: 'Be kind.' }).result,
    ]);
    // The end of line at a template's end is not part of it.
    const text = 'USER:\nWho are you?\nROMEO:';
    const bare = await engine.tokenize(text, { specialTokens: false });
    const given = await engine.generate({ tokens: bare }, { maxNewTokens: 8 }).result;
    expect([plain.text, plain.promptTokens]).toEqual([given.text, bare.length]);
    const withSystem = await engine.tokenize(`SYSTEM:\nBe kind.\n${text}`, { specialTokens: false });
    expect(kind.promptTokens).toBe(withSystem.length);
    const own = [{ role: 'system', content: 'Be kind.' } as const, ...messages];
    const first = await engine.generate({ messages: own }, { maxNewTokens: 8, system: 'Be rude.' }).result;
    expect(first).toEqual(kind);
  });

  it('choose tokens in their own way where that is asked for and a text does not say', async () => {
    const folder = chatModel();
    const engine = await opened({ generationConfig: true }, folder);
    const own = await engine.generate('ROMEO:', { seed: 3 }).result;
    expect(own.tokens).toHaveLength(9);
    const plain = await opened({}, folder);
    const said = { maxNewTokens: 9, temperature: 0.7, topK: 5, seed: 3 };
    expect(await plain.generate('ROMEO:', said).result).toEqual(own);
    const greedy = await engine.generate('ROMEO:', { temperature: 0, maxNewTokens: 5 }).result;
    expect(greedy).toEqual(await plain.generate('ROMEO:', { maxNewTokens: 5 }).result);
  });

  it('are downloaded once, with progress', async () => {
    const files = Object.fromEntries(
      readdirSync(FOLDER).map((name) => [name, readFileSync(join(FOLDER, name))]),
    );
    const hub = await FakeHub.start(files);
    const cache = tempFolder();
    const env = {
      HF_ENDPOINT: hub.endpoint,
      HF_HUB_CACHE: cache,
      HF_HOME: cache,
      HF_HUB_OFFLINE: '',
      HF_TOKEN: 'secret',
    };
    for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value);
    onTestFinished(async () => {
      vi.unstubAllEnvs();
      await hub.stop();
    });
    const progress: OpenProgress[] = [];
    const engine = await opened({}, FOLDER);
    const ours = await open('org/model', {
      device: 'cpu',
      contextTokens: 160,
      revision: 'main',
      onProgress: (now) => progress.push(now),
    });
    expect((await ours.generate('ROMEO:', { maxNewTokens: 5 }).result).tokens).toEqual(
      (await engine.generate('ROMEO:', { maxNewTokens: 5 }).result).tokens,
    );
    await ours.close();
    expect(progress.at(-1)).toMatchObject({ phase: 'download' });
    expect(progress.at(-1)?.doneBytes).toBe(progress.at(-1)?.totalBytes);
    expect(
      hub.requests.every(({ storage, authorization }) => storage || authorization === 'Bearer secret'),
    ).toBe(true);
    const asked = hub.requests.length;
    await (await open('org/model', { device: 'cpu', contextTokens: 32 })).close();
    expect(hub.requests).toHaveLength(asked);
  });

  it('packs weights at the first use, and takes them from there', async () => {
    vi.stubEnv('XDG_CACHE_HOME', tempFolder());
    onTestFinished(() => void vi.unstubAllEnvs());
    const nlls: number[] = [];
    for (const phases of [['pack'], []]) {
      const progress: OpenProgress[] = [];
      const engine = await open(FOLDER, {
        device: 'cpu',
        contextTokens: 160,
        task: 'score',
        dtype: 'int8',
        onProgress: (now) => progress.push(now),
      });
      expect([...new Set(progress.map(({ phase }) => phase))]).toEqual(phases);
      expect(engine.info.folder).toMatch(/packed\/shakespeare-bloom-int8-[0-9a-f]{8}$/);
      nlls.push((await engine.score(present(texts[0], 'text'))).nll);
      await engine.close();
    }
    const plain = await opened({ task: 'score' });
    const { nll } = await plain.score(present(texts[0], 'text'));
    expect(nlls[0]).not.toBe(nll);
    expect(nlls[1]).toBe(nlls[0]);
    expect(Math.abs((nlls[0] ?? 0) - nll) / nll).toBeLessThan(0.01);
  });

  it('are copied to another drive once', async ({ skip }) => {
    const other = '/dev/shm';
    if (statSync(other, { throwIfNoEntry: false })?.dev === statSync(FOLDER).dev) skip();
    const nvmePath = tempFolder(other);
    const progress: OpenProgress[] = [];
    for (const phases of [['copy'], []]) {
      progress.length = 0;
      const engine = await open(FOLDER, {
        device: 'cpu',
        contextTokens: 160,
        nvmePath,
        onProgress: (now) => progress.push(now),
      });
      expect(engine.info.placement).toMatch(/stream from the drive/);
      expect((await engine.generate(prompts[0] ?? '', LENGTH).result).text).toBe(starts[0]);
      await engine.close();
      expect([...new Set(progress.map(({ phase }) => phase))]).toEqual(phases);
    }
  });
});
