// Asking the server: with the key where one is needed, which is kept as long as this tab lives.

import { byId } from './dom.js';

const KEY = 'zero-inference key';

/** What the server said instead of an answer. */
export class Refused extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Asks for the key as often as it takes. Rejects with Refused for any other refusal. */
export async function ask(path: string, body: object | undefined, signal: AbortSignal): Promise<Response> {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await fetch(path, {
      signal,
      method: body ? 'POST' : 'GET',
      headers: {
        ...(key ? { authorization: `Bearer ${key}` } : {}),
        ...(body ? { 'content-type': 'application/json' } : {}),
      },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    if (response.ok) return response;
    const message = await messageOf(response);
    if (response.status !== 401) throw new Refused(response.status, message);
    await askForKey(key === null ? '' : message);
  }
}

async function messageOf(response: Response): Promise<string> {
  try {
    const { error } = (await response.json()) as { error?: { message?: string } };
    return error?.message ?? `the server answers with status ${response.status}`;
  } catch {
    return `the server answers with status ${response.status}`;
  }
}

let asking: Promise<void> | undefined;

/** One dialog, however many requests wait for the key. */
function askForKey(problem: string): Promise<void> {
  asking ??= new Promise<void>((resolve) => {
    const dialog = byId('key-dialog', HTMLDialogElement);
    const input = byId('key', HTMLInputElement);
    byId('key-problem', HTMLElement).textContent = problem;
    input.value = '';
    dialog.addEventListener('cancel', (event) => event.preventDefault());
    dialog.addEventListener(
      'close',
      () => {
        sessionStorage.setItem(KEY, input.value.trim());
        asking = undefined;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

/** The data of server-sent events, one after the other. */
export async function* eventsOf(response: Response): AsyncGenerator<string, void> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const data = text
          .slice(0, end)
          .split('\n')
          .flatMap((line) => (line.startsWith('data:') ? [line.slice(5).trimStart()] : []));
        text = text.slice(end + 2);
        if (data.length > 0) yield data.join('\n');
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
