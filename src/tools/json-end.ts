// Where a JSON object or list ends that more text follows.

/** Behind it; undefined where the text ends before it does, −1 where it can be none. @param start of its `{` or `[` */
export function jsonEnd(text: string, start: number): number | undefined {
  const open: string[] = [];
  for (let at = start; at < text.length; at++) {
    const character = text.charAt(at);
    if (character === '"') {
      const end = stringEnd(text, at);
      if (end === undefined || end < 0) return end;
      at = end - 1;
    } else if (character === '{' || character === '[') {
      open.push(character);
    } else if (character === '}' || character === ']') {
      if (open.pop() !== (character === '}' ? '{' : '[')) return -1;
      if (open.length === 0) return at + 1;
    } else if (!/[\s\d:,.+\-eEtrufalsn]/.test(character)) {
      return -1;
    }
  }
  return undefined;
}

function stringEnd(text: string, start: number): number | undefined {
  for (let at = start + 1; at < text.length; at++) {
    const character = text.charAt(at);
    if (character === '\\') at++;
    else if (character === '"') return at + 1;
    else if (character < ' ') return -1;
  }
  return undefined;
}
