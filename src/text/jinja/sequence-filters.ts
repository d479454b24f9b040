// Jinja's filters on lists and other things to be gone through.

import { bind, soft, wholeOf } from './arguments.js';
import { itemOf } from './attributes.js';
import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import { arithmetic } from './operators.js';
import { applyTest } from './tests.js';
import { lengthOf, pointsOf } from './text.js';
import {
  type CallArguments,
  Dict,
  isTrue,
  iterate,
  Lazy,
  List,
  order,
  Tuple,
  toText,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

export type Filter = (value: Value, args: CallArguments) => Value;

/** `a.b.0` of a value, as filters take attributes. */
export function attributeGetter(attribute: Value, otherwise?: Value, changed = (value: Value) => value) {
  const parts =
    typeof attribute === 'string'
      ? attribute.split('.').map((part) => (/^\d+$/.test(part) ? BigInt(part) : part))
      : attribute === null
        ? []
        : [attribute];
  return (value: Value): Value => {
    let item = value;
    for (const part of parts) {
      item = itemOf(item, part);
      if (item instanceof Undefined && otherwise !== undefined) item = otherwise;
    }
    return changed(item);
  };
}

const ignoreCase = (value: Value): Value => (typeof value === 'string' ? value.toLowerCase() : value);

function key(attribute: Value, caseSensitive: Value): (value: Value) => Value {
  return attributeGetter(attribute, undefined, isTrue(caseSensitive) ? undefined : ignoreCase);
}

function lengthFilter(value: Value, args: CallArguments): Value {
  bind('length', args, []);
  if (typeof value === 'string') return BigInt(lengthOf(value));
  if (value instanceof List || value instanceof Tuple) return BigInt(value.items.length);
  if (value instanceof View && value.type !== 'generator') return BigInt(value.items.length);
  if (value instanceof Dict) return BigInt(value.size);
  if (value instanceof Undefined) return 0n;
  throw new TemplateRuntimeError(`object of type '${typeName(value)}' has no len()`);
}

/** `select('odd')`, `selectattr('role', 'equalto', 'user')` and their opposites. */
function selection(name: string, ofAttribute: boolean, wanted: boolean): Filter {
  return (value, { positional, named }) => {
    const [attribute, ...rest] = ofAttribute ? positional : [null, ...positional];
    if (attribute === undefined) throw new TemplateRuntimeError(`${name} needs the name of an attribute`);
    const [test, ...testArgs] = rest;
    const get = ofAttribute ? attributeGetter(attribute) : (item: Value) => item;
    const passes = (item: Value): boolean =>
      test === undefined
        ? isTrue(get(item))
        : applyTest(soft(test), get(item), { positional: testArgs, named });
    const chosen = function* (): Iterable<Value> {
      for (const item of iterate(value)) if (passes(item) === wanted) yield item;
    };
    return isTrue(value) ? new Lazy(chosen()) : new Lazy([]);
  };
}

function extreme(name: 'min' | 'max'): Filter {
  return (value, args) => {
    const { case_sensitive = false, attribute = null } = bind(name, args, ['case_sensitive', 'attribute']);
    const get = key(attribute, case_sensitive);
    let best: Value | undefined;
    for (const item of iterate(value)) {
      if (best === undefined) best = item;
      else {
        const difference = order(get(item), get(best));
        if (name === 'min' ? difference < 0 : difference > 0) best = item;
      }
    }
    return best === undefined ? new Undefined(`the ${name} of nothing`) : best;
  };
}

function sorted(items: Iterable<Value>, get: (value: Value) => Value, reverse: boolean): Value[] {
  const keyed = [...items].map((item) => ({ item, by: get(item) }));
  keyed.sort((a, b) => (reverse ? order(b.by, a.by) : order(a.by, b.by)));
  return keyed.map(({ item }) => item);
}

export const SEQUENCE_FILTERS: Readonly<Record<string, Filter>> = {
  length: lengthFilter,
  count: lengthFilter,
  list: (value, args) => {
    bind('list', args, []);
    return new List([...iterate(value)]);
  },
  first: (value, args) => {
    bind('first', args, []);
    for (const item of iterate(value)) return item;
    return new Undefined('the first of nothing');
  },
  last: (value, args) => {
    bind('last', args, []);
    if (value instanceof Lazy || (value instanceof View && value.type === 'generator'))
      throw new TemplateRuntimeError(`'${typeName(value)}' object is not reversible`);
    const items = [...iterate(value)];
    return items.length > 0 ? (items.at(-1) ?? null) : new Undefined('the last of nothing');
  },
  join: (value, args) => {
    const { d = '', attribute = null } = bind('join', args, ['d', 'attribute']);
    const get = attributeGetter(attribute);
    return [...iterate(value)].map((item) => toText(get(item))).join(toText(d));
  },
  reverse: (value, args) => {
    bind('reverse', args, []);
    if (typeof value === 'string') return pointsOf(value).reverse().join('');
    return new Lazy([...iterate(value)].reverse());
  },
  select: selection('select', false, true),
  reject: selection('reject', false, false),
  selectattr: selection('selectattr', true, true),
  rejectattr: selection('rejectattr', true, false),
  min: extreme('min'),
  max: extreme('max'),
  sum: (value, args) => {
    const { attribute = null, start = 0n } = bind('sum', args, ['attribute', 'start']);
    const get = attributeGetter(attribute);
    let sum = start;
    for (const item of iterate(value)) sum = arithmetic('+', sum, get(item));
    return sum;
  },
  sort: (value, args) => {
    const names = ['reverse', 'case_sensitive', 'attribute'] as const;
    const { reverse = false, case_sensitive = false, attribute = null } = bind('sort', args, names);
    if (typeof attribute === 'string' && attribute.includes(','))
      throw new UnsupportedError('sort by several attributes');
    return new List(sorted(iterate(value), key(attribute, case_sensitive), isTrue(reverse)));
  },
  unique: (value, args) => {
    const { case_sensitive = false, attribute = null } = bind('unique', args, [
      'case_sensitive',
      'attribute',
    ]);
    const get = key(attribute, case_sensitive);
    const seen = new Dict();
    const kept: Value[] = [];
    for (const item of iterate(value)) {
      const by = get(item);
      if (seen.has(by)) continue;
      seen.set(by, true);
      kept.push(item);
    }
    return new Lazy(kept);
  },
  dictsort: (value, args) => {
    const names = ['case_sensitive', 'by', 'reverse'] as const;
    const { case_sensitive = false, by = 'key', reverse = false } = bind('dictsort', args, names);
    if (!(value instanceof Dict)) throw new TemplateRuntimeError('dictsort is for mappings');
    if (by !== 'key' && by !== 'value') throw new TemplateRuntimeError('dictsort by key or value');
    const get = key(by === 'key' ? 0n : 1n, case_sensitive);
    return new List(
      sorted(
        value.entries().map((entry) => new Tuple(entry)),
        get,
        isTrue(reverse),
      ),
    );
  },
  batch: (value, args) => {
    const { linecount = 0n, fill_with = null } = bind('batch', args, ['linecount', 'fill_with']);
    const size = wholeOf(linecount, 'batch');
    if (size < 1) throw new TemplateRuntimeError('batch needs a size');
    const items = [...iterate(value)];
    const batches: Value[] = [];
    for (let at = 0; at < items.length; at += size) {
      const batch = items.slice(at, at + size);
      while (fill_with !== null && batch.length < size) batch.push(fill_with);
      batches.push(new List(batch));
    }
    return new Lazy(batches);
  },
};
