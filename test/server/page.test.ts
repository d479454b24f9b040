// The page would not work in a browser: chats, texts, the live engine, the key; on a phone, in the dark, and under its policy.

import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Trace } from '../../offload/index.js';
import { ServerExtras } from '../../src/server/extras.js';
import { LiveFeed } from '../../src/server/live-feed.js';
import type { LiveFrame } from '../../src/server/live-frame.js';
import { PAGE_PATHS, pageFile } from '../../src/server/page-files.js';
import { Service } from '../../src/server/service.js';
import { type Served, serve } from '../api/served.js';
import { Browser, CHROMIUM, type Page } from '../helpers/browser.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();
const TEMPLATE = '{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:';
const KEY = 'a-key-of-some-length';
/** Where pictures of the page go, for somebody to look at. */
const PICTURES = process.env.ZI_SCREENSHOTS;

const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
const limits = { requests: 64, requestsOfClient: 64, tokens: Number.POSITIVE_INFINITY, bytes: 1e9 };

interface Running {
  readonly served: Served;
  readonly service: Service;
  readonly extras: ServerExtras;
  readonly url: string;
}

async function start(keys: readonly string[]): Promise<Running> {
  const folder = join(newFolder(), 'model');
  cpSync(modelFolder('shakespeare-bloom'), folder, { recursive: true });
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE);
  const served = await serve(folder, { sequences: 4 });
  const { engine, model } = served;
  const extras = new ServerExtras({ engine, model, data: undefined, log });
  const options = {
    host: '127.0.0.1',
    port: 0,
    keys,
    mostBodyBytes: 1e6,
    limits,
    maxWaitMs: 0,
    drainMs: 100,
    logsBodies: false,
  };
  const service = new Service({ engine, model, log, extra: extras.groups }, options);
  extras.start(service.api);
  return { served, service, extras, url: await service.listen() };
}

async function stop({ served, service, extras }: Running): Promise<void> {
  await extras.close();
  await service.close();
  await served.engine.close();
}

async function picture(page: Page, name: string): Promise<void> {
  if (PICTURES === undefined) return;
  mkdirSync(PICTURES, { recursive: true });
  await page.screenshot(join(PICTURES, `${name}.png`));
}

const DESKTOP = { width: 1280, height: 860 };
const PHONE = { width: 390, height: 844, isPhone: true };

describe.skipIf(CHROMIUM === undefined)('the page in a browser', () => {
  let browser: Browser;
  let running: Running;

  beforeAll(async () => {
    browser = new Browser();
    running = await start([]);
  });

  afterAll(async () => {
    await browser.close();
    await stop(running);
  });

  const chatAt = async (page: Page, text: string) => {
    const before = await page.value<number>('document.querySelectorAll(".message.assistant").length');
    await page.value('document.querySelector("[name=temperature]").value = "0"');
    await page.value('document.querySelector("[name=max_tokens]").value = "24"');
    await page.type('#chat-text', text);
    await page.press('Enter');
    await page.until(`document.querySelectorAll(".message.assistant").length > ${before}`);
    await page.until('document.getElementById("chat-send").textContent === "Send"');
  };

  it('chats as the API does, follows the engine, and asks nobody else for anything', async () => {
    const page = await browser.open(running.url);
    await page.look(DESKTOP);
    await page.until('document.getElementById("state").textContent === "live"');
    expect(await page.value('document.querySelectorAll(".cell").length')).toBe(9);
    await picture(page, 'desktop-empty');
    await chatAt(page, 'Who are you?');
    const shown = await page.value<string>('document.querySelector(".message.assistant > div").textContent');
    const response = await fetch(`${running.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        messages: [{ role: 'user', content: 'Who are you?' }],
        temperature: 0,
        max_tokens: 24,
      }),
    });
    const answer = (await response.json()) as { choices: { message: { content: string } }[] };
    expect(shown).toBe(answer.choices[0]?.message.content.trimStart());
    expect(await page.value('document.getElementById("chat-figures").textContent')).toMatch(
      /^24 tokens · first after/,
    );
    await page.until('document.querySelector("#hops .bar") && document.querySelector("#rate polyline")');
    await chatAt(page, 'And <b>why</b>?\n```\nlet x = 1 < 2;\n```');
    expect(await page.value('document.querySelectorAll(".message b").length')).toBe(0);
    await picture(page, 'desktop-chat');
    await page.look({ ...DESKTOP, dark: true });
    await picture(page, 'desktop-dark');
    expect(page.problems).toEqual([]);
    expect(page.requests.filter((url) => !url.startsWith(running.url))).toEqual([]);
  });

  it('goes on with a text, stops at once, and takes the text back', async () => {
    const page = await browser.open(running.url);
    await page.look(DESKTOP);
    await page.until('document.getElementById("state").textContent === "live"');
    await page.click('#tab-completion');
    await page.type('#completion-text', 'KING RICHARD III:');
    for (const name of ['presence_penalty', 'frequency_penalty'])
      await page.value(`document.querySelector("[name=${name}]").value = "0.5"`);
    await page.value('document.querySelector("[name=max_tokens]").value = "200"');
    await page.click('#completion-send');
    await page.until('document.getElementById("completion-text").value.length > 30');
    await page.click('#completion-send');
    await page.until('document.getElementById("completion-send").textContent === "Continue"');
    await picture(page, 'desktop-completion');
    expect(await page.value('document.getElementById("completion-text").value.length')).toBeLessThan(700);
    await page.click('#completion-undo');
    expect(await page.value('document.getElementById("completion-text").value')).toBe('KING RICHARD III:');
    expect(page.problems).toEqual([]);
  });

  it('says what the server refuses, and keeps what was typed', async () => {
    const page = await browser.open(running.url);
    await page.until('document.getElementById("state").textContent === "live"');
    await page.value('document.querySelector("[name=max_tokens]").value = "99999"');
    await page.type('#chat-text', 'Hello');
    await page.press('Enter');
    await page.until('document.querySelector(".message.error")');
    expect(await page.value('document.querySelector(".message.error").textContent')).toMatch(/99999|context/);
    expect(await page.value('document.getElementById("chat-text").value')).toBe('Hello');
  });

  it.each([320, 390, 768])('fits a screen of %i points, with the engine a tab away', async (width) => {
    const page = await browser.open(running.url);
    await page.look({ ...PHONE, width });
    await page.until('document.getElementById("state").textContent === "live"');
    const overflow = 'document.documentElement.scrollWidth - innerWidth';
    expect(await page.value(overflow)).toBeLessThanOrEqual(0);
    await chatAt(page, 'Who are you?');
    await picture(page, `phone-${width}`);
    expect(await page.value('getComputedStyle(document.getElementById("engine")).display')).toBe('none');
    await page.click('#tab-engine');
    expect(await page.value('getComputedStyle(document.querySelector("main")).display')).toBe('none');
    await page.until('document.querySelector("#rate polyline")');
    expect(await page.value(overflow)).toBeLessThanOrEqual(0);
    await picture(page, `phone-${width}-engine`);
    // Fingers are not as fine as a pointer.
    const small =
      '[...document.querySelectorAll("button")].filter((one) => one.offsetParent && one.offsetHeight < 32).length';
    expect(await page.value(small)).toBe(0);
    expect(page.problems).toEqual([]);
  });

  it('asks for a key where one is needed, says that one is wrong, and goes on with the right one', async () => {
    const guarded = await start([KEY]);
    try {
      const page = await browser.open(guarded.url);
      await page.look(PHONE);
      const give = async (key: string) => {
        await page.until('document.getElementById("key-dialog").open');
        await page.type('#key', key);
        await page.click('#key-form button');
      };
      await page.until('document.getElementById("key-dialog").open');
      await picture(page, 'phone-key');
      await give('a-wrong-key');
      await page.until('document.getElementById("key-problem").textContent !== ""');
      await give(KEY);
      await page.until('document.getElementById("state").textContent === "live"');
    } finally {
      await stop(guarded);
    }
  });

  it('has a name for every control, and one heading for each part', async () => {
    const page = await browser.open(running.url);
    const nameless = `[...document.querySelectorAll('button, input, textarea')].filter((one) =>
      !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim())).map((one) => one.outerHTML)`;
    expect(await page.value(nameless)).toEqual([]);
    // Arrows go from tab to tab.
    await page.value('document.getElementById("tab-chat").focus()');
    await page.press('ArrowRight');
    expect(await page.value('document.activeElement.id')).toBe('tab-completion');
    expect(await page.value('document.getElementById("chat").hidden')).toBe(true);
  });
});

describe('what the page is made of', () => {
  it('is sent by fixed paths alone, and names nothing elsewhere', () => {
    for (const path of PAGE_PATHS) {
      const { content } = pageFile(path);
      expect([path, content.match(/https?:\/\/(?!www\.w3\.org)/g)]).toEqual([path, null]);
    }
    const html = pageFile('/').content;
    expect(html).not.toMatch(/<style|style=|<script(?![^>]*src=)| on\w+=/);
    const named = [...html.matchAll(/(?:src|href)="(\/[^"]*)"/g)].map(([, path]) => path);
    expect(named.filter((path) => !PAGE_PATHS.includes(path ?? '') && path !== '/openapi.json')).toEqual([]);
  });
});

describe('a server without a browser', () => {
  let running: Running;
  beforeAll(async () => {
    running = await start([KEY]);
  });
  afterAll(() => stop(running));

  it('gives every file of the page to everybody, with its type and a policy that lets nothing else in', async () => {
    for (const path of PAGE_PATHS) {
      const response = await fetch(`${running.url}${path}`);
      const { type, content } = pageFile(path);
      expect([path, response.status, response.headers.get('content-type')]).toEqual([path, 200, type]);
      expect(await response.text()).toBe(content);
      const policy = response.headers.get('content-security-policy');
      expect(policy).toContain("default-src 'self'");
      expect(policy).not.toContain('unsafe');
      expect(response.headers.get('x-content-type-options')).toBe('nosniff');
    }
  });

  it('gives modules alone whose imports are files of the page too', () => {
    for (const path of PAGE_PATHS.filter((one) => one.endsWith('.js'))) {
      const imports = [...pageFile(path).content.matchAll(/from '([^']+)'/g)].map(([, name]) => name ?? '');
      const asked = imports.map((name) => new URL(name, `http://page${path}`).pathname);
      expect([path, asked.filter((one) => !PAGE_PATHS.includes(one))]).toEqual([path, []]);
    }
  });

  it('gives no other file, and the live stream for a key alone', async () => {
    for (const path of ['/assets/', '/assets/server/page-files.js', '/assets/..%2f..%2fpackage.json']) {
      const response = await fetch(`${running.url}${path}`, { headers: { authorization: `Bearer ${KEY}` } });
      expect([path, response.status]).toEqual([path, 404]);
    }
    const refused = await fetch(`${running.url}/live`);
    expect([refused.status, refused.headers.get('x-content-type-options')]).toEqual([401, 'nosniff']);
  });

  it('without a folder says what files and batches need', async () => {
    const response = await fetch(`${running.url}/v1/files`, { headers: { authorization: `Bearer ${KEY}` } });
    expect([response.status, await response.json()]).toMatchObject([501, { error: { code: 'no_store' } }]);
  });
});

describe('the live stream', () => {
  it('says nothing of what anybody asks or is answered', async () => {
    const running = await start([]);
    const left = new AbortController();
    const response = await fetch(`${running.url}/live`, { signal: left.signal });
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    const body = JSON.stringify({ prompt: 'KING RICHARD III:', max_tokens: 32, temperature: 0 });
    const asked = fetch(`${running.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    });
    const answer = (await (await asked).json()) as { choices: { text: string }[] };
    while (!/"bytesPerSecond"/.test(text)) text += (await reader?.read())?.value ?? '';
    left.abort();
    await stop(running);
    const words = `KING RICHARD ${answer.choices[0]?.text}`.split(/\W+/).filter((word) => word.length > 3);
    expect(words.length).toBeGreaterThan(2);
    expect(words.filter((word) => text.includes(word))).toEqual([]);
  });

  it('tells of hops since the frame before, and of layers as they move', async () => {
    const trace = new Trace(false);
    const places = new Map([
      ['block 0', 0],
      ['block 1', 1],
    ]);
    const rest = { tokensPerSecond: 0, batch: { sequences: 0, capacity: 1 }, waiting: 0, openRequests: 0 };
    const feed = new LiveFeed({
      trace,
      places,
      limits: new Map([['nvme→dram', 1e15]]),
      rest: () => ({
        ...rest,
        stored: { batches: 0, requests: 0 },
        prefixHitShare: null,
        expertHitShare: null,
      }),
    });
    const span = { owner: 'drive', startMs: 0, endMs: 10, bytes: 1e6 };
    trace.add({ ...span, lane: 'nvme→dram', name: 'block 0' });
    const frame = new Promise<LiveFrame>((resolve) => {
      const end = feed.watch((one) => {
        end();
        resolve(one);
      });
    });
    trace.add({ ...span, lane: 'nvme→dram', name: 'block 1', startMs: 10, endMs: 20 });
    trace.add({ ...span, owner: 'cpu', lane: 'compute', name: 'block 0', startMs: 20, endMs: 30, bytes: 0 });
    const { hops, moved } = await frame;
    expect(moved).toEqual({ drive: [1], link: [], compute: [0] });
    expect(hops).toHaveLength(1);
    expect(hops[0]).toMatchObject({ hop: 'nvme→dram', isMeasured: true, limitBytesPerSecond: 1e15 });
    // One of the two megabytes came before anybody watched.
    expect(hops[0]?.bytesPerSecond).toBeLessThan(1e6 / 0.2);
    expect(feed.watchers).toBe(0);
  });
});
