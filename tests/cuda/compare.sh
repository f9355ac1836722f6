#!/usr/bin/env bash
# The small pipeline on a GPU and on the CPU of this machine, compared: it captions, filters and
# trains two ranks with `--device cuda`. What must agree, and how closely, stands in
# tests/cuda/agreement.rs.
#
#   tests/cuda/compare.sh [FOLDER]
#
# FOLDER (target/cuda-check unless given) keeps what was made: a demo that is finished is not run
# again. Needs an NVIDIA driver and a CUDA toolkit; CUDA_PATH names it where it is not
# /usr/local/cuda. CUDARC_CUDA_VERSION is the toolkit's version: 13000 for 13.0.
#
# Exit codes: 0 they agree, 1 they do not, 4 there is no GPU here.
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

# Every stage on each device, two ranks to a training: losses and gradients are compared.
for device in cpu cuda; do
  if [[ ! -e $folder/$device/summary.json ]]; then
    "$capstan" demo --seed 7 --world tests/small/world.toml --pipeline tests/small/pipeline.toml \
      --out "$folder/$device" --device "$device"
  fi
done

# The same captioner and filter on both devices, over pictures that neither was trained on: what the
# stages wrote above comes from models that differ by their own rounding.
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
