#!/usr/bin/env bash
# Packs what a GPU host needs that has CUDA but neither Node nor a network: Node, the built addon, sources, tests.
# usage: bench/gpu/pack.sh OUT.tar.xz [FIXTURES=1]     (after npm run setup -- --cuda all; FIXTURES=0 leaves test/fixtures out;
#   XZ_LEVEL=3 packs faster, a tenth larger)
# there: mkdir app && tar -xJf OUT.tar.xz -C app && cd app && bench/gpu/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "$1")
fixtures=${2:-1}
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

mkdir -p "$stage/.node" "$stage/native/build/Release"
cp "$(readlink -f "$(command -v node)")" "$stage/.node/node"
strip "$stage/.node/node" 2>/dev/null || true
cp native/build/Release/zero_inference.node "$stage/native/build/Release/"
if [ -f out/cuda12/Release/zero_inference.node ]; then
  mkdir -p "$stage/out/cuda12/Release"
  cp out/cuda12/Release/zero_inference.node "$stage/out/cuda12/Release/"
fi
cp package.json tsconfig.json vitest.config.ts "$stage/"
exclude=(--exclude node_modules)
[ "$fixtures" = 1 ] || exclude+=(--exclude test/fixtures)
tar -cf - "${exclude[@]}" --exclude '*.map' --exclude '*.d.ts' dist src offload test configs bench | tar -xf - -C "$stage"

# Only what the tests run with: no compilers, linters, types, nor binaries for other platforms.
mkdir "$stage/node_modules"
tar -chf - -C node_modules \
  --exclude './@biomejs' --exclude './@typescript' --exclude './typescript' --exclude './@types' --exclude './node-api-headers' \
  --exclude './node-addon-api' --exclude './zod/src' --exclude '*.mts' --exclude '*.cts' --exclude '*.flow' \
  --exclude './tar' --exclude './.cache' --exclude './.vite' --exclude '*.map' --exclude '*.d.ts' --exclude '*.d.cts' \
  --exclude '*darwin*.node' --exclude '*win32*.node' --exclude '*musl*.node' --exclude '*android*.node' \
  --exclude '*freebsd*.node' --exclude '*arm*.node' --exclude '*riscv*.node' --exclude '*ia32*.node' \
  . | tar -xf - -C "$stage/node_modules"

mkdir -p "$(dirname "$out")"
tar -C "$stage" -cf - . | xz -T0 "-${XZ_LEVEL:-6}" >"$out"
ls -l "$out"
