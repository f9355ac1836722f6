#!/usr/bin/env bash
# Runs the small pipeline on a GPU and on the CPU of this machine and compares the results: training
# with two ranks, captions, filter scores. tests/cuda/agreement.rs has the bounds.
#
#   tests/cuda/compare.sh [FOLDER]
#
# FOLDER (default: target/cuda-check) keeps the outputs; a finished demo is not run again. Needs an
# NVIDIA driver and a CUDA toolkit in CUDA_PATH (default: /usr/local/cuda). CUDARC_CUDA_VERSION is the
# toolkit's version: 13000 for 13.0.
#
# Exit codes: 0 the devices agree, 1 they do not, 4 this machine has no GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:-target/cuda-check}
texts=("a red ball" "two blue rings" "a white clock on a crate")

if ! gpus=$(nvidia-smi --list-gpus 2>/dev/null) || ! grep -q '^GPU ' <<<"$gpus"; then
  echo "compare.sh: nvidia-smi lists no GPU on this machine: nothing was built and nothing compared" >&2
  exit 4
fi
echo "on $gpus"
export CUDA_PATH=${CUDA_PATH:-/usr/local/cuda} CUDARC_CUDA_VERSION=${CUDARC_CUDA_VERSION:-13000}

cargo build --release --package capstan --package capstan-tests --bins --features capstan/cuda
capstan=${CARGO_TARGET_DIR:-target}/release/capstan
agreement=${CARGO_TARGET_DIR:-target}/release/agreement

# Every stage on each device, with two ranks per training: losses and gradients are compared.
for device in cpu cuda; do
  if [[ ! -e $folder/$device/summary.json ]]; then
    "$capstan" demo --seed 7 --world tests/small/world.toml --pipeline tests/small/pipeline.toml \
      --out "$folder/$device" --device "$device"
  fi
done

# The same captioner and filter on both devices, over held-out pictures. The captions and scores of the
# runs above cannot be compared, because each run trained its own models.
models=$folder/cpu/models
mapfile -t pictures < <(find "$folder/cpu/annotations/evaluation" -name '*.png' -o -name '*.jpg' | sort)
for device in cpu cuda; do
  "$capstan" caption "${pictures[@]}" --model "$models/captioner" --json --device "$device" \
    >"$folder/$device/captions.jsonl"
  for picture in "${pictures[@]}"; do
    "$capstan" match "$picture" "${texts[@]}" --model "$models/matcher" --json --device "$device"
  done >"$folder/$device/matches.jsonl"
done

"$agreement" "$folder/cpu" "$folder/cuda"
