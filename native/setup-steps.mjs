// The command line of set-up: all of it, a part, or what npm asks for.

import { parseArgs } from 'node:util';
import { CUDA_CHOICES } from './setup-gpu.mjs';
import { NPM_EVENTS } from './setup-npm-events.mjs';
import { ALL_PARTS, makeParts, PARTS } from './setup-parts.mjs';
import { SetupError, say, seconds } from './setup-tools.mjs';

const USAGE = `node native/setup.mjs [--only ${PARTS.join('|')}] [--cuda ${CUDA_CHOICES.join('|')}]`;
const OPTIONS = { only: { type: 'string' }, cuda: { type: 'string' }, npm_event: { type: 'string' } };

function check(name, value, choices) {
  if (value !== undefined && !choices.includes(value)) throw new Error(`${name} is '${value}'`);
  return value;
}

function readArguments(words) {
  // A variable as well, because no option reaches us through `npm run demo` or `npm install`.
  const { ZI_CUDA: variable = '' } = process.env;
  try {
    const { only, cuda, npm_event: npmEvent } = parseArgs({ args: words, options: OPTIONS }).values;
    const fromVariable = variable === '' ? 'auto' : check('ZI_CUDA', variable, CUDA_CHOICES);
    return {
      only: check('--only', only, PARTS),
      npmEvent: check('--npm_event', npmEvent, Object.keys(NPM_EVENTS)),
      cuda: check('--cuda', cuda, CUDA_CHOICES) ?? fromVariable,
    };
  } catch (error) {
    throw new SetupError(`${error.message}. Usage: ${USAGE}`, 2);
  }
}

async function setUpWanted(words) {
  const startMs = performance.now();
  const { only, npmEvent, ...options } = readArguments(words);
  if (npmEvent !== undefined) return NPM_EVENTS[npmEvent](options);
  const isMade = await makeParts(only === undefined ? ALL_PARTS : [only], options);
  return say(isMade ? `ready in ${seconds(startMs)}` : `nothing to do (${seconds(startMs)})`);
}

/** @param words the command line; sets the exit status */
export async function setUp(words) {
  try {
    await setUpWanted(words);
  } catch (error) {
    const isSystem = typeof error.code === 'string' && typeof error.syscall === 'string';
    if (!(error instanceof SetupError) && !isSystem) throw error;
    say(error.message);
    process.exitCode = error.exitStatus ?? 1;
  }
}
