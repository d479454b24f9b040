// What a program sees of this package: every option, result and method. Imports nothing, so that its declarations stand alone.

/// <reference lib="esnext.disposable" preserve="true" />

/** What is used of an `AbortSignal`. */
export interface Signal {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: 'abort', listener: () => void): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

/** Where a logger such as pino's, or `console`, is told what happens. */
export interface Logger {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
}

/** How far a model's files have come before it can be opened. */
export interface OpenProgress {
  /**
   * `download` from the hub; `pack`: weights in fewer bits are made; `copy` to `nvmePath`; `compare`: reading what may be such a copy
   * already.
   */
  readonly phase: 'download' | 'pack' | 'copy' | 'compare';
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** A size in bytes, or a text such as `'12GiB'`, `'500MB'`. */
export type Size = number | string;

/** How a model is opened. All of it is optional. */
export interface OpenOptions {
  /**
   * `generate` (the default): the engine makes texts. `score`: it tells how likely texts are, for which it keeps memory
   * in another way, so one engine does not do both.
   */
  readonly task?: 'generate' | 'score' | undefined;
  /** `auto` (the default) takes a GPU where one can be used, else the CPU. */
  readonly device?: 'auto' | 'cpu' | 'cuda' | undefined;
  /** GPUs to use; default 1. `CUDA_VISIBLE_DEVICES` says which. */
  readonly numGpus?: number | undefined;
  /**
   * How several GPUs share the work. `streams` (the default): each has texts of its own and computes with whole layers. `tensor`: each
   * has a part of every layer, and all make the same texts together. `pipeline`: each has some of the layers, through which as many
   * batches of texts follow each other. `auto`: whichever takes least time by the planner's reckoning, as the logger is told.
   */
  readonly parallel?: 'streams' | 'tensor' | 'pipeline' | 'auto' | undefined;
  /**
   * Where weights rest. `auto` (the default): on the GPU, then in DRAM, as far as the budgets allow, the rest on the
   * drive. `dram`: all in DRAM. `nvme`: all on the drive.
   */
  readonly offload?: 'auto' | 'dram' | 'nvme' | undefined;
  /**
   * A folder on the drive that weights are read from; they are copied to it once unless they lie there. Means `nvme`. With several
   * folders every layer is striped over their drives, by what each yields.
   */
  readonly nvmePath?: string | readonly string[] | undefined;
  /** Bound on everything large in DRAM; default 85 % of what is available, so give it where a process opens several. */
  readonly dramMemory?: Size | undefined;
  /** Bound on what is taken of each GPU; default what is free. Without effect where `auto` takes the CPU. */
  readonly gpuMemory?: Size | undefined;
  /** Keys and values rest in DRAM also where the GPU could hold them; default false. Without effect on the CPU. */
  readonly kvOffload?: boolean | undefined;
  /**
   * How keys and values are stored, wherever they rest. `auto` (the default): as they are computed, which is exact; the
   * others take less memory and lose something, `int4` most.
   */
  readonly kvDtype?: 'auto' | 'float16' | 'bfloat16' | 'fp8' | 'int8' | 'int4' | undefined;
  /**
   * What products take in on a GPU. `auto` (the default): the 16 bits of the weights. `float32` rounds nothing, at half the
   * speed or less. Without effect on the CPU, which computes in float32.
   */
  readonly computeDtype?: 'auto' | 'float32' | undefined;
  /**
   * `int8`, `int4` or `fp8`: weights of floats are packed so at the first use, into the cache folder, and taken from there afterwards.
   * A float type: the weights must have it, for they are used as they are stored. Default: as they are stored.
   */
  readonly dtype?: 'float16' | 'bfloat16' | 'float32' | 'int8' | 'int4' | 'fp8' | undefined;
  /** Threads that compute on the CPU; default one per core. One setting for all engines of a process: the last one's. */
  readonly threads?: number | undefined;
  /** Texts that each device makes at once; others wait. Default 16, or as many as memory holds. */
  readonly maxSequences?: number | undefined;
  /**
   * Tokens of the longest text, its prompt among them; default the model's context, but no more than 4096, or than memory
   * holds. Where texts are scored, tokens of a window; default no more than 2048.
   */
  readonly contextTokens?: number | undefined;
  /**
   * Tokens of all texts of a device whose keys and values are kept at once; default as many as up to four of the longest
   * texts have, while weights need not rest elsewhere for it. Where there is no room for more, some texts wait for others.
   */
  readonly cacheTokens?: number | undefined;
  /**
   * Where a text does not say how its tokens are chosen, how long it becomes and where it stops, the model's
   * generation_config.json does; default false.
   */
  readonly generationConfig?: boolean | undefined;
  /** On the hub: a branch, tag or commit; default `main`. */
  readonly revision?: string | undefined;
  /** Told while files are downloaded or copied. What it throws ends opening. */
  readonly onProgress?: ((progress: OpenProgress) => void) | undefined;
  /** Told what happens; without it, nothing is printed. */
  readonly logger?: Logger | undefined;
  /** Ends opening: the promise is rejected with the signal's reason, and nothing stays behind but what was downloaded. */
  readonly signal?: Signal | undefined;
}

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/**
 * What the model goes on from: a text, a conversation that the model's chat template makes a text of, or token ids
 * (whole numbers below `info.vocabSize`).
 */
export type Prompt =
  | string
  | { readonly messages: readonly Message[] }
  | { readonly tokens: readonly number[] | Int32Array };

/** How one text is made. All of it is optional; with `generationConfig`, the model's own values are the defaults. */
export interface GenerateOptions {
  /** At most so many tokens; default 256, or as many as the context leaves where that is less. */
  readonly maxNewTokens?: number | undefined;
  /**
   * Tokens are drawn, the more freely the higher; default 0, which takes the likeliest each time. Needed for the next
   * three and for `seed`, which say how they are drawn.
   */
  readonly temperature?: number | undefined;
  /** Drawn from the k likeliest; default 0, which is all. */
  readonly topK?: number | undefined;
  /** Drawn from the likeliest that together have this probability; default 1, which is all. */
  readonly topP?: number | undefined;
  /** Drawn from those at least this many times as likely as the likeliest; default 0, which is all. */
  readonly minP?: number | undefined;
  /** Above 1, tokens of the prompt and of the text so far become less likely; default 1. */
  readonly repetitionPenalty?: number | undefined;
  /**
   * A whole number from 0 to 2⁵³ − 1. With the same one, the same prompt gives the same text, whatever else is made at
   * the time; default another one each time, which the result tells.
   */
  readonly seed?: number | undefined;
  /** The text ends before the first of these, which may begin in the prompt's end. */
  readonly stop?: string | readonly string[] | undefined;
  /** Ids that end the text, in place of those that the model names; `[]` for none. They are not part of it. */
  readonly stopTokens?: readonly number[] | undefined;
  /** A message before all others, for prompts of `messages` that do not begin with one. */
  readonly system?: string | undefined;
  /** Each token's log-probability is told as well; default false. */
  readonly logProbs?: boolean | undefined;
  /** And which so many tokens, up to 20, were likeliest in place of each; default 0. Needs `logProbs`. */
  readonly topLogProbs?: number | undefined;
  /** Ends the text: iteration and result are rejected with the signal's reason. */
  readonly signal?: Signal | undefined;
}

/** A token that might have been, and its log-probability. */
export interface LikelyToken {
  readonly token: number;
  readonly logProb: number;
}

/** Some tokens and what they say. All pieces of a text, put together, are the text. */
export interface Piece {
  /**
   * Whole characters, none of which may still become part of a stop string. Empty only in a last piece, whose tokens say
   * nothing, and where the model has no tokenizer.
   */
  readonly text: string;
  /** Those that came since the piece before. Empty only in a last piece, whose text was held back. */
  readonly tokens: readonly number[];
  /** The log-probability of each token, in nats: the model's own, before temperature and penalties. Absent unless asked for. */
  readonly logProbs?: readonly number[];
  /** In place of each token, the likeliest ones first. Absent unless asked for. */
  readonly topLogProbs?: readonly (readonly LikelyToken[])[];
}

export interface GenerationResult {
  readonly text: string;
  /** All that were made, with those that completed a stop string, without an end token. */
  readonly tokens: readonly number[];
  /** The log-probability of each token, as in a piece. Absent unless asked for. */
  readonly logProbs?: readonly number[];
  readonly topLogProbs?: readonly (readonly LikelyToken[])[];
  /** `stop`: an end token or a stop string; `length`: `maxNewTokens`; `cancelled`: by `cancel()`, or by leaving a loop. */
  readonly finishReason: 'stop' | 'length' | 'cancelled';
  /** How many tokens the prompt has; 0 where the text was cancelled before that was known. */
  readonly promptTokens: number;
  /** That gives the same text again; absent where nothing was drawn. */
  readonly seed?: number;
}

/**
 * A text on its way. It is made whether or not anybody looks: iterate over its pieces as they come, or await `result`,
 * or both. Every iteration begins at the first piece. Leaving one early cancels the text.
 */
export interface Generation extends AsyncIterable<Piece> {
  /**
   * Rejected, as iteration is, with an OperatingError: BAD_OPTION, BAD_INPUT, EMPTY_PROMPT and PROMPT_TOO_LONG for what
   * was asked; NOT_FINITE, FILE_CHANGED, READ_FAILED or DEVICE_FAILED for what happened; CLOSED when the engine was. It
   * need not be handled.
   */
  readonly result: Promise<GenerationResult>;
  /** Ends the text with what there is of it. Without effect on one that has ended. */
  cancel(): void;
}

export interface ScoreOptions {
  /** Ends scoring: the promise is rejected with the signal's reason. */
  readonly signal?: Signal | undefined;
}

/** How well the model predicts a text. */
export interface Score {
  /** Mean negative log-likelihood of all tokens but the first, in nats. */
  readonly nll: number;
  /** e to the power of `nll`. */
  readonly perplexity: number;
  readonly tokens: readonly number[];
  /** Log-probability of each token after those before it in its window of `contextTokens`, in nats; NaN for the first. */
  readonly logProbs: readonly number[];
}

export interface TokenizeOptions {
  /** With the special tokens that the model wants around a text; default true. */
  readonly specialTokens?: boolean | undefined;
}

export interface DetokenizeOptions {
  /** Special tokens are written out; default false, which leaves them out. */
  readonly specialTokens?: boolean | undefined;
}

/** What was opened, and where it rests. */
export interface EngineInfo {
  readonly task: 'generate' | 'score';
  /** Absolute. */
  readonly folder: string;
  /** As configurations call it, such as `llama`. */
  readonly architecture: string;
  readonly weightBytes: number;
  readonly vocabSize: number;
  readonly device: 'cpu' | 'cuda';
  readonly deviceCount: number;
  /** Where layers rest, as a sentence. */
  readonly placement: string;
  /** Tokens of the longest text, its prompt among them. */
  readonly contextTokens: number;
  /** Texts that each device makes at once. */
  readonly maxSequences: number;
  /** Tokens of all texts of a device whose keys and values are kept at once. */
  readonly cacheTokens: number;
  /** Sentences about what is odd about the model, or about this machine. */
  readonly warnings: readonly string[];
}

/** An open model. Texts that are asked for at the same time are made together; each ends by itself, errors too. */
export interface Engine {
  readonly info: EngineInfo;
  /** Begins a text. Never throws: what is wrong is told by what it returns. */
  generate(prompt: Prompt, options?: GenerateOptions): Generation;
  /**
   * How likely a text is: at least two tokens, and as many more as there are. Needs an engine opened with `task: 'score'`. Rejects with an
   * OperatingError: BAD_OPTION, BAD_INPUT, or as for `Generation.result`.
   */
  score(
    text: string | { readonly tokens: readonly number[] | Int32Array },
    options?: ScoreOptions,
  ): Promise<Score>;
  /** Token ids of a text. Rejects with BAD_INPUT, BAD_OPTION, BAD_TOKENIZER or CLOSED. */
  tokenize(text: string, options?: TokenizeOptions): Promise<number[]>;
  /** The text of token ids. Throws BAD_INPUT, BAD_OPTION, BAD_TOKENIZER or CLOSED. */
  detokenize(tokens: readonly number[] | Int32Array, options?: DetokenizeOptions): string;
  /** Ends all texts with CLOSED and gives all memory back. Safe at any time and more than once. */
  close(): Promise<void>;
  /** The same, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}
