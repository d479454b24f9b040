// JSON schemas as the grammar library gets them right: what it would ignore is refused, and patterns stay within a string.

import { OperatingError } from '../../offload/index.js';
import { patternWithinString } from './string-pattern.js';

/** A JSON schema: an object, or whether anything goes. */
export type Schema = boolean | { readonly [keyword: string]: unknown };

/** The library takes no notice of these, so texts would not obey them. */
const NOT_OBEYED = [
  'not',
  'if',
  'then',
  'else',
  'multipleOf',
  'uniqueItems',
  'contains',
  'minContains',
  'maxContains',
  'dependentRequired',
  'dependentSchemas',
  'dependencies',
] as const;

/** Values, in which keywords mean nothing. */
const VALUES = new Set(['const', 'enum', 'default', 'examples', 'example']);
/** Schemas by name, where names mean nothing. */
const BY_NAME = new Set(['properties', '$defs', 'definitions', 'patternProperties']);
/** A value within a value, this deep, is deeper than what anybody writes. */
const MOST_DEPTH = 64;

/** Throws BAD_INPUT for what cannot be obeyed. */
export function wellFormedSchema(schema: Schema): Schema {
  return prepared(schema, '#', 0) as Schema;
}

function prepared(schema: unknown, at: string, depth: number): unknown {
  if (depth > MOST_DEPTH) throw refused(at, `lies more than ${MOST_DEPTH} schemas deep`);
  if (Array.isArray(schema)) return schema.map((one, index) => prepared(one, `${at}/${index}`, depth + 1));
  if (typeof schema !== 'object' || schema === null) return schema;
  const fields = Object.entries(schema).map(([key, value]): [string, unknown] => {
    const place = `${at}/${key}`;
    if (VALUES.has(key)) return [key, value];
    if ((NOT_OBEYED as readonly string[]).includes(key)) throw refused(place, 'is not supported');
    if (key === 'allOf' && Array.isArray(value) && value.length > 1)
      throw refused(place, 'has several schemas, which is not supported: merge them into one');
    if (key === 'pattern' && typeof value === 'string') return [key, withinString(value, place)];
    if (!BY_NAME.has(key) || typeof value !== 'object' || value === null)
      return [key, prepared(value, place, depth + 1)];
    const named = Object.entries(value).map(([name, one]): [string, unknown] => [
      key === 'patternProperties' ? withinString(name, place) : name,
      prepared(one, `${place}/${name}`, depth + 1),
    ]);
    return [key, Object.fromEntries(named)];
  });
  return Object.fromEntries(fields);
}

function withinString(pattern: string, at: string): string {
  const result = patternWithinString(pattern);
  if (result === undefined)
    throw refused(at, 'is a pattern that is not supported: write it without \\S, \\W and \\D within [ ]');
  return result;
}

function refused(at: string, what: string): OperatingError {
  return new OperatingError('BAD_INPUT', `${at} of the JSON schema ${what}`);
}
