// Which models are served.

import type { RouteGroup } from '../server-parts.js';
import { sendWhole } from './api-routes.js';

export const modelRoutes: RouteGroup = (app, { api }) => {
  app.get('/v1/models', async () => api.listModels());
  // Names of the hub have a slash in them, which some clients do not encode.
  app.get<{ Params: { '*': string } }>('/v1/models/*', async (request, reply) => {
    const found = api.findModel(request.params['*']);
    return found.kind === 'whole' ? sendWhole(reply, found) : reply;
  });
};
