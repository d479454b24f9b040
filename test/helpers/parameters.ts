// Finds what takes many positional parameters: functions, methods, constructors, arrow functions and their types.

/** Words before a declaration's name at the beginning of its line. */
const MODIFIER = /(?:export|async|static|private|public|protected|override|abstract|get|set)\s+/;
/** What may declare at the beginning of a line, or anywhere after `function` or `new`; ends before its parameters. */
const DECLARATION = new RegExp(
  `(?:(?<=\\n)[ \\t]*(?:${MODIFIER.source})*(?:function\\s*\\*?\\s*)?|\\b(?:function|new)\\s*\\*?\\s*)(#?[\\w$]*)\\s*(?:<[^()]*>)?\\(`,
  'g',
);
const NO_DECLARATION = /^(?:if|for|while|switch|catch|return|await|typeof|super|case)$/;
/** What follows a list of parameters: a body, or the type of a result. */
const AFTER_DECLARATION = /^\s*(?:\{|:)/;
const AFTER_ARROW_PARAMETERS = /^\s*(?::[^=;{}()]*)?=>/;

interface LongList {
  readonly name: string;
  readonly count: number;
}

/** @param code without comments, and with the contents of its strings blanked */
export function longParameterLists(code: string, most: number): LongList[] {
  const found: LongList[] = [];
  const declared = new Map<number, string>();
  for (const match of code.matchAll(DECLARATION)) {
    const name = match[1] ?? '';
    if (!NO_DECLARATION.test(name)) declared.set(match.index + match[0].length - 1, name);
  }
  for (let open = code.indexOf('('); open >= 0; open = code.indexOf('(', open + 1)) {
    const { close, count } = listAt(code, open);
    if (count <= most) continue;
    const after = code.slice(close + 1);
    const name = declared.get(open);
    if (name !== undefined && AFTER_DECLARATION.test(after)) found.push({ name: name || 'function', count });
    else if (AFTER_ARROW_PARAMETERS.test(after)) found.push({ name: nameBefore(code, open), count });
  }
  return found;
}

/** Where the list that opens there closes, and how many parts it has: commas inside brackets divide nothing. */
function listAt(code: string, open: number): { readonly close: number; readonly count: number } {
  let [depth, commas, isEmpty] = [0, 0, true];
  for (let at = open; at < code.length; at++) {
    const char = code[at] ?? '';
    const isArrow = char === '>' && code[at - 1] === '=';
    if ('([{<'.includes(char)) depth++;
    else if (')]}>'.includes(char) && !isArrow) depth--;
    if (depth === 0) return { close: at, count: commas + (isEmpty ? 0 : 1) };
    if (depth === 1 && char === ',') [commas, isEmpty] = [commas + 1, true];
    else if (at > open && /\S/.test(char)) isEmpty = false;
  }
  return { close: code.length, count: 0 };
}

/** The name of an arrow function or a type: what it is assigned to. */
function nameBefore(code: string, open: number): string {
  return (
    /([\w$]+)\??\s*(?:[:=]\s*|:[^=\n]*=\s*)(?:async\s*)?(?:<[^()]*>)?$/.exec(code.slice(0, open))?.[1] ??
    'arrow'
  );
}
