// Jinja's tests: `value is name`.

import { bind, numberOf } from './arguments.js';
import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import { KNOWN_FILTERS, KNOWN_TESTS } from './known-names.js';
import { compare } from './operators.js';
import {
  type CallArguments,
  Callable,
  Dict,
  isNumber,
  Lazy,
  List,
  Members,
  Tuple,
  toText,
  Undefined,
  type Value,
  View,
} from './values.js';

type Test = (value: Value, args: CallArguments) => boolean;

function comparison(operator: '==' | '!=' | '<' | '<=' | '>' | '>=' | 'in'): Test {
  return (value, args) => {
    const { other } = bind(operator, args, ['other']);
    if (other === undefined) throw new TemplateRuntimeError(`the test ${operator} needs a value`);
    return compare(operator, value, other);
  };
}

/** A test without arguments. */
function plain(name: string, test: (value: Value) => boolean): Test {
  return (value, args) => {
    bind(name, args, []);
    return test(value);
  };
}

function remainder(value: Value, by: number): number {
  if (value instanceof Undefined) throw value.error;
  return numberOf(value, 'test') % by;
}

const isSequence = (value: Value) =>
  typeof value === 'string' ||
  value instanceof List ||
  value instanceof Tuple ||
  value instanceof Dict ||
  value instanceof Undefined ||
  (value instanceof View && value.type === 'range');

function cased(value: Value, change: (text: string) => string): boolean {
  const text = toText(value);
  return change(text) === text && /[\p{Lu}\p{Ll}\p{Lt}]/u.test(text);
}

const TESTS: Readonly<Record<string, Test>> = {
  defined: plain('defined', (value) => !(value instanceof Undefined)),
  undefined: plain('undefined', (value) => value instanceof Undefined),
  none: plain('none', (value) => value === null),
  boolean: plain('boolean', (value) => typeof value === 'boolean'),
  true: plain('true', (value) => value === true),
  false: plain('false', (value) => value === false),
  integer: plain('integer', (value) => typeof value === 'bigint'),
  float: plain('float', (value) => typeof value === 'number'),
  number: plain('number', isNumber),
  string: plain('string', (value) => typeof value === 'string'),
  mapping: plain('mapping', (value) => value instanceof Dict),
  sequence: plain('sequence', isSequence),
  iterable: plain('iterable', (value) => isSequence(value) || value instanceof Lazy || value instanceof View),
  callable: plain(
    'callable',
    (value) =>
      value instanceof Undefined ||
      value instanceof Callable ||
      (value instanceof Members && value.call !== undefined),
  ),
  odd: plain('odd', (value) => Math.abs(remainder(value, 2)) === 1),
  even: plain('even', (value) => remainder(value, 2) === 0),
  divisibleby: (value, args) => {
    const { num = null } = bind('divisibleby', args, ['num']);
    const by = numberOf(num, 'divisibleby');
    if (by === 0) throw new TemplateRuntimeError('division by zero');
    return remainder(value, by) === 0;
  },
  lower: plain('lower', (value) => cased(value, (text) => text.toLowerCase())),
  upper: plain('upper', (value) => cased(value, (text) => text.toUpperCase())),
  in: comparison('in'),
  sameas: (value, args) => {
    const { other = null } = bind('sameas', args, ['other']);
    const simple = (one: Value) => one === null || typeof one === 'boolean';
    if (!simple(value) && !simple(other))
      throw new UnsupportedError("the test 'sameas' for other than none, true and false");
    return value === other;
  },
  filter: (value, args) => {
    bind('filter', args, []);
    return typeof value === 'string' && KNOWN_FILTERS.has(value);
  },
  test: (value, args) => {
    bind('test', args, []);
    return typeof value === 'string' && (KNOWN_TESTS.has(value) || SIGNS.includes(value));
  },
  ...withNames(['eq', 'equalto', '=='], comparison('==')),
  ...withNames(['ne', '!='], comparison('!=')),
  ...withNames(['lt', 'lessthan', '<'], comparison('<')),
  ...withNames(['le', '<='], comparison('<=')),
  ...withNames(['gt', 'greaterthan', '>'], comparison('>')),
  ...withNames(['ge', '>='], comparison('>=')),
};

const SIGNS: readonly string[] = ['==', '!=', '<', '<=', '>', '>='];

function withNames(names: readonly string[], test: Test): Record<string, Test> {
  return Object.fromEntries(names.map((name) => [name, test]));
}

export function applyTest(name: string, value: Value, args: CallArguments): boolean {
  const test = Object.hasOwn(TESTS, name) ? TESTS[name] : undefined;
  if (test) return test(value, args);
  if (KNOWN_TESTS.has(name)) throw new UnsupportedError(`the test '${name}'`);
  throw new TemplateRuntimeError(`there is no test '${name}'`);
}
