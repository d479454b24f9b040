// Which version of the program this is.

import { readFileSync } from 'node:fs';

export function packageVersion(): string {
  // The sources and dist/ lie at different depths.
  for (const up of ['../../', '../../../']) {
    try {
      const text = readFileSync(new URL(`${up}package.json`, import.meta.url), 'utf8');
      return (JSON.parse(text) as { version: string }).version;
    } catch {
      // Try the next one.
    }
  }
  return 'unknown';
}
