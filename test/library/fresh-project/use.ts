// What a strict TypeScript project sees of the package: all of this compiles.

import {
  type Engine,
  ERROR_CODES,
  type ErrorCode,
  type Generation,
  type GenerationResult,
  type OpenOptions,
  OperatingError,
  open,
  type Piece,
  type Prompt,
  type Score,
} from 'zero-inference';

export async function use(folder: string, signal: AbortSignal): Promise<string> {
  const options: OpenOptions = {
    device: 'cpu',
    dramMemory: '2GiB',
    maxSequences: undefined,
    logger: console,
    signal,
  };
  const engine: Engine = await open(folder, options);
  const prompts: Prompt[] = ['text', { tokens: [1, 2] }, { messages: [{ role: 'user', content: 'Hello' }] }];
  const texts: Generation[] = prompts.map((prompt) =>
    engine.generate(prompt, { maxNewTokens: 3, stop: ['\n'], logProbs: true, signal }),
  );
  let all = '';
  for (const text of texts) {
    for await (const piece of text) {
      const { text: words, tokens, logProbs = [] }: Piece = piece;
      all += words + tokens.length + logProbs.length;
    }
    const result: GenerationResult = await text.result;
    const reason: 'stop' | 'length' | 'cancelled' = result.finishReason;
    all += reason + (result.seed ?? '');
    text.cancel();
  }
  const score: Score = await engine.score({ tokens: Int32Array.of(1, 2) });
  const ids: number[] = await engine.tokenize('text', { specialTokens: false });
  all += engine.detokenize(ids) + score.nll + engine.info.placement;
  await engine[Symbol.asyncDispose]();
  return all;
}

export async function disposed(folder: string): Promise<void> {
  await using engine = await open(folder);
  await engine.generate('text').result.catch((error: unknown) => {
    if (!(error instanceof OperatingError)) throw error;
    const code: ErrorCode = error.code;
    return ERROR_CODES[code].meaning;
  });
}
