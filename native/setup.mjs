// Brings a fresh machine to a built zero-inference. This file only looks whether it can: it must run on any Node that
// reads modules, so it uses nothing new and imports the steps afterwards.

const MIN_NODE_MAJOR = 20;

/** Why this machine will not do, or undefined. */
function whyNot() {
  const { platform, arch, versions } = process;
  if (Number(versions.node.split('.')[0]) < MIN_NODE_MAJOR) {
    return `Node ${versions.node} is too old: install Node ${MIN_NODE_MAJOR} or later, then run this again`;
  }
  if (platform !== 'linux') {
    return `${platform} is not supported: zero-inference reads with Linux's io_uring and O_DIRECT`;
  }
  if (arch !== 'x64') {
    return `${arch} is not supported: the kernels are written for x86-64 processors with AVX2`;
  }
  if (!process.report.getReport().header.glibcVersionRuntime) {
    return (
      'this system has another C library than glibc (Alpine has musl), with which zero-inference does not run: ' +
      'use a Debian, Ubuntu or Fedora image'
    );
  }
  return undefined;
}

const problem = whyNot();
if (problem === undefined) {
  import('./setup-steps.mjs').then(({ setUp }) => setUp(process.argv.slice(2)));
} else {
  process.stderr.write(`setup: ${problem}\n`);
  // Types can be used anywhere: npm may install it.
  process.exitCode = process.argv.includes('--npm_event') ? 0 : 1;
}
