// The names of the ways in which models write calls and reasoning; imports nothing, as options are listed before anything is loaded.

/** Names as users of vLLM know them; `harmony` is that of whole answers, not of calls alone. */
export const CALL_PARSERS = [
  'hermes',
  'qwen3_coder',
  'llama3_json',
  'mistral',
  'glm45',
  'deepseek_v3',
  'deepseek_v31',
  'openai',
] as const;
export type CallParser = (typeof CALL_PARSERS)[number];

export const REASONING_PARSERS = ['deepseek_r1', 'qwen3', 'glm45', 'mistral', 'openai_gptoss'] as const;
export type ReasoningParser = (typeof REASONING_PARSERS)[number];
