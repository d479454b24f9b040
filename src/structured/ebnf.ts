// A JSON schema's rules as the library writes them down, mended where texts that obey them would be no JSON.

/** Between two parts of a JSON text, at most. Without a limit, a model that is fond of spaces never ends. */
const MOST_SPACES = 24;

/**
 * Strings of a limited length may hold no control characters; the dot of a number's limit is a dot; spaces have an end. Patterns
 * have no `.` of their own any more (string-pattern.ts), so that any such class is a limit's.
 */
export function mended(rules: string): string {
  const text = rules
    .replaceAll('[^\\"\\\\\\r\\n]', '[^\\0-\\x1f\\"\\\\\\r\\n]')
    .replaceAll('[\\0-\\U0010ffff]', '"."')
    .replaceAll('[ \\n\\t]*', space(0));
  const spaces = Array.from(
    { length: MOST_SPACES },
    (_, count) =>
      `${space(count)} ::= "" | [ \\n\\t]${count + 1 < MOST_SPACES ? ` ${space(count + 1)}` : ''}`,
  );
  return `${text}\n${spaces.join('\n')}\n`;
}

function space(count: number): string {
  return `space_within_json_${count}`;
}
