// Python's arithmetic and comparisons on values of templates.

import type { BinaryOperator, CompareOperator } from './ast.js';
import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import {
  asNumber,
  contains,
  equal,
  isNumber,
  isTrue,
  List,
  order,
  repr,
  Tuple,
  toText,
  typeName,
  Undefined,
  type Value,
} from './values.js';

export function compare(operator: CompareOperator, left: Value, right: Value): boolean {
  switch (operator) {
    case '==':
      return equal(left, right);
    case '!=':
      return !equal(left, right);
    case 'in':
      return contains(right, left);
    case 'not in':
      return !contains(right, left);
    case '<':
      return order(left, right) < 0;
    case '<=':
      return order(left, right) <= 0;
    case '>':
      return order(left, right) > 0;
    case '>=':
      return order(left, right) >= 0;
  }
}

export function unary(operator: '+' | '-' | 'not', value: Value): Value {
  if (operator === 'not') return !isTrue(value);
  if (value instanceof Undefined) throw value.error;
  if (!isNumber(value))
    throw new TemplateRuntimeError(`bad operand for unary ${operator}: '${typeName(value)}'`);
  const number = asNumber(value);
  return operator === '-' ? -number : number;
}

type Arithmetic = Exclude<BinaryOperator, 'and' | 'or'>;
/** No template needs more, and a wrong one must not take all memory. */
const MOST_CHARACTERS = 10_000_000;

export function arithmetic(operator: Arithmetic, left: Value, right: Value): Value {
  if (left instanceof Undefined) throw left.error;
  if (right instanceof Undefined && !(operator === '%' && typeof left === 'string')) throw right.error;
  if (isNumber(left) && isNumber(right)) return ofNumbers(operator, asNumber(left), asNumber(right));
  if (operator === '+') {
    if (typeof left === 'string' && typeof right === 'string') return left + right;
    if (left instanceof List && right instanceof List) return new List([...left.items, ...right.items]);
    if (left instanceof Tuple && right instanceof Tuple) return new Tuple([...left.items, ...right.items]);
  }
  if (operator === '*') {
    const repeated = repeat(left, right) ?? repeat(right, left);
    if (repeated !== undefined) return repeated;
  }
  if (operator === '%' && typeof left === 'string') return formatText(left, right);
  throw new TemplateRuntimeError(
    `unsupported operand types for ${operator}: '${typeName(left)}' and '${typeName(right)}'`,
  );
}

function repeat(what: Value, count: Value): Value | undefined {
  if (typeof count !== 'bigint' && typeof count !== 'boolean') return undefined;
  const times = Math.max(0, Number(count));
  const length = typeof what === 'string' ? what.length : what instanceof List ? what.items.length : 0;
  if (times * length > MOST_CHARACTERS) throw new UnsupportedError(`${times} repetitions`);
  if (typeof what === 'string') return what.repeat(times);
  if (what instanceof List) return new List(Array.from({ length: times }, () => what.items).flat());
  if (what instanceof Tuple) return new Tuple(Array.from({ length: times }, () => what.items).flat());
  return undefined;
}

function ofNumbers(operator: Arithmetic, a: bigint | number, b: bigint | number): Value {
  if (typeof a === 'bigint' && typeof b === 'bigint') return ofWhole(operator, a, b);
  const [left, right] = [Number(a), Number(b)];
  if ('/%//'.includes(operator) && right === 0) throw new TemplateRuntimeError('division by zero');
  switch (operator) {
    case '+':
      return left + right;
    case '-':
      return left - right;
    case '*':
      return left * right;
    case '/':
      return left / right;
    case '//':
      return Math.floor(left / right);
    case '%': {
      const rest = left % right;
      return rest !== 0 && rest < 0 !== right < 0 ? rest + right : rest;
    }
    case '**':
      return left ** right;
  }
}

function ofWhole(operator: Arithmetic, a: bigint, b: bigint): Value {
  if ('/%//'.includes(operator) && b === 0n) throw new TemplateRuntimeError('division by zero');
  switch (operator) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '/':
      return Number(a) / Number(b);
    case '//':
      return a / b - (a % b !== 0n && a < 0n !== b < 0n ? 1n : 0n);
    case '%': {
      const rest = a % b;
      return rest !== 0n && rest < 0n !== b < 0n ? rest + b : rest;
    }
    case '**':
      if (b < 0n) return Number(a) ** Number(b);
      if (b > 1000n) throw new UnsupportedError(`a power of ${b}`);
      return a ** b;
  }
}

/** `'%s and %d' % values`, without widths and precisions. */
export function formatText(format: string, values: Value): string {
  const args = values instanceof Tuple ? [...values.items] : [values];
  let used = 0;
  const text = format.replace(/%(\([^)]*\)|[-#0 +\d.*])?([\s\S])?/g, (whole, extra, kind) => {
    if (kind === '%' && extra === undefined) return '%';
    if (extra !== undefined || !'srdi'.includes(kind ?? ' '))
      throw new UnsupportedError(`the format ${whole}`);
    const value = args[used++];
    if (value === undefined) throw new TemplateRuntimeError('not enough arguments for format string');
    if (kind === 's') return toText(value);
    if (kind === 'r') return repr(value);
    if (!isNumber(value)) throw new TemplateRuntimeError(`%${kind} format: a number is required`);
    return BigInt(Math.trunc(Number(value))).toString();
  });
  // Other containers count as mappings, of which nothing has to be used.
  const counts = values instanceof Tuple || values === null || isNumber(values) || typeof values === 'string';
  if (used < args.length && counts)
    throw new TemplateRuntimeError('not all arguments converted during string formatting');
  return text;
}
