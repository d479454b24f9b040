// The description of the API in OpenAPI's form, made of the schemas that bodies are read by.

import { z } from 'zod';
import { ENDPOINTS } from '../api/api.js';
import type { Endpoint } from '../api/endpoint.js';

interface Described {
  readonly path: string;
  readonly summary: string;
}

/** What is asked for without a body. */
const READ: readonly Described[] = [
  { path: '/v1/models', summary: 'The models that are served' },
  { path: '/health', summary: 'Whether requests are taken' },
  { path: '/metrics', summary: 'Figures for Prometheus' },
  { path: '/openapi.json', summary: 'This description' },
];

let made: object | undefined;

export function openApi(): object {
  made ??= describe();
  return made;
}

function describe(): object {
  const posted = Object.entries(ENDPOINTS).map(([path, endpoint]) => [path, { post: operation(endpoint) }]);
  const read = READ.map(({ path, summary }) => [path, { get: { summary, responses: RESPONSES } }]);
  return {
    openapi: '3.1.0',
    info: { title: 'zero-inference', version: '1', description: "OpenAI's API for one model" },
    components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
    security: [{}, { key: [] }],
    paths: Object.fromEntries([...posted, ...read]),
  };
}

const RESPONSES = {
  200: { description: 'the answer' },
  '4XX': { description: 'what is wrong with the request, as { error: { message, type, param, code } }' },
} as const;

function operation({ summary, schema }: Endpoint): object {
  const { $schema: _, ...fields } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  return {
    summary,
    requestBody: { required: true, content: { 'application/json': { schema: fields } } },
    responses: RESPONSES,
  };
}
