// Drawing a token in float64, step by step as transformers' processors do it.

import { NO_TOKEN } from '../../offload/port/ops.js';
import type { Values, Written } from './reference-values.js';

interface Candidate {
  readonly token: number;
  readonly logit: number;
}

/** As in offload/port/ops.ts. */
export interface DrawTables {
  readonly settings: Values;
  readonly draws: Values;
  readonly history: Values;
  readonly added:
    | { readonly entriesOf: Values; readonly tokens: Values; readonly values: Values }
    | undefined;
  readonly allowed: { readonly maskOf: Values; readonly masks: Values } | undefined;
}

export function drawTokens(out: Values, logits: Values, tables: DrawTables): Written {
  const { settings, draws, history, added, allowed } = tables;
  for (let r = 0; r < logits.size(0); r++) {
    const [temperature, topP, minP, penalty] = fourOf(settings, r);
    const [topK, bits, first, count] = fourOf(draws, r);
    const seen = new Set(Array.from({ length: count }, (_, i) => history.get(first + i)));
    const row = Array.from({ length: logits.size(1) }, (_, token) => logits.get(r, token));
    if (!row.every(Number.isFinite)) {
      out.set(NO_TOKEN, r);
      continue;
    }
    const mask = allowed?.maskOf.get(r) ?? -1;
    const mayBe = (token: number) =>
      mask < 0 || ((allowed?.masks.get(mask, token >> 5) ?? 0) & (1 << (token & 31))) !== 0;
    const [begin, entries] = added ? [added.entriesOf.get(r, 0), added.entriesOf.get(r, 1)] : [0, 0];
    const addends = new Map(
      Array.from({ length: entries }, (_, i) => [added?.tokens.get(begin + i), added?.values.get(begin + i)]),
    );
    const candidates = row.map((logit, token): Candidate => {
      if (!mayBe(token)) return { token, logit: Number.NEGATIVE_INFINITY };
      const penalized = seen.has(token) ? Math.fround(logit > 0 ? logit / penalty : logit * penalty) : logit;
      return { token, logit: Math.fround(penalized + (addends.get(token) ?? 0)) };
    });
    const uniform = ((bits >>> 0) + 0.5) / 2 ** 32;
    out.set(draw(candidates, { temperature, topK, topP, minP, uniform }), r);
  }
  return out.written;
}

/** The largest logits of each row, of equal ones the lower token first. */
export function topTokens(tokens: Values, values: Values, logits: Values): Written[] {
  for (let r = 0; r < logits.size(0); r++) {
    const row = Array.from({ length: logits.size(1) }, (_, token) => ({
      token,
      logit: logits.get(r, token),
    }));
    const found = row.filter(({ logit }) => !Number.isNaN(logit));
    found.sort((a, b) => compare(b.logit, a.logit) || a.token - b.token);
    for (let place = 0; place < tokens.size(1); place++) {
      const { token, logit } = found[place] ?? { token: NO_TOKEN, logit: Number.NEGATIVE_INFINITY };
      tokens.set(token, r, place);
      values.set(logit, r, place);
    }
  }
  return [tokens.written, values.written];
}

export interface DrawOptions {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly uniform: number;
}

function draw(candidates: readonly Candidate[], options: DrawOptions): number {
  const ranked = [...candidates].sort((a, b) => compare(b.logit, a.logit) || a.token - b.token);
  const best = ranked[0] ?? { token: 0, logit: 0 };
  if (options.temperature === 0 || best.logit === Number.NEGATIVE_INFINITY) return best.token;
  let kept = weighted(ranked, best.logit, options.temperature);
  if (options.topK > 0) {
    const least = ranked[Math.min(options.topK, ranked.length) - 1]?.logit ?? Number.NEGATIVE_INFINITY;
    kept = kept.filter(({ logit }) => logit >= least);
  }
  if (options.topP < 1) {
    const total = kept.reduce((sum, { weight }) => sum + weight, 0);
    let before = 0;
    kept = kept.filter(({ weight }, index) => {
      const stays = index === 0 || before < options.topP * total;
      before += weight;
      return stays;
    });
  }
  kept = kept.filter(({ weight }) => weight >= options.minP);
  const total = kept.reduce((sum, { weight }) => sum + weight, 0);
  let sum = 0;
  for (const { token, weight } of kept.sort((a, b) => a.token - b.token)) {
    sum += weight;
    if (sum > options.uniform * total) return token;
  }
  return -1;
}

function compare(a: number, b: number): number {
  return a < b ? -1 : Number(a > b);
}

function weighted(ranked: readonly Candidate[], maximum: number, temperature: number) {
  return ranked.map((candidate) => {
    const distance = candidate.logit === maximum ? 0 : candidate.logit - maximum;
    return { ...candidate, weight: Math.exp(distance / temperature) };
  });
}

function fourOf(table: Values, row: number): [number, number, number, number] {
  return [table.get(row, 0), table.get(row, 1), table.get(row, 2), table.get(row, 3)];
}
