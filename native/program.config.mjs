// The program in few files, as Node takes a millisecond to load each: what dist/src/main.js and its threads import of the
// sources, in dist/src/program. Packages stay outside; the library and tests load the sources' own outputs.

import { defineConfig } from 'rolldown';

/** Scripts of threads are found by their names, beside what begins the thread. */
const THREADS = [
  'src/files/json-worker.ts',
  'src/queue/renewal-thread.ts',
  'src/structured/worker.ts',
  'src/text/template-worker.ts',
];

const threads = THREADS.map((path) => [/([^/]+)\.ts$/.exec(path)[1], path]);

export default defineConfig({
  input: { main: 'src/main.ts', ...Object.fromEntries(threads) },
  platform: 'node',
  external: /^[^./]/,
  resolve: { extensionAlias: { '.js': ['.ts'] } },
  output: {
    dir: 'dist/src',
    format: 'esm',
    sourcemap: true,
    entryFileNames: ({ name }) => (name === 'main' ? 'main.js' : `program/${name}.js`),
    chunkFileNames: 'program/[name].js',
  },
});
