#!/usr/bin/env node
// The executable: what can be begun at once is, before anything else is loaded.

import { glance } from './cli/glance.js';

const words = process.argv.slice(2);
const glimpsed = glance(words);
const early = glimpsed && (await import('./cli/early-load.js')).beginEarly(glimpsed);
const { main } = await import('./cli/main.js');
await main(words, early);
