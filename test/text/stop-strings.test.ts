// Stop strings: found across pieces, text before them kept, nothing shown that might belong to one.

import { describe, expect, it } from 'vitest';
import { StoppingDecoder, StopStrings } from '../../src/text/stop-strings.js';
import { randomFrom, randomInt } from '../helpers/random.js';

/** What each piece made certain, and the rest. */
function shown(strings: readonly string[], pieces: readonly string[]) {
  const stop = new StopStrings(strings);
  const texts = pieces.map((piece) => stop.push(piece));
  return { texts, rest: stop.end(), stopped: stop.stopped };
}

describe('a stop string', () => {
  it('within a piece ends the text before it', () => {
    expect(shown(['END'], ['some END more'])).toEqual({ texts: ['some '], rest: '', stopped: true });
  });

  it('over several pieces is held back while it may still come', () => {
    const pieces = ['a', 'b\n', '\n', 'c', 'd'];
    expect(shown(['\n\nc'], pieces)).toEqual({ texts: ['a', 'b', '', '', ''], rest: '', stopped: true });
  });

  it('that does not come gives back what was held', () => {
    expect(shown(['END'], ['xE', 'N', 'x'])).toEqual({ texts: ['x', '', 'ENx'], rest: '', stopped: false });
    expect(shown(['END'], ['xEN'])).toEqual({ texts: ['x'], rest: 'EN', stopped: false });
  });

  it('may begin within an attempt that failed', () => {
    expect(shown(['aab'], ['a', 'a', 'a', 'b'])).toEqual({
      texts: ['', '', 'a', ''],
      rest: '',
      stopped: true,
    });
  });

  it('the first of several counts, and the longest beginning is held', () => {
    expect(shown(['cd', 'b'], ['abcd']).texts).toEqual(['a']);
    expect(shown(['abc', 'bcd'], ['zab', 'cd']).texts).toEqual(['z', '']);
    expect(shown(['xyz', 'y'], ['ax', 'y']).texts).toEqual(['a', 'x']);
  });

  it('of one character, and of many', () => {
    expect(shown(['.'], ['a.b']).texts).toEqual(['a']);
    expect(shown(['😀'], ['a', '😀']).texts).toEqual(['a', '']);
  });

  it('none at all passes everything on', () => {
    expect(shown([], ['a', 'b'])).toEqual({ texts: ['a', 'b'], rest: '', stopped: false });
  });
});

it('any cutting into pieces gives the text before the first stop string', () => {
  const random = randomFrom(3);
  const letters = (count: number) => Array.from({ length: count }, () => 'ab'[randomInt(random, 2)]).join('');
  for (let round = 0; round < 2000; round++) {
    const text = letters(12);
    const strings = Array.from({ length: 1 + randomInt(random, 3) }, () => letters(1 + randomInt(random, 4)));
    const pieces: string[] = [];
    for (let at = 0; at < text.length; ) {
      const length = 1 + randomInt(random, 4);
      pieces.push(text.slice(at, at + length));
      at += length;
    }
    const { texts, rest } = shown(strings, pieces);
    // The string that is complete first ends it: the one that ends first, and of those the longest.
    const before = pieces.map((_, count) => pieces.slice(0, count + 1).join(''));
    const seen = before.find((part) => strings.some((string) => part.includes(string)));
    const cut = seen === undefined ? text.length : Math.min(...strings.map((s) => place(seen, s)));
    expect(texts.join('') + rest, `${text} in ${pieces} with ${strings}`).toBe(text.slice(0, cut));
  }
});

function place(text: string, string: string): number {
  const at = text.indexOf(string);
  return at < 0 ? text.length : at;
}

it('a decoder of tokens ends with it', () => {
  const words = ['one', ' two', ' three'];
  const decoder = new StoppingDecoder({ push: (id) => words[id] ?? '', end: () => '!' }, ['two th']);
  expect(decoder.push(0)).toBe('one');
  expect(decoder.push(1)).toBe(' ');
  expect(decoder.stopped).toBe(false);
  expect(decoder.push(2)).toBe('');
  expect(decoder.stopped).toBe(true);
  expect(decoder.end()).toBe('');
  const other = new StoppingDecoder({ push: (id) => words[id] ?? '', end: () => '!' }, ['two!']);
  expect(other.push(0) + other.push(1)).toBe('one ');
  expect(other.end()).toBe('');
});

describe('special tokens', () => {
  const words = ['a', '<|end|>', 'b', 'E', 'ND', 'x'];
  const hidden = (id: number) => (words[id]?.startsWith('<|') ? (words[id] ?? '') : '');
  const source = { push: (id: number) => (hidden(id) ? '' : (words[id] ?? '')), hidden, end: () => '' };
  const run = (ids: readonly number[], strings: readonly string[], before = '') => {
    const decoder = new StoppingDecoder(source, strings, before);
    let [text, count] = ['', 0];
    for (const id of ids) {
      text += decoder.push(id);
      count++;
      if (decoder.stopped) return { text, count };
    }
    return { text: text + decoder.end(), count: undefined };
  };

  it('stop a text although they are no part of it', () => {
    expect(run([0, 1, 2], ['<|end|>'])).toEqual({ text: 'a', count: 2 });
    expect(run([0, 1, 2], ['<|end|>b'])).toEqual({ text: 'a', count: 3 });
    expect(run([0, 2, 1, 0], ['b<|end|>'])).toEqual({ text: 'a', count: 3 });
    expect(run([0, 1, 2], ['<|other|>'])).toEqual({ text: 'ab', count: undefined });
  });

  it('do not keep a stop string from being seen in what is shown', () => {
    expect(run([0, 3, 1, 4, 5], ['END'])).toEqual({ text: 'a', count: 4 });
    expect(run([0, 3, 1, 5], ['END'])).toEqual({ text: 'aEx', count: undefined });
  });

  it('may be held back with text around them', () => {
    expect(run([2, 1, 5, 0], ['b<|end|>a'])).toEqual({ text: 'bxa', count: undefined });
    expect(run([2, 1], ['b<|end|>a'])).toEqual({ text: 'b', count: undefined });
  });

  it('a stop string may begin in the prompt, but not end there', () => {
    expect(run([4, 5], ['END'], 'the E')).toEqual({ text: '', count: 1 });
    expect(run([5, 0], ['END'], 'the END')).toEqual({ text: 'xa', count: undefined });
    expect(run([0, 4], ['END'], 'the E')).toEqual({ text: 'aND', count: undefined });
    expect(run([0, 5], ['<|end|>a'], '<|end|>')).toEqual({ text: '', count: 1 });
    expect(run([3, 4, 0], ['END', 'a'], 'xa')).toEqual({ text: '', count: 2 });
  });
});
