// Which models are served.

import { findModel, listModels } from '../../api/model-list.js';
import type { RouteGroup } from '../server-parts.js';
import { sendWhole } from './api-routes.js';

export const modelRoutes: RouteGroup = (app, { api }) => {
  app.get('/v1/models', async () => listModels(api.model));
  // Names of the hub have a slash in them, which some clients do not encode.
  app.get<{ Params: { '*': string } }>('/v1/models/*', async (request, reply) =>
    sendWhole(reply, findModel(request.params['*'], api.model)),
  );
};
