#!/usr/bin/env bash
# Runs the models on a GPU: the parity cases with weights in f32 and in bf16, then the rows of
# tests/peers/models.py beside PyTorch eager and torch.compile. Builds nothing and ends within ten
# minutes: it starts no row that it has no time for, and names those that it left out.
#
#   tests/cuda.sh [--device DEVICE] [--tiny] [--dir FOLDER] PROGRAM.gz
#
# PROGRAM.gz is the program `models` for this machine, stripped and compressed:
#
#   cargo build --release -p capstan-tests --bin models --features cuda
#   strip -o models target/release/models && gzip models
#
# --device cpu and --tiny try the script itself, without a GPU and with small shapes. FOLDER (default: a
# temporary one) takes the checkpoints. PYTHON (default: python3) has the packages that
# tests/peers/reference.py names; without them the table is left out. CUDA_PATH (default: /usr/local/cuda)
# holds the toolkit's headers, which kernels are compiled with while the program runs.
#
# Exit codes: 0 everything ran and agrees, 1 a case or a check failed, 2 usage, 3 rows were left out,
# 4 this machine has no GPU.
set -euo pipefail

# Seconds in all, and for the rows in f32: the rest is for those in bf16.
readonly LIMIT_S=560 F32_UNTIL_S=400
SECONDS=0

usage() {
  sed -n 's/^#   //p' "$0" | head -n 1 >&2
  exit 2
}

device=cuda tiny=() folder='' program=''
while (($# > 0)); do
  case $1 in
    --device | --dir)
      (($# > 1)) || usage
      if [[ $1 == --device ]]; then device=$2; else folder=$2; fi
      shift 2
      ;;
    --tiny)
      tiny=(--tiny)
      shift
      ;;
    -*) usage ;;
    *)
      [[ -z $program ]] || usage
      program=$1
      shift
      ;;
  esac
done
[[ -f $program ]] || usage

if [[ $device == cuda* ]]; then
  if ! gpus=$(nvidia-smi --list-gpus 2>/dev/null) || ! grep -q '^GPU ' <<<"$gpus"; then
    echo "cuda.sh: nvidia-smi lists no GPU on this machine: nothing was run" >&2
    exit 4
  fi
  echo "on $gpus"
fi
export CUDA_PATH=${CUDA_PATH:-/usr/local/cuda}
python=${PYTHON:-python3}
tests=$(cd "$(dirname "$0")" && pwd)
if [[ -z $folder ]]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
mkdir -p "$folder"
models=$folder/models-program
gunzip --stdout "$program" >"$models"
chmod +x "$models"

failed=0 left_out=0

for dtype in f32 bf16; do
  echo "== parity on $device, weights in $dtype"
  CAPSTAN_PARITY_DEVICE=$device CAPSTAN_PARITY_DTYPE=$dtype RUST_BACKTRACE=0 \
    timeout 120 "$models" parity --cases "$tests/parity/cases" || failed=1
done

missing=''
for module in torch transformers open_clip safetensors numpy PIL; do
  "$python" -c "import $module" 2>/dev/null || missing+=" $module"
done
if [[ -n $missing ]]; then
  echo "left out: every row of the table: $python has no$missing"
  exit $((failed ? 1 : 3))
fi

# The rows that tell most come first. Not on the CPU: torch.compile needs a C++ compiler there.
compile=(--compile)
[[ $device == cuda* ]] || compile=()
for dtype in f32 bf16; do
  until=$LIMIT_S
  [[ $dtype == bf16 ]] || until=$F32_UNTIL_S
  echo "== table on $device, $dtype"
  status=0
  "$python" "$tests/peers/models.py" --ours "$models" --dir "$folder/checkpoints" \
    --device "$device" --dtype "$dtype" "${compile[@]}" "${tiny[@]}" \
    --limit-s $((until > SECONDS ? until - SECONDS : 1)) \
    --first 'batch 8' --first embed --first train --first 'caption beam' 2>/dev/null || status=$?
  case $status in
    0) ;;
    3) left_out=1 ;;
    *) failed=1 ;;
  esac
done

echo "took $SECONDS s"
exit $((failed ? 1 : left_out ? 3 : 0))
