// Fields of requests: read by schemas, which the OpenAPI description is made of as well, and refused by name.

import { z } from 'zod';
import { MOST_BIASES } from '../engine/added-logits.js';
import { MOST_TOP_LOG_PROBS } from '../library/generate-options.js';
import { ApiError, badField, unsupportedField } from './api-error.js';

const MOST_CHOICES = 128;
const MOST_STOPS = 16;

const count = z
  .int()
  .min(1)
  .max(2 ** 31 - 1);

/** Null is what is not said, as in OpenAI's own descriptions. */
function optional<T extends z.ZodType>(type: T) {
  return type.nullable().optional();
}

/** Counted before any is looked at. */
const BIASES = z
  .custom<object>(
    (value) => typeof value === 'object' && value !== null && Object.keys(value).length <= MOST_BIASES,
    `give biases of up to ${MOST_BIASES} tokens`,
  )
  .pipe(z.record(z.string(), z.number().min(-100).max(100)));

/** How tokens are drawn. What is absent is as the model's generation_config.json says. */
export const SAMPLING_FIELDS = {
  temperature: optional(z.number().min(0).max(1e6)).describe('0 takes the likeliest token each time'),
  top_p: optional(z.number().gt(0).max(1)),
  top_k: optional(
    z
      .int()
      .min(-1)
      .max(2 ** 31 - 1),
  ).describe('0 and -1 are all'),
  min_p: optional(z.number().min(0).max(1)),
  presence_penalty: optional(z.number().min(-2).max(2)).describe(
    'taken once from the logit of each token that the text has already',
  ),
  frequency_penalty: optional(z.number().min(-2).max(2)).describe(
    'taken from it as often as the text has it',
  ),
  repetition_penalty: optional(z.number().gt(0).max(1e6)).describe(
    'tokens of prompt and text: divides logits above 0, multiplies others',
  ),
  logit_bias: optional(BIASES).describe('by token id: what is added to its logit'),
  seed: optional(
    z
      .int()
      .min(-(2 ** 53 - 1))
      .max(2 ** 53 - 1),
  ),
};

/** What completions and chats have in common. */
export const TEXT_FIELDS = {
  model: z.string().min(1).max(1024).optional(),
  stream: optional(z.boolean()),
  stream_options: optional(z.strictObject({ include_usage: z.boolean().optional() })),
  n: optional(z.int().min(1).max(MOST_CHOICES)),
  stop: optional(z.union([z.string().min(1), z.array(z.string().min(1)).max(MOST_STOPS)])),
  stop_token_ids: optional(z.array(z.int().min(0)).max(1024)).describe('in place of those of the model'),
  ignore_eos: optional(z.boolean()),
  max_tokens: optional(count),
  ...SAMPLING_FIELDS,
};

/** Looked at in one go, since there may be a million of them. */
export function isIdList(value: unknown): value is number[] {
  return Array.isArray(value) && value.length > 0 && value.every((id) => Number.isSafeInteger(id) && id >= 0);
}

/** Token ids, at least one. */
export const IDS = z
  .custom<number[]>(isIdList, 'token ids are a list of whole numbers from 0 on')
  .meta({ type: 'array', minItems: 1, items: { type: 'integer', minimum: 0 } });

export const TOP_LOG_PROBS = z.int().min(0).max(MOST_TOP_LOG_PROBS);

/** What clients send along and what changes no text. */
const WITHOUT_EFFECT = {
  user: z.unknown().optional(),
  metadata: z.unknown().optional(),
  store: z.unknown().optional(),
  service_tier: z.unknown().optional(),
  safety_identifier: z.unknown().optional(),
  prompt_cache_key: z.unknown().optional(),
  parallel_tool_calls: z.unknown().optional(),
};

/** An object of these fields, of those without effect, and no others. */
export function requestOf<T extends z.ZodRawShape>(fields: T) {
  return z.strictObject({ ...WITHOUT_EFFECT, ...fields });
}

/** Throws an ApiError that names the first field that is wrong. */
export function readFields<T>(schema: z.ZodType<T>, body: unknown): T {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw badField(undefined, 'the body is no JSON object: send one, with content-type application/json');
  }
  const read = schema.safeParse(body, { reportInput: false });
  if (read.success) return read.data;
  const issue = read.error.issues[0];
  if (!issue) throw badField(undefined, 'the body is not understood');
  const path = issue.path.map(String).join('.');
  if (issue.code === 'unrecognized_keys') {
    const name = [path, issue.keys[0]].filter((part) => part !== '').join('.');
    throw badField(short(name), `there is no field '${short(name)}' here: leave it out`, 'unknown_parameter');
  }
  throw badField(short(path), `${short(path)}: ${issue.message}`, 'invalid_value');
}

/** A part of a body that the whole's schema leaves open. @param refusal of the first place that is wrong, and why */
export function readPart<T>(
  schema: z.ZodType<T>,
  part: { readonly value: unknown; readonly param: string },
  refusal: (param: string, sentence: string) => ApiError,
): T {
  const read = schema.safeParse(part.value);
  if (read.success) return read.data;
  const [issue] = read.error.issues;
  const param = [part.param, ...(issue?.path ?? [])].join('.');
  throw refusal(param, `${param}: ${issue?.message ?? 'is not understood'}`);
}

/** A client's own words, so short that an answer stays one. */
function short(text: string): string {
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

/** Throws for a model that is not served. */
export function checkModel(asked: string | undefined, served: readonly string[]): void {
  if (asked === undefined || served.includes(asked)) return;
  throw new ApiError(`the model '${short(asked)}' is not served here: ask for ${served[0]}`, {
    status: 404,
    type: 'invalid_request_error',
    param: 'model',
    code: 'model_not_found',
  });
}

/** Throws where a field that would change texts is given and cannot be followed. */
export function refuse(
  given: Readonly<Record<string, unknown>>,
  reasons: Readonly<Record<string, string>>,
): void {
  for (const [name, reason] of Object.entries(reasons)) {
    const value = given[name];
    if (value !== undefined && value !== null) throw unsupportedField(name, `${name} ${reason}`);
  }
}
