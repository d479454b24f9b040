// Arguments of filters, tests and methods, by place or by name, as Python's signatures take them.

import { TemplateRuntimeError } from './errors.js';
import { type CallArguments, isNumber, toText, typeName, Undefined, type Value } from './values.js';

/** The values of a signature's parameters; undefined where none was given. */
export function bind<Name extends string>(
  what: string,
  { positional, named }: CallArguments,
  names: readonly Name[],
): Partial<Record<Name, Value>> {
  if (positional.length > names.length)
    throw new TemplateRuntimeError(`${what} takes ${names.length} arguments, not ${positional.length}`);
  const bound: Partial<Record<Name, Value>> = {};
  for (const [index, value] of positional.entries()) {
    const name = names[index];
    if (name !== undefined) bound[name] = value;
  }
  for (const [name, value] of named) {
    const known = names.find((one) => one === name);
    if (known === undefined) throw new TemplateRuntimeError(`${what} has no argument '${name}'`);
    if (known in bound) throw new TemplateRuntimeError(`${what} got two values for '${name}'`);
    bound[known] = value;
  }
  return bound;
}

/** The arguments of a method, which have no names. */
export function bindPlaces(what: string, args: CallArguments, least: number, most: number): readonly Value[] {
  if (args.named.size > 0) throw new TemplateRuntimeError(`${what} takes no keyword arguments`);
  const count = args.positional.length;
  if (count < least || count > most) throw new TemplateRuntimeError(`${what} got ${count} arguments`);
  return args.positional;
}

/** A whole number. Throws TemplateRuntimeError for any other value; `what` names the argument. */
export function wholeOf(value: Value, what: string): number {
  if (typeof value === 'bigint' || typeof value === 'boolean') return Number(value);
  if (value instanceof Undefined) throw value.error;
  throw new TemplateRuntimeError(`${what}: '${typeName(value)}' is no whole number`);
}

/** The same where none or nothing stands for a default. */
export function optionalWhole(value: Value | undefined, what: string): number | undefined {
  return value === undefined || value === null ? undefined : wholeOf(value, what);
}

export function textOf(value: Value, what: string): string {
  if (typeof value === 'string') return value;
  if (value instanceof Undefined) throw value.error;
  throw new TemplateRuntimeError(`${what}: expected a text, not '${typeName(value)}'`);
}

/** What filters on texts do with other values. */
export const soft = toText;

export function numberOf(value: Value, what: string): number {
  if (isNumber(value)) return Number(value);
  throw new TemplateRuntimeError(`${what}: '${typeName(value)}' is no number`);
}
