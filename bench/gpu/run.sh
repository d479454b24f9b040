#!/usr/bin/env bash
# On a GPU host, in an unpacked pack.sh archive or a built checkout: kernel and golden tests, then the sanitizer on the
# kernels, then a first benchmark. Each part may be named alone: bench/gpu/run.sh tests sanitize soak bench resident kv memory
set -uo pipefail
cd "$(dirname "$0")/../.."
[ -d .node ] && export PATH="$PWD/.node:$PATH"
export PATH="$PATH:/usr/local/cuda/bin"
parts=${*:-tests sanitize bench}
shape=${SHAPE:-opt-1.3b}
mkdir -p out
vitest=(node node_modules/vitest/vitest.mjs run --reporter=dot)
cuda12=${CUDA12_ADDON:-out/cuda12/Release/zero_inference.node}
status=0

part() { # name, command …
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  "$@" || { status=1 && echo "== $name FAILED"; }
  echo "== $name: $((SECONDS - start)) s"
}

for name in $parts; do
  case $name in
    tests)
      part 'kernels and contract' "${vitest[@]}" test/native/cuda test/port/backend-contract.test.ts
      part 'golden results' "${vitest[@]}" test/golden/cuda.test.ts
      ;;
    sanitize)
      # All kernel tests under memcheck and racecheck, some beside each other; ends by itself within SANITIZE_SECONDS.
      part 'memcheck and racecheck' node dist/bench/gpu/sanitize.js --seconds "${SANITIZE_SECONDS:-540}" --jobs "${SANITIZE_JOBS:-14}"
      ;;
    soak)
      # May run beside `sanitize` where nvidia-smi tells processes apart. One arena: with several, what malloc keeps of each
      # goes on growing slowly.
      part 'soak' env MALLOC_ARENA_MAX=1 node dist/bench/gpu/soak.js --device cuda --gpus "${GPUS:-1}" --seconds "${SOAK_SECONDS:-600}" --seed "${SEED:-1}"
      ;;
    cuda12)
      # The same tests with an addon that CUDA 12 compiled (native/README.md), whatever major version the library has.
      part 'GPU as that addon sees it' env ZI_ADDON="$cuda12" node dist/src/main.js doctor --path .
      part 'kernels, contract and golden results with CUDA 12' env ZI_ADDON="$cuda12" "${vitest[@]}" \
        test/native/cuda test/port/backend-contract.test.ts test/golden/cuda.test.ts
      ;;
    bench)
      part 'decode, batch 8' node dist/bench/gpu/stream.js --shape "$shape" --batch 8 --prompt 32
      part 'decode, batch 32' node dist/bench/gpu/stream.js --shape "$shape" --batch 32 --prompt 512 --tokens 4
      part 'a block' node dist/bench/gpu/block.js --shape "$shape"
      part 'a block of BLOOM-176B' node dist/bench/gpu/block.js --shape bloom-176b --batch 32 --micro 4096
      part 'a block of gpt-oss-120b' node dist/bench/gpu/block.js --shape gpt-oss-120b --prompt 2048 --batch 8 --micro 16384
      part 'prefill 64×512' node dist/bench/gpu/stream.js --shape "$shape" --batch 64 --prompt 512 --tokens 3
      ;;
    resident)
      part 'all layers at rest, batch 1' node dist/bench/gpu/stream.js --shape "$shape" --batch 1 --prompt 32 --tokens 64 --resident auto
      part 'half the layers at rest, batch 8' node dist/bench/gpu/stream.js --shape "$shape" --batch 8 --prompt 32 --resident "${HALF:-17}"
      ;;
    weights)
      # Products of a few tokens in each format, alone and in the chain of a layer.
      part 'products of a few tokens' node dist/bench/gpu/weights.js
      ;;
    kv)
      # More sequences than the GPU may hold keys and values of.
      part 'keys and values in DRAM' node dist/bench/gpu/stream.js --shape "$shape" --batch 64 --prompt 512 --tokens 4 --kv dram --gpu_memory 8GiB
      ;;
    attention)
      part 'attention over stored keys and values' node dist/bench/gpu/attention.js
      part 'the same, eight heads for each of theirs' node dist/bench/gpu/attention.js --heads 64 --kv_heads 8
      part 'latent attention of DeepSeek-V3' node dist/bench/gpu/attention.js --heads 128 --kv_heads 1 --head_dim 576 --value_dim 512 --values_in_keys
      ;;
    states)
      part 'a layer of Qwen3-Next' node dist/bench/gpu/states.js
      part 'the same, eight prompts' node dist/bench/gpu/states.js --sequences 8
      part 'a layer of Nemotron 3 Nano' node dist/bench/gpu/states.js --rule mamba --hidden 2688 --key_heads 8 --value_heads 64 --value_dim 64
      ;;
    drive)
      part 'from the drive' node dist/bench/gpu/drive.js --shape "$shape"
      ;;
    gpus)
      part 'one GPU, batch 8' node dist/bench/gpu/stream.js --shape "$shape" --batch 8 --prompt 32
      for gather in peer nccl; do
        part "two GPUs, batch 8 each, gather $gather" \
          timeout 180 node dist/bench/gpu/stream.js --shape "$shape" --batch 8 --prompt 32 --gpus 2 --gather $gather
      done
      ;;
    pipeline)
      part 'two GPUs in a row' timeout 300 node dist/bench/gpu/pipeline.js --shape "${SHAPE:-llama-3-70b}" --type "${TYPE:-bfloat16}" --batch "${BATCH:-64,32}"
      ;;
    shards)
      part 'a model in shards' timeout 300 node dist/bench/gpu/shards.js --gpus "${GPUS:-2}" --batch "${BATCH:-8}"
      ;;
    many)
      # Each part alone is within ten minutes; BLOOM-176B in bf16 at rest takes at least four GPUs of 141 GB, in int8 two.
      gpus=${GPUS:-8}
      part "tokens on $gpus GPUs" timeout 300 "${vitest[@]}" test/golden/cuda-tensor.test.ts test/golden/cuda-pipeline.test.ts test/golden/cuda-several.test.ts
      part "streams, layers in shares over $gpus links" timeout 300 node dist/bench/gpu/stream.js --shape opt-30b --blocks 24 --batch 8 --prompt 32 --gpus "$gpus"
      part 'in shards at rest' timeout 300 node dist/bench/gpu/shards.js --gpus "$gpus"
      [ "$gpus" -lt 4 ] || part 'BLOOM-176B in bf16' timeout 540 node dist/bench/gpu/tensor.js --shape bloom-176b --gpus "$gpus" --batch 1,8,32,128
      part 'BLOOM-176B in int8' timeout 540 node dist/bench/gpu/tensor.js --shape bloom-176b --type int8 --gpus "$gpus" --batch 1,8,32,128
      part 'from start to first token' timeout 540 node dist/bench/ready.js --device cuda --gpus "$gpus" --shape opt-13b --runs 2
      ;;
    tensor)
      part 'two GPUs together' timeout 300 node dist/bench/gpu/tensor.js --shape "${SHAPE:-llama-3-70b}" --type "${TYPE:-bfloat16}" --batch "${BATCH:-1,128}"
      ;;
    gpu-tests-2)
      part 'two GPUs' timeout 540 "${vitest[@]}" --reporter=verbose test/native/cuda-gather test/golden/cuda-several.test.ts
      ;;
    plan)
      # The description of this machine, and what it predicts for what `bench` measures.
      part 'doctor' node dist/src/main.js doctor --save out/machine.json
      part 'plan' node dist/src/main.js plan --name "configs/models/$shape.json" --cpu_offload --batch_size 8 --prompt_tokens 32 --max_new_tokens 8
      part 'plan, batch 64' node dist/src/main.js plan --name "configs/models/$shape.json" --machine out/machine.json --cpu_offload --batch_size 64 --prompt_tokens 512 --max_new_tokens 3
      ;;
    reduce)
      part 'sums of two GPUs' node dist/bench/gpu/reduce.js
      part 'sums of two GPUs by memory of the host' node dist/bench/gpu/reduce.js --host
      ;;
    micro)
      part 'micro-batches' node dist/bench/gpu/micro.js
      ;;
    opt30b)
      # Two minutes: pins and loads most of DRAM first. BATCH=48 for a shorter run at the peer's batch.
      part 'OPT-30B in 16 GiB' node dist/bench/gpu/throughput.js --batch "${BATCH:-auto}"
      ;;
    formats)
      # Four minutes: weights of 8 and 4 bits beside those of 16, from DRAM and at rest. TYPES=bfloat16,mxfp4 for others.
      part 'stored formats' node dist/bench/gpu/formats.js --shape "${SHAPE:-opt-6.7b}" --types "${TYPES:-bfloat16,fp8,int4}" \
        --cases "${CASES:-decode8,decode32,prefill,rest}" --seconds "${BENCH_SECONDS:-240}"
      ;;
    opt30b-formats)
      # Six minutes: the same whole job with weights of 16 and 4 bits, and keys and values of 8.
      part 'OPT-30B in 16 GiB, stored formats' node dist/bench/gpu/throughput.js --batch "${BATCH:-auto}" \
        --jobs "${JOBS:-bfloat16,int4,int4+int8}" --seconds "${BENCH_SECONDS:-480}"
      ;;
    slots)
      part 'experts in slots' node dist/bench/gpu/slots.js --skew 1 --slots "${SLOTS:-11,25,40}" --batch "${BATCH:-1}"
      ;;
    rows)
      part 'link and processor' node dist/bench/gpu/rows.js --batch "${BATCH:-1,4}" ${BLOCKS:+--blocks "$BLOCKS"}
      ;;
    drive-int4)
      part 'from the drive, int4' node dist/bench/gpu/drive.js --shape "${SHAPE:-opt-6.7b}" --type int4 --runs "${RUNS:-5}"
      ;;
    bloom)
      part 'BLOOM-176B blocks' node dist/bench/gpu/prefill.js --blocks "${BLOCKS:-16}"
      ;;
    bloom-2)
      part 'BLOOM-176B blocks on two GPUs' node dist/bench/gpu/prefill.js --blocks "${BLOCKS:-16}" --gpus 2
      ;;
    memory)
      part 'memory of the GPU' node dist/bench/gpu/memory-budget.js --shape "$shape"
      ;;
    *)
      echo "unknown part $name" && status=2
      ;;
  esac
done
exit $status
