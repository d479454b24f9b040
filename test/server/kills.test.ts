// A server that is killed in the middle of a batch would lose requests or double them; the long form is in bench/server.

import { expect, it } from 'vitest';
import { serverUnderKills } from '../../bench/server/kill-run.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

it('a batch has every line once, and the same text for the same prompt, after kills of its server', async () => {
  const options = {
    model: modelFolder('stories260K'),
    folder: tempFolder(),
    requests: 60,
    kills: 2,
    seed: 3,
  };
  const { lines, lost, doubled, wrong } = await serverUnderKills(options);
  expect({ lines, lost, doubled, wrong }).toEqual({ lines: 60, lost: [], doubled: [], wrong: [] });
});
