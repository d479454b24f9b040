// `value.name` and `value[key]`, in the order in which Jinja looks: a dot finds Python's attributes before keys.

import { bindPlaces, wholeOf } from './arguments.js';
import { TemplateRuntimeError, UnsupportedError } from './errors.js';
import { PYTHON_ATTRIBUTES } from './known-names.js';
import { STRING_METHODS } from './string-methods.js';
import { pointsOf } from './text.js';
import {
  type CallArguments,
  Callable,
  Dict,
  equal,
  List,
  Members,
  Namespace,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

export function attributeOf(value: Value, name: string): Value {
  if (value instanceof Undefined) throw value.error;
  const own = pythonAttribute(value, name);
  if (own !== undefined) return own;
  const item = value instanceof Dict ? value.get(name) : undefined;
  return item === undefined ? missing(value, name) : item;
}

export function itemOf(value: Value, key: Value): Value {
  if (value instanceof Undefined) throw value.error;
  if (value instanceof Dict) {
    const item = value.get(key);
    if (item !== undefined) return item;
  } else if (typeof key === 'bigint' || typeof key === 'boolean') {
    const items = indexable(value);
    const at = wholeOf(key, 'index');
    const item = items?.at(at);
    if (item !== undefined) return item;
  }
  if (typeof key === 'string') {
    const own = pythonAttribute(value, key);
    if (own !== undefined) return own;
  }
  return missing(value, key);
}

export function indexable(value: Value): readonly Value[] | undefined {
  if (typeof value === 'string') return pointsOf(value);
  if (value instanceof List || value instanceof Tuple) return value.items;
  return value instanceof View && value.type === 'range' ? value.items : undefined;
}

function missing(value: Value, key: Value): Undefined {
  const shown = typeof key === 'string' ? `'${key}'` : typeof key === 'bigint' ? String(key) : typeName(key);
  return new Undefined(`${shown} of a ${typeName(value)}`);
}

function pythonAttribute(value: Value, name: string): Value | undefined {
  if (value instanceof Namespace) return value.members.get(name);
  if (value instanceof Members) return value.member(name);
  if (value instanceof Callable) {
    if (name === 'name') return value.name;
    throw new UnsupportedError(`'${name}' of a function`);
  }
  if (/^__.*__$/.test(name)) throw new UnsupportedError(`the attribute '${name}'`);
  const method = methodOf(value, name);
  if (method) return new Callable(name, method);
  const type = typeName(value) === 'bool' ? 'int' : typeName(value);
  if (PYTHON_ATTRIBUTES[type]?.has(name)) throw new UnsupportedError(`'${name}' of a ${type}`);
  return undefined;
}

function methodOf(value: Value, name: string): ((args: CallArguments) => Value) | undefined {
  if (typeof value === 'string') {
    const method = Object.hasOwn(STRING_METHODS, name) ? STRING_METHODS[name] : undefined;
    return method && ((args) => method(value, args));
  }
  if (value instanceof Dict) {
    const method = Object.hasOwn(DICT_METHODS, name) ? DICT_METHODS[name] : undefined;
    return method && ((args) => method(value, args));
  }
  if (value instanceof List || value instanceof Tuple) {
    const { items } = value;
    if (name === 'count') {
      return (args) => {
        const [sought = null] = bindPlaces(name, args, 1, 1);
        return BigInt(items.filter((item) => equal(item, sought)).length);
      };
    }
    if (name === 'index') {
      return (args) => {
        const [sought = null] = bindPlaces(name, args, 1, 1);
        const at = items.findIndex((item) => equal(item, sought));
        if (at < 0) throw new TemplateRuntimeError('the value is not in the list');
        return BigInt(at);
      };
    }
    if (name === 'copy' && value instanceof List) return () => new List([...items]);
  }
  if (changes(value, name)) {
    return () => {
      throw new TemplateRuntimeError(`'${name}' changes a ${typeName(value)}, which templates may not`);
    };
  }
  return undefined;
}

/** What a sandbox keeps templates from. */
function changes(value: Value, name: string): boolean {
  if (value instanceof List) return /^(append|clear|extend|insert|pop|remove|reverse|sort)$/.test(name);
  return value instanceof Dict && /^(clear|pop|popitem|setdefault|update)$/.test(name);
}

const DICT_METHODS: Readonly<Record<string, (dict: Dict, args: CallArguments) => Value>> = {
  get: (dict, args) => {
    const [key = null, otherwise = null] = bindPlaces('get', args, 1, 2);
    const item = dict.get(key);
    return item === undefined ? otherwise : item;
  },
  items: (dict, args) => {
    bindPlaces('items', args, 0, 0);
    return new View(
      dict.entries().map((entry) => new Tuple(entry)),
      'dict_items',
    );
  },
  keys: (dict, args) => {
    bindPlaces('keys', args, 0, 0);
    return new View(dict.keys(), 'dict_keys');
  },
  values: (dict, args) => {
    bindPlaces('values', args, 0, 0);
    return new View(
      dict.entries().map(([, value]) => value),
      'dict_values',
    );
  },
  copy: (dict, args) => {
    bindPlaces('copy', args, 0, 0);
    return new Dict(dict.entries());
  },
};
