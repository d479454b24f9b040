// Paths in environment variables as Python expands them: a leading ~ or ~user first, then $NAME and ${NAME}.

import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';

/** Environment variables of a process. */
export type Variables = Readonly<Record<string, string | undefined>>;

/** What cannot be expanded stays as it is. An empty text gives undefined, as none does. */
export function expandPath(path: string | undefined, env: Variables): string | undefined {
  if (!path) return undefined;
  return expandVariables(expandUser(path, env), env);
}

function expandUser(path: string, env: Variables): string {
  const [, user, rest = ''] = /^~([^/]*)(.*)$/s.exec(path) ?? [];
  if (user === undefined) return path;
  const home = user === '' ? env.HOME || homedir() : homeOf(user);
  return home === undefined ? path : `${home.replace(/\/+$/, '')}${rest}` || '/';
}

/** Reads the system's own list; users that only a directory service knows are not found. */
function homeOf(user: string): string | undefined {
  try {
    const lines = readFileSync('/etc/passwd', 'utf8').split('\n');
    const entry = lines.map((line) => line.split(':')).find(([name]) => name === user);
    return entry?.[5];
  } catch {
    return undefined;
  }
}

/** What was put in is not expanded again. */
function expandVariables(path: string, env: Variables): string {
  return path.replace(/\$(?:(\w+)|\{([^}]*)\})/g, (whole, name?: string, braced?: string) => {
    return env[name ?? braced ?? ''] ?? whole;
  });
}
