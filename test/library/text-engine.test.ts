// Tokens on their way to a program: whole characters, stop strings, leaving, ending and failing.

import { beforeAll, expect, it, vi } from 'vitest';
import { OperatingError } from '../../offload/index.js';
import type { Submission } from '../../src/engine/submission.js';
import { Coder } from '../../src/library/prompt.js';
import { scoreText } from '../../src/library/score.js';
import { TextEngine } from '../../src/library/text-engine.js';
import type { EngineInfo, Generation, Piece } from '../../src/library/types.js';
import { loadTokenizer, type Tokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { modelFolder } from '../helpers/fixtures.js';
import { ScriptedEngine } from './scripted-engine.js';

const FOLDER = modelFolder('shakespeare-bloom');
const INFO: EngineInfo = {
  task: 'generate',
  folder: FOLDER,
  architecture: 'bloom',
  weightBytes: 1,
  vocabSize: 2048,
  device: 'cpu',
  deviceCount: 1,
  placement: 'nowhere',
  contextTokens: 300,
  maxSequences: 4,
  cacheTokens: 1200,
  warnings: [],
};

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(FOLDER);
});

function opened() {
  const tokens = new ScriptedEngine();
  const coder = new Coder(FOLDER, { tokenizer, startToken: undefined, size: INFO.vocabSize });
  const room = {
    engine: tokens,
    coder,
    contextTokens: INFO.contextTokens,
    endTokens: new Set([2]),
    own: undefined,
  };
  const close = () => tokens.close();
  return { tokens, engine: new TextEngine({ info: INFO, coder, room, score: undefined, close }) };
}

async function piecesOf(text: Generation): Promise<Piece[]> {
  const pieces: Piece[] = [];
  for await (const piece of text) pieces.push(piece);
  return pieces;
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

it('pieces are whole characters, and together the text and its tokens', async () => {
  const { tokens, engine } = opened();
  const text = engine.generate('To be', { logProbs: true });
  const said = await tokenizer.encodeBare(' or nöt 🐢 to be');
  const script = await tokens.text(0);
  script.say(...said);
  script.end('length');
  const pieces = await piecesOf(text);
  expect(pieces.length).toBeGreaterThan(4);
  expect(pieces.length).toBeLessThan(said.length);
  for (const { text } of pieces) expect(text).not.toMatch(/\ufffd|^$/);
  expect(pieces.map(({ text }) => text).join('')).toBe(' or nöt 🐢 to be');
  expect(pieces.flatMap(({ tokens }) => tokens)).toEqual(said);
  const logProbs = said.map((token) => -token / 1000);
  expect(pieces.flatMap(({ logProbs = [] }) => logProbs)).toEqual(logProbs);
  expect(await text.result).toEqual({
    text: ' or nöt 🐢 to be',
    tokens: said,
    logProbs,
    finishReason: 'length',
    promptTokens: (await tokenizer.encode('To be')).length,
  });
});

it('a piece comes when it is certain, not when the text has ended', async () => {
  const { tokens, engine } = opened();
  const text = engine.generate('To be');
  const script = await tokens.text(0);
  const iterator = text[Symbol.asyncIterator]();
  for (const token of await tokenizer.encodeBare(' or not')) {
    script.say(token);
    expect((await iterator.next()).value?.tokens).toEqual([token]);
  }
});

it('a stop string and what follows it are never shown, wherever tokens cut it', async () => {
  const said = await tokenizer.encodeBare(' or not to be, that is the question');
  for (const stop of [' be', 'ot t', ', that', 't', ['zzz', 'is the']]) {
    const { tokens, engine } = opened();
    const text = engine.generate('To be', { stop });
    const script = await tokens.text(0);
    script.say(...said);
    script.end('length');
    const pieces = await piecesOf(text);
    const shown = pieces.map(({ text }) => text).join('');
    const first = Array.isArray(stop) ? 'is the' : (stop as string);
    expect(shown).toBe(' or not to be, that is the question'.split(first)[0]);
    const result = await text.result;
    expect(result).toMatchObject({ text: shown, finishReason: 'stop' });
    expect(pieces.flatMap(({ tokens }) => tokens)).toEqual(result.tokens);
    expect(result.tokens).toEqual(said.slice(0, result.tokens.length));
    expect(tokenizer.decode(result.tokens)).toContain(first);
  }
});

it('what was held back for a stop string that does not come is shown at the end', async () => {
  const { tokens, engine } = opened();
  const text = engine.generate('To be', { stop: ' not to be' });
  const script = await tokens.text(0);
  script.say(...(await tokenizer.encodeBare(' or not to')));
  script.end('length');
  expect((await text.result).text).toBe(' or not to');
});

it('an unfinished character is shown as such at the end', async () => {
  const { tokens, engine } = opened();
  const text = engine.generate('To be');
  const script = await tokens.text(0);
  script.say(...(await tokenizer.encodeBare('🐢')).slice(0, 2));
  script.end('length');
  const pieces = await piecesOf(text);
  expect(pieces.map(({ text }) => text).join('')).toMatch(/^\ufffd+$/);
});

it('can be iterated over twice, and while it is being made', async () => {
  const { tokens, engine } = opened();
  const text = engine.generate('To be');
  const [first, second] = [piecesOf(text), piecesOf(text)];
  const script = await tokens.text(0);
  for (const token of await tokenizer.encodeBare(' or not to be')) {
    script.say(token);
    await turn();
  }
  script.end('stop');
  expect(await second).toEqual(await first);
  expect(await piecesOf(text)).toEqual(await first);
});

it('calls of next that come before the pieces each get one of their own', async () => {
  const { tokens, engine } = opened();
  const iterator = engine.generate('To be')[Symbol.asyncIterator]();
  const three = Promise.all([iterator.next(), iterator.next(), iterator.next()]);
  const script = await tokens.text(0);
  const [one = 0, two = 0] = await tokenizer.encodeBare(' or not');
  script.say(one, two);
  script.end('stop');
  expect((await three).map(({ value }) => value?.tokens)).toEqual([[one], [two], undefined]);
});

it.each(['break', 'throw', 'return', 'cancel'])('%s in the middle of an iteration cancels', async (how) => {
  const { tokens, engine } = opened();
  const text = engine.generate('To be');
  const script = await tokens.text(0);
  const said = await tokenizer.encodeBare(' or not to be');
  const leave = async () => {
    for await (const _ of text) {
      if (how === 'throw') throw new Error('the program’s own');
      if (how === 'return') return;
      if (how === 'break') break;
      text.cancel();
    }
  };
  const left = leave().catch((error: Error) => error.message);
  script.say(...said.slice(0, 2));
  expect(await left).toBe(how === 'throw' ? 'the program’s own' : undefined);
  script.say(...said.slice(2));
  expect(script.cancels).toBe(1);
  expect(await text.result).toMatchObject({
    text: ' or not',
    tokens: said.slice(0, 2),
    finishReason: 'cancelled',
  });
  text.cancel();
  await text[Symbol.asyncIterator]().return?.();
  expect(script.cancels).toBe(1);
});

it('an iteration that waits can be left', async () => {
  const { tokens, engine } = opened();
  const text = engine.generate('To be');
  const script = await tokens.text(0);
  const iterator = text[Symbol.asyncIterator]();
  const waiting = iterator.next();
  await iterator.return?.();
  expect(await waiting).toEqual({ done: true, value: undefined });
  expect(script.cancels).toBe(1);
});

it('what is cancelled before its prompt is read ends at once, and the engine never hears of it', async () => {
  const { tokens, engine } = opened();
  const texts = [engine.generate('To be'), engine.generate('To be '.repeat(1e5)), engine.generate('To be')];
  texts[0]?.cancel();
  await texts[1]?.[Symbol.asyncIterator]().return?.();
  for (const text of texts.slice(0, 2)) {
    expect(await text.result).toEqual({ text: '', tokens: [], finishReason: 'cancelled', promptTokens: 0 });
    expect(await piecesOf(text)).toEqual([]);
  }
  (await tokens.text(0)).end('stop');
  await texts[2]?.result;
  expect(tokens.texts).toHaveLength(1);
});

it('without a tokenizer, tokens are told as they come', async () => {
  const tokens = new ScriptedEngine();
  const coder = new Coder(FOLDER, { tokenizer: undefined, startToken: undefined, size: INFO.vocabSize });
  const room = { engine: tokens, coder, contextTokens: 20, endTokens: new Set<number>(), own: undefined };
  const engine = new TextEngine({ info: INFO, coder, room, score: undefined, close: () => tokens.close() });
  const iterator = engine.generate({ tokens: [1] })[Symbol.asyncIterator]();
  const script = await tokens.text(0);
  script.say(7);
  expect((await iterator.next()).value).toEqual({ text: '', tokens: [7] });
  script.end('length');
  expect((await iterator.next()).done).toBe(true);
  expect(() => engine.detokenize([1])).toThrow(/has no tokenizer/);
});

it('functions may be taken out of an engine and of a text, and iterators be iterated over', async () => {
  const { tokens, engine } = opened();
  const { generate, tokenize, detokenize, close } = engine;
  const { result, cancel } = generate('To be');
  (await tokens.text(0)).say(5);
  await turn();
  cancel();
  expect(await result).toMatchObject({ tokens: [5], finishReason: 'cancelled' });
  const text = generate('To be');
  const script = await tokens.text(1);
  script.say(...(await tokenize(' or not', { specialTokens: false })));
  script.end('stop');
  let all = '';
  const iterator = text[Symbol.asyncIterator]() as AsyncIterableIterator<Piece>;
  for await (const piece of iterator) all += detokenize(piece.tokens);
  expect(all).toBe(' or not');
  await close();
  await expect(generate('To be').result).rejects.toMatchObject({ code: 'CLOSED' });
});

it('options may be inherited, as from others that are the same for all', async () => {
  const { tokens, engine } = opened();
  engine.generate('To be', Object.create({ maxNewTokens: 5 }));
  class Own {
    maxNewTokens = 6;
    describe() {
      return 'a method, which is no option';
    }
  }
  expect((await tokens.text(0)).request.maxNewTokens).toBe(5);
  engine.generate('To be', new Own());
  expect((await tokens.text(1)).request.maxNewTokens).toBe(6);
});

it('an error of one text is its own: what came before it is there, and all who look are told', async () => {
  const { tokens, engine } = opened();
  // One after the other: which of two prompts is encoded first is left to threads.
  const sound = engine.generate('To be');
  const good = await tokens.text(0);
  const broken = engine.generate('To be');
  const bad = await tokens.text(1);
  const [token = 0] = await tokenizer.encodeBare(' or');
  bad.say(token);
  bad.fail(new OperatingError('NOT_FINITE', 'planted; raise --dram_memory'));
  good.say(token);
  good.end('stop');
  const pieces: Piece[] = [];
  const reading = (async () => {
    for await (const piece of broken) pieces.push(piece);
  })();
  // In this package's words.
  await expect(reading).rejects.toMatchObject({ code: 'NOT_FINITE', message: 'planted; raise dramMemory' });
  expect(pieces).toEqual([{ text: ' or', tokens: [token] }]);
  await expect(broken.result).rejects.toMatchObject({ code: 'NOT_FINITE' });
  await expect(piecesOf(broken)).rejects.toMatchObject({ code: 'NOT_FINITE' });
  expect((await sound.result).text).toBe(' or');
});

it('a signal rejects with its reason and cancels; before the start nothing is begun', async () => {
  const { tokens, engine } = opened();
  const controller = new AbortController();
  const { signal } = controller;
  const remove = vi.spyOn(signal, 'removeEventListener');
  const text = engine.generate('To be', { signal });
  const script = await tokens.text(0);
  const reason = new Error('enough');
  controller.abort(reason);
  await expect(piecesOf(text)).rejects.toBe(reason);
  await expect(text.result).rejects.toBe(reason);
  expect(script.cancels).toBe(1);
  await expect(engine.generate('To be', { signal }).result).rejects.toBe(reason);
  await turn();
  expect(tokens.texts).toHaveLength(1);
  expect(remove).toHaveBeenCalled();
});

it('a signal is left alone when its text has ended', async () => {
  const { tokens, engine } = opened();
  const { signal } = new AbortController();
  const [add, remove] = [vi.spyOn(signal, 'addEventListener'), vi.spyOn(signal, 'removeEventListener')];
  const texts = Array.from({ length: 50 }, () => engine.generate('To be', { signal }));
  for (const index of texts.keys()) (await tokens.text(index)).end('stop');
  await Promise.all(texts.map(({ result }) => result));
  // One for all of them, since Node warns of more than ten.
  expect(add).toHaveBeenCalledTimes(1);
  expect(remove).toHaveBeenCalledTimes(1);
});

it('closing ends every text with CLOSED, once, and nothing can be asked for afterwards', async () => {
  const { tokens, engine } = opened();
  const text = engine.generate('To be');
  const script = await tokens.text(0);
  script.say(...(await tokenizer.encodeBare(' or')));
  await turn();
  const pieces: Piece[] = [];
  const reading = (async () => {
    for await (const piece of text) pieces.push(piece);
  })();
  await Promise.all([engine.close(), engine.close(), engine[Symbol.asyncDispose]()]);
  expect(tokens.closes).toBe(1);
  await expect(reading).rejects.toMatchObject({ code: 'CLOSED' });
  expect(pieces.map(({ text }) => text)).toEqual([' or']);
  await expect(engine.generate('To be').result).rejects.toMatchObject({ code: 'CLOSED' });
  await expect(engine.tokenize('To be')).rejects.toMatchObject({ code: 'CLOSED' });
  await expect(engine.score('To be')).rejects.toMatchObject({ code: 'CLOSED' });
  expect(() => engine.detokenize([1])).toThrow(/the engine is closed/);
});

it('what a program changes after it has asked changes nothing', async () => {
  const { tokens, engine } = opened();
  const [ids, stop, options] = [Int32Array.of(5, 6, 7), ['x'], { maxNewTokens: 3 }];
  engine.generate({ tokens: ids }, Object.assign(options, { stop }));
  ids[1] = 9999;
  stop.push('');
  options.maxNewTokens = -1;
  const { request } = await tokens.text(0);
  expect([...request.promptTokens]).toEqual([5, 6, 7]);
  expect(request.maxNewTokens).toBe(3);
});

it('what a text asks for reaches the engine', async () => {
  const { tokens, engine } = opened();
  const drawing = { temperature: 0.5, topK: 4, topP: 0.9, minP: 0.1, repetitionPenalty: 1.5, seed: 3 };
  engine.generate('To be', { maxNewTokens: 7, ...drawing, stopTokens: [9, 10], logProbs: true });
  const asked = await tokens.text(0);
  engine.generate('To be');
  const plain = await tokens.text(1);
  engine.generate({ tokens: Array.from({ length: 290 }, () => 5) }, { stopTokens: [] });
  const long = await tokens.text(2);
  expect(asked.request).toMatchObject({
    maxNewTokens: 7,
    sampling: drawing,
    stopTokens: new Set([9, 10]),
    logProbs: true,
  });
  expect(plain.request).toMatchObject({ maxNewTokens: 256, stopTokens: new Set([2]) });
  expect(plain.request.sampling ?? plain.request.logProbs ?? plain.request.stopsAfter).toBeUndefined();
  expect(long.request).toMatchObject({ maxNewTokens: 10, stopTokens: new Set() });
});

it('scores windows of more tokens than a call takes arguments', async () => {
  const count = 300_000;
  const logProbs = Array.from({ length: count - 1 }, () => -0.5);
  const result = Promise.resolve({
    index: 0,
    sample: 0,
    tokens: [],
    logProbs,
    finishReason: 'length',
  } as const);
  const submission = { result, cancel: () => undefined } as unknown as Submission;
  const options = { windowTokens: count, signal: new AbortController().signal };
  const score = await scoreText({ submit: () => submission }, new Int32Array(count), options);
  expect(score.nll).toBe(0.5);
  expect(score.logProbs.length).toBe(count);
});
