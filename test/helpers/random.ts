// Seeded random numbers for tests: those of the benchmarks.

export { randomFrom, randomInt } from '../../bench/random.js';
