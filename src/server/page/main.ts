// The page: its panes, and the live stream for as long as it is looked at.

import type { LiveFrame, LiveHello } from '../live-frame.js';
import { setUpChat } from './chat.js';
import { setUpCompletion } from './completion.js';
import { byId } from './dom.js';
import { EngineView } from './engine-view.js';
import { ask, eventsOf } from './server-access.js';

const PANES = ['chat', 'completion', 'engine'] as const;
type Pane = (typeof PANES)[number];
const RETRY_MS = 2000;

let model = '';

function show(wanted: Pane, focuses = false): void {
  for (const pane of PANES) {
    const tab = byId(`tab-${pane}`, HTMLButtonElement);
    tab.setAttribute('aria-selected', String(pane === wanted));
    tab.tabIndex = pane === wanted ? 0 : -1;
    if (pane === wanted && focuses) tab.focus();
    if (pane !== 'engine' && wanted !== 'engine') byId(pane, HTMLElement).hidden = pane !== wanted;
  }
  document.body.classList.toggle('shows-engine', wanted === 'engine');
}

function setUpTabs(): void {
  for (const [index, pane] of PANES.entries()) {
    const tab = byId(`tab-${pane}`, HTMLButtonElement);
    tab.addEventListener('click', () => show(pane));
    tab.addEventListener('keydown', ({ key }) => {
      const step = key === 'ArrowRight' ? 1 : key === 'ArrowLeft' ? -1 : 0;
      const tabs = PANES.filter((one) => byId(`tab-${one}`, HTMLButtonElement).offsetParent !== null);
      const next = tabs[(tabs.indexOf(pane) + step + tabs.length) % tabs.length] ?? PANES[index];
      if (step !== 0 && next) show(next, true);
    });
  }
  // A phone shows the engine in place of the chat; where there is room for both, it has no tab.
  matchMedia('(max-width: 60rem)').addEventListener('change', () => {
    if (document.body.classList.contains('shows-engine')) show('chat');
  });
}

function tell(state: 'live' | 'lost' | '', text: string): void {
  const shown = byId('state', HTMLElement);
  if (shown.textContent !== text) shown.textContent = text;
  shown.className = `state ${state}`;
}

const view = new EngineView();

async function follow(signal: AbortSignal): Promise<void> {
  for await (const data of eventsOf(await ask('/live', undefined, signal))) {
    const event = JSON.parse(data) as LiveHello | LiveFrame;
    if ('tiers' in event) {
      model = event.model;
      byId('model', HTMLElement).textContent = event.model;
      document.title = `${event.model} · zero-inference`;
      view.begin(event);
      tell('live', 'live');
    } else view.draw(event);
  }
}

/** Nobody looks at a page in the background, and the engine has better things to do. */
async function followWhileSeen(): Promise<void> {
  for (;;) {
    const left = new AbortController();
    const onHide = () => {
      if (document.hidden) left.abort();
    };
    document.addEventListener('visibilitychange', onHide);
    try {
      if (!document.hidden) await follow(left.signal);
    } catch (error) {
      if (!left.signal.aborted) tell('lost', error instanceof Error ? error.message : 'not reachable');
    } finally {
      document.removeEventListener('visibilitychange', onHide);
    }
    if (document.hidden) await shownAgain();
    else {
      tell('lost', 'not reachable: trying again');
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

function shownAgain(): Promise<void> {
  return new Promise((resolve) => {
    document.addEventListener('visibilitychange', () => resolve(), { once: true });
  });
}

setUpTabs();
setUpChat(() => model);
setUpCompletion(() => model);
void followWhileSeen();
