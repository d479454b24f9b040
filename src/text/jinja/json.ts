// The filter `tojson` as transformers has it: Python's json.dumps, without escapes for HTML.

import { bind } from './arguments.js';
import { TemplateRuntimeError } from './errors.js';
import {
  type CallArguments,
  Dict,
  floatText,
  isTrue,
  List,
  order,
  Tuple,
  typeName,
  type Value,
} from './values.js';

interface Style {
  readonly asciiOnly: boolean;
  readonly sortsKeys: boolean;
  /** What a level is indented by; undefined for one line. */
  readonly indent: string | undefined;
  readonly between: string;
  readonly afterKey: string;
}

export function toJson(value: Value, args: CallArguments): string {
  const names = ['ensure_ascii', 'indent', 'separators', 'sort_keys'] as const;
  const {
    ensure_ascii = false,
    indent = null,
    separators = null,
    sort_keys = false,
  } = bind('tojson', args, names);
  const step =
    typeof indent === 'string'
      ? indent
      : indent === null
        ? undefined
        : ' '.repeat(Math.max(0, Number(indent)));
  let [between, afterKey] = step === undefined ? [', ', ': '] : [',', ': '];
  if (separators !== null) {
    const given = separators instanceof List || separators instanceof Tuple ? separators.items : [];
    const [first, second] = given;
    if (typeof first !== 'string' || typeof second !== 'string' || given.length !== 2)
      throw new TemplateRuntimeError('tojson: separators are two texts');
    [between, afterKey] = [first, second];
  }
  const style = {
    asciiOnly: isTrue(ensure_ascii),
    sortsKeys: isTrue(sort_keys),
    indent: step,
    between,
    afterKey,
  };
  return dump(value, style, '\n');
}

function dump(value: Value, style: Style, lineStart: string): string {
  if (value === null) return 'null';
  if (typeof value === 'boolean') return String(value);
  if (typeof value === 'string') return quote(value, style);
  if (typeof value === 'bigint') return value.toString();
  if (typeof value === 'number') return numberText(value);
  if (value instanceof List || value instanceof Tuple) {
    const parts = (start: string) => value.items.map((item) => dump(item, style, start));
    return enclose('[]', { count: value.items.length, parts }, style, lineStart);
  }
  if (value instanceof Dict) {
    const entries = value.entries();
    if (style.sortsKeys) entries.sort(([a], [b]) => order(a, b));
    const parts = (start: string) =>
      entries.map(
        ([key, item]) => `${quote(keyText(key), style)}${style.afterKey}${dump(item, style, start)}`,
      );
    return enclose('{}', { count: entries.length, parts }, style, lineStart);
  }
  throw new TemplateRuntimeError(`Object of type ${typeName(value)} is not JSON serializable`);
}

interface Parts {
  readonly count: number;
  /** @param lineStart a line break, and the indent of the part */
  readonly parts: (lineStart: string) => readonly string[];
}

function enclose(
  brackets: '[]' | '{}',
  { count, parts }: Parts,
  { indent, between }: Style,
  lineStart: string,
): string {
  const [open, close] = brackets;
  if (count === 0) return brackets;
  if (indent === undefined) return open + parts(lineStart).join(between) + close;
  const inner = lineStart + indent;
  return open + inner + parts(inner).join(between + inner) + lineStart + close;
}

function keyText(key: Value): string {
  if (typeof key === 'string') return key;
  if (typeof key === 'boolean' || key === null) return String(key);
  if (typeof key === 'bigint') return key.toString();
  if (typeof key === 'number') return numberText(key);
  throw new TemplateRuntimeError(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

function numberText(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? 'Infinity' : '-Infinity';
  return floatText(value);
}

const SHORT: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
  '\f': '\\f',
  '\b': '\\b',
};
const unicode = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;

function quote(text: string, { asciiOnly }: Style): string {
  const escaped = text.replace(
    /["\\\p{Cc}]/gu,
    (character) => SHORT[character] ?? (character < ' ' ? unicode(character) : character),
  );
  // Python escapes each half of a surrogate pair, and DEL not at all.
  return `"${asciiOnly ? escaped.replace(/[\u0080-\uffff]/g, unicode) : escaped}"`;
}
