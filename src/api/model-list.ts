// `/v1/models`: the names that one model goes by.

import { refusal } from './api.js';
import { ApiError } from './api-error.js';
import type { ListedModel, WholeReply } from './reply.js';

export function listModels(model: ListedModel): object {
  return { object: 'list', data: model.names.map((id) => listed(id, model)) };
}

export function findModel(id: string, model: ListedModel): WholeReply {
  if (model.names.includes(id)) return { kind: 'whole', status: 200, body: listed(id, model) };
  const details = {
    status: 404,
    type: 'invalid_request_error',
    param: 'model',
    code: 'model_not_found',
  } as const;
  return refusal(new ApiError('there is no such model here: GET /v1/models lists what there is', details));
}

function listed(id: string, { created, contextTokens }: ListedModel): object {
  const longest = contextTokens === undefined ? {} : { max_model_len: contextTokens };
  return { id, object: 'model', created, owned_by: 'zero-inference', ...longest };
}
