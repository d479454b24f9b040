// The text that a prompt has alone: by the reference, one token after the other.

import { present } from '../../offload/errors.js';
import { pagesFor } from '../../offload/model/kv-cache.js';
import { hasStates } from '../../offload/model/state-cache.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import type { Scenario } from './scenario.js';
import { CONTEXT_TOKENS } from './toy-model.js';

export function expectedTokens(
  { plan, reference, toy }: Scenario,
  { promptTokens }: GenerationRequest,
  length: number,
): number[] {
  const each = pagesFor(CONTEXT_TOKENS, plan.pageTokens);
  const pages = Array.from({ length: each }, (_, page) => page);
  const tokens: number[] = [];
  let [fed, startPosition] = [promptTokens, 0];
  while (tokens.length < length) {
    const stateSlot = hasStates(toy.model.caches) ? 0 : undefined;
    const slices = [{ startPosition, tokens: fed, pages, stateSlot }];
    const [output] = reference.run(0, { slices, outputs: Int32Array.of(fed.length - 1) });
    startPosition += fed.length;
    fed = Int32Array.of(present(output, 'output').token);
    tokens.push(...fed);
  }
  return tokens;
}
