// What zero-inference cannot run on at all, whatever is installed.

import { existsSync } from 'node:fs';

const MUSL_LOADER = '/lib/ld-musl-x86_64.so.1';

/** A sentence, or undefined on Linux with glibc on x86-64. */
export function platformProblem(): string | undefined {
  const { platform, arch } = process;
  if (platform !== 'linux') {
    return `${platform} is not supported: zero-inference reads with Linux's io_uring and O_DIRECT`;
  }
  if (arch !== 'x64') {
    return `${arch} is not supported: the kernels are written for x86-64 processors with AVX2`;
  }
  if (existsSync(MUSL_LOADER) && !runsOnGlibc()) {
    return "this Node uses musl (Alpine's C library), with which zero-inference does not run: use a Debian, Ubuntu or Fedora image";
  }
  return undefined;
}

/** Node's report takes milliseconds, so it is asked only where there is a doubt. */
function runsOnGlibc(): boolean {
  const report: unknown = process.report.getReport();
  const { header } = report as { readonly header: { readonly glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime !== undefined;
}
