// The variable `loop` within a `for`.

import { TemplateRuntimeError } from './errors.js';
import { type CallArguments, equal, Members, Tuple, Undefined, type Value } from './values.js';

interface LoopState {
  readonly items: readonly Value[];
  index: number;
  /** How many loops of the same recursion are around this one. */
  readonly depth: number;
  lastChecked: Value | undefined;
}

/**
 * @param recurse makes the loop again with other items; only where it is recursive
 * @returns the variable, and the function that moves it on
 */
export function loopVariable(
  items: readonly Value[],
  depth: number,
  recurse: ((items: Value, depth: number) => Value) | undefined,
): { loop: Members; moveTo: (index: number) => void } {
  const state: LoopState = { items, index: 0, depth, lastChecked: undefined };
  const call =
    recurse &&
    (({ positional: [inner] }: CallArguments) => {
      if (inner === undefined) throw new TemplateRuntimeError('loop() needs something to go through');
      return recurse(inner, depth + 1);
    });
  const loop = new Members('loop', (name) => memberOf(state, name), call);
  return {
    loop,
    moveTo: (index) => {
      state.index = index;
    },
  };
}

const item = (items: readonly Value[], index: number): Value => items[index] ?? null;

function memberOf(state: LoopState, name: string): Value | undefined {
  const { items, index, depth } = state;
  switch (name) {
    case 'index':
      return BigInt(index + 1);
    case 'index0':
      return BigInt(index);
    case 'revindex':
      return BigInt(items.length - index);
    case 'revindex0':
      return BigInt(items.length - index - 1);
    case 'first':
      return index === 0;
    case 'last':
      return index === items.length - 1;
    case 'length':
      return BigInt(items.length);
    case 'depth':
      return BigInt(depth + 1);
    case 'depth0':
      return BigInt(depth);
    case 'previtem':
      return index > 0 ? item(items, index - 1) : new Undefined('there is no previous item; loop.previtem');
    case 'nextitem':
      return index + 1 < items.length
        ? item(items, index + 1)
        : new Undefined('there is no next item; loop.nextitem');
    case 'cycle':
      return new Members(
        name,
        () => undefined,
        ({ positional }) => {
          const value = positional[index % positional.length];
          if (value === undefined) throw new TemplateRuntimeError('no items for cycling given');
          return value;
        },
      );
    case 'changed':
      return new Members(
        name,
        () => undefined,
        ({ positional }) => {
          const value = new Tuple(positional);
          const isSame = state.lastChecked !== undefined && equal(state.lastChecked, value);
          state.lastChecked = value;
          return !isSame;
        },
      );
    default:
      return undefined;
  }
}
