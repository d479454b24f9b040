// What is wrong with a request, in the form in which OpenAI's clients expect it.

import { type ErrorCode, OperatingError } from '../../offload/index.js';

export type ApiErrorType =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'not_found_error'
  | 'rate_limit_error'
  | 'server_error';

export interface ApiErrorDetails {
  readonly status: number;
  readonly type: ApiErrorType;
  /** The field that is wrong. */
  readonly param?: string | undefined;
  readonly code?: string | undefined;
  /** When it may be worth asking again. */
  readonly retryAfterSeconds?: number | undefined;
}

export interface ApiErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: ApiErrorType;
    readonly param: string | null;
    readonly code: string | null;
  };
}

export class ApiError extends Error {
  readonly details: ApiErrorDetails;

  constructor(message: string, details: ApiErrorDetails, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ApiError';
    this.details = details;
  }

  get status(): number {
    return this.details.status;
  }

  get body(): ApiErrorBody {
    const { type, param = null, code = null } = this.details;
    return { error: { message: this.message, type, param, code } };
  }
}

/** A field has a value that cannot be meant. */
export function badField(param: string | undefined, message: string, code?: string): ApiError {
  return new ApiError(message, { status: 400, type: 'invalid_request_error', param, code });
}

/** A field asks for what is not there. */
export function unsupportedField(param: string, message: string): ApiError {
  return badField(param, message, 'unsupported_parameter');
}

/** What the request itself is to blame for, with the code that clients look for. */
const OF_THE_REQUEST: Partial<Readonly<Record<ErrorCode, string | undefined>>> = {
  BAD_INPUT: 'invalid_value',
  BAD_OPTION: 'invalid_value',
  EMPTY_PROMPT: 'invalid_value',
  PROMPT_TOO_LONG: 'context_length_exceeded',
  UNSUPPORTED: 'unsupported',
  BAD_TOKENIZER: 'unsupported',
};

/** Whatever was thrown, as the client is told: nothing of the inside unless the request is to blame. */
export function asApiError(thrown: unknown): ApiError {
  if (thrown instanceof ApiError) return thrown;
  if (!(thrown instanceof OperatingError)) {
    return new ApiError('the server failed in a way that it should not', FAILED, { cause: thrown });
  }
  if (Object.hasOwn(OF_THE_REQUEST, thrown.code)) {
    const details = {
      status: 400,
      type: 'invalid_request_error',
      code: OF_THE_REQUEST[thrown.code],
    } as const;
    return new ApiError(thrown.message, details, { cause: thrown });
  }
  if (thrown.code === 'CLOSED') {
    const details = {
      status: 503,
      type: 'server_error',
      code: 'shutting_down',
      retryAfterSeconds: 5,
    } as const;
    return new ApiError('the server is shutting down: ask again when it is back', details, { cause: thrown });
  }
  return new ApiError(`the request could not be computed (${thrown.code})`, FAILED, { cause: thrown });
}

const FAILED: ApiErrorDetails = { status: 500, type: 'server_error' };
