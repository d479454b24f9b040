// A headless Chromium over the DevTools protocol, by pipes: neither a library nor a port is needed.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout } from 'node:timers/promises';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];

/** The program; undefined where there is none, and tests of the page are skipped. */
export const CHROMIUM = NAMES.find((name) => spawnSync(name, ['--version']).status === 0);

type Json = Readonly<Record<string, unknown>>;

interface Waiting {
  readonly resolve: (result: Json) => void;
  readonly reject: (error: Error) => void;
}

export class Browser {
  readonly #process: ChildProcess;
  readonly #input: Writable;
  readonly #profile = mkdtempSync(join(tmpdir(), 'zero-inference-chromium-'));
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners: ((method: string, params: Json, session: string | undefined) => void)[] = [];
  #next = 1;
  #rest = '';

  constructor() {
    const words = [
      '--headless=new',
      '--remote-debugging-pipe',
      '--no-sandbox',
      '--disable-gpu',
      '--hide-scrollbars',
      '--no-first-run',
      `--user-data-dir=${this.#profile}`,
      'about:blank',
    ];
    this.#process = spawn(CHROMIUM ?? '', words, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
    this.#input = this.#process.stdio[3] as Writable;
    const output = this.#process.stdio[4] as Readable;
    output.setEncoding('utf8').on('data', (text: string) => this.#take(text));
    this.#input.on('error', () => undefined);
  }

  async open(url: string): Promise<Page> {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, String(sessionId));
    await page.begin(url);
    return page;
  }

  send(method: string, params: Json = {}, sessionId?: string): Promise<Json> {
    const id = this.#next++;
    const message = { id, method, params, ...(sessionId === undefined ? {} : { sessionId }) };
    this.#input.write(`${JSON.stringify(message)}\0`);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
    });
  }

  onEvent(listener: (method: string, params: Json, session: string | undefined) => void): void {
    this.#listeners.push(listener);
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.on('exit', resolve));
    this.#process.kill('SIGKILL');
    await ended;
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 });
  }

  #take(text: string): void {
    const messages = (this.#rest + text).split('\0');
    this.#rest = messages.pop() ?? '';
    for (const message of messages) this.#enter(JSON.parse(message));
  }

  #enter({ id, result, error, method, params, sessionId }: Json): void {
    if (typeof id !== 'number') {
      for (const listener of this.#listeners)
        listener(String(method), (params ?? {}) as Json, sessionId as string | undefined);
      return;
    }
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) waiting?.reject(new Error(JSON.stringify(error)));
    else waiting?.resolve((result ?? {}) as Json);
  }
}

export interface View {
  readonly width: number;
  readonly height: number;
  readonly dark?: boolean;
  readonly isPhone?: boolean;
}

export class Page {
  readonly #browser: Browser;
  readonly #session: string;
  /** What went wrong in the page, and what its policy has kept it from. */
  readonly problems: string[] = [];
  /** Everything that it asked for. */
  readonly requests: string[] = [];

  constructor(browser: Browser, session: string) {
    this.#browser = browser;
    this.#session = session;
    browser.onEvent((method, params, of) => {
      if (of === session) this.#note(method, params);
    });
  }

  async begin(url: string): Promise<void> {
    for (const domain of ['Page', 'Runtime', 'Network', 'Log']) await this.#send(`${domain}.enable`);
    await this.#send('Page.navigate', { url });
    await this.until('document.readyState === "complete"');
  }

  async look({ width, height, dark = false, isPhone = false }: View): Promise<void> {
    const metrics = { width, height, deviceScaleFactor: isPhone ? 2 : 1, mobile: isPhone };
    await this.#send('Emulation.setDeviceMetricsOverride', metrics);
    const features = [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }];
    await this.#send('Emulation.setEmulatedMedia', { features });
  }

  /** The value of an expression. Rejects with what it throws. */
  async value<T>(expression: string): Promise<T> {
    const asked = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.#send('Runtime.evaluate', asked);
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
    return (result as { value: T }).value;
  }

  /** Resolves when the expression is true. */
  async until(expression: string): Promise<void> {
    for (;;) {
      // A page that is just being replaced has nothing to say.
      if (await this.value<boolean>(`Boolean(${expression})`).catch(() => false)) return;
      await setTimeout(20);
    }
  }

  async click(selector: string): Promise<void> {
    await this.value(`document.querySelector(${JSON.stringify(selector)}).click()`);
  }

  /** As somebody types it. */
  async type(selector: string, text: string): Promise<void> {
    await this.value(`document.querySelector(${JSON.stringify(selector)}).focus()`);
    await this.#send('Input.insertText', { text });
  }

  async press(key: string): Promise<void> {
    for (const type of ['keyDown', 'keyUp']) {
      const text = key === 'Enter' && type === 'keyDown' ? { text: '\r' } : {};
      const code = key === 'Enter' ? { windowsVirtualKeyCode: 13 } : {};
      await this.#send('Input.dispatchKeyEvent', { type, key, code: key, ...text, ...code });
    }
  }

  async screenshot(path: string): Promise<void> {
    const { data } = await this.#send('Page.captureScreenshot', { format: 'png' });
    writeFileSync(path, Buffer.from(String(data), 'base64'));
  }

  #send(method: string, params: Json = {}): Promise<Json> {
    return this.#browser.send(method, params, this.#session);
  }

  #note(method: string, params: Json): void {
    if (method === 'Runtime.exceptionThrown') this.problems.push(JSON.stringify(params));
    if (method === 'Network.requestWillBeSent') this.requests.push((params.request as { url: string }).url);
    if (method !== 'Log.entryAdded') return;
    const { level, source, text, url } = params.entry as Record<'level' | 'source' | 'text' | 'url', string>;
    // A refusal that the page asked for is its answer.
    if (level === 'error' && source !== 'network') this.problems.push(`${text} ${url ?? ''}`);
  }
}
