// What every template may call: Jinja's own functions, and those that transformers adds.

import { bind, optionalWhole, soft, wholeOf } from './arguments.js';
import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import { formatTime } from './time.js';
import { Callable, Dict, iterate, Namespace, type Value, View } from './values.js';

const MOST_IN_A_RANGE = 100_000;

/** @param now what time it is, for `strftime_now` */
export function globalsOf(now: () => Date): ReadonlyMap<string, Value> {
  const functions = [
    new Callable('raise_exception', (args) => {
      const { message = '' } = bind('raise_exception', args, ['message']);
      throw new TemplateRuntimeError(soft(message));
    }),
    new Callable('strftime_now', (args) => {
      const { format = '' } = bind('strftime_now', args, ['format']);
      return formatTime(now(), soft(format));
    }),
    new Callable('range', (args) => {
      const [a = 0n, b, c] = args.positional;
      const start = b === undefined ? 0 : wholeOf(a, 'range');
      const stop = wholeOf(b ?? a, 'range');
      const step = optionalWhole(c, 'range') ?? 1;
      if (step === 0 || args.positional.length === 0)
        throw new TemplateRuntimeError('range needs an end, and a step that is not 0');
      const count = Math.max(0, Math.ceil((stop - start) / step));
      if (count > MOST_IN_A_RANGE)
        throw new TemplateRuntimeError(`range too big, maximum size is ${MOST_IN_A_RANGE}`);
      return new View(
        Array.from({ length: count }, (_, index) => BigInt(start + index * step)),
        'range',
      );
    }),
    new Callable('dict', ({ positional: [from], named }) => {
      const pairs =
        from === undefined ? [] : from instanceof Dict ? from.entries() : [...iterate(from)].map(pairOf);
      return new Dict([...pairs, ...named]);
    }),
    new Callable('namespace', ({ positional: [from], named }) => {
      const made = new Namespace();
      const pairs =
        from === undefined ? [] : from instanceof Dict ? from.entries() : [...iterate(from)].map(pairOf);
      for (const [key, value] of [...pairs, ...named]) made.members.set(soft(key), value);
      return made;
    }),
    ...['lipsum', 'cycler', 'joiner'].map(
      (name) =>
        new Callable(name, () => {
          throw new UnsupportedError(`the function '${name}'`);
        }),
    ),
  ];
  return new Map(functions.map((one) => [one.name, one] as const));
}

function pairOf(value: Value): [Value, Value] {
  const [key, item, ...more] = iterate(value);
  if (key === undefined || item === undefined || more.length > 0)
    throw new TemplateRuntimeError('a dict is made of pairs');
  return [key, item];
}
