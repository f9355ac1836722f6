#!/usr/bin/env bash
# Runs the tests of the model room as they run on other processors, emulated by QEMU: x86-64 with AVX2 but
# without AVX-512, x86-64 with neither, and 64-bit Arm. Kernels are chosen while the program runs, so the
# x86 program is the same one.
#
#   tests/processors.sh [avx2 | sse | arm ...]     # default: all three
#
# Needs qemu-user, and for Arm a cross compiler with its C library and the Rust target. On Debian:
#
#   apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross
#   rustup target add aarch64-unknown-linux-gnu
#
# TESTS chooses tests by name (default: all of them). QEMU has no AVX-512: a machine that has it tests it.
set -euo pipefail
cd "$(dirname "$0")/.."

# The program of the tests, built for a target.
program() {
  cargo test -q -p capstan-model --lib --no-run --target "$1" --message-format json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

readonly X86=x86_64-unknown-linux-gnu ARM=aarch64-unknown-linux-gnu
failed=()
[[ $# -gt 0 ]] || set -- avx2 sse arm
for processor; do
  case $processor in
    avx2) run=(qemu-x86_64 -cpu Haswell "$(program $X86)") ;;
    sse) run=(qemu-x86_64 -cpu Nehalem "$(program $X86)") ;;
    arm)
      export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
      run=(qemu-aarch64 -L /usr/aarch64-linux-gnu "$(program $ARM)")
      ;;
    *)
      sed -n 's/^#   //p' "$0" | head -n 1 >&2
      exit 2
      ;;
  esac
  echo "$processor:"
  # shellcheck disable=SC2086 # names of tests are words
  "${run[@]}" ${TESTS:-} || failed+=("$processor")
done
[[ ${#failed[@]} -eq 0 ]] || { echo "failed on: ${failed[*]}" >&2; exit 1; }
