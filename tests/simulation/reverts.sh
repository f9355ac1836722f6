#!/usr/bin/env bash
# Takes back one fix after another, and expects the simulation to find each. Works on the last commit, in a
# checkout of its own.
#
#   tests/simulation/reverts.sh            # every patch of reverts/
#   tests/simulation/reverts.sh NAME ...   # these
#
# CAPSTAN_SEEDS chooses the seeds (0..500).
set -euo pipefail
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
cd "$root"
tree=$(mktemp -d)/main
git worktree add -q --detach "$tree" HEAD
trap 'git worktree remove --force "$tree"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/reverts}
missed=()
for patch in "$root"/tests/simulation/reverts/*.patch; do
  name=$(basename "$patch" .patch)
  [[ $# -eq 0 || " $* " == *" $name "* ]] || continue
  git -C "$tree" checkout -q -- .
  git -C "$tree" apply "$patch"
  log="$CARGO_TARGET_DIR/$name.log"
  mkdir -p "$CARGO_TARGET_DIR"
  (cd "$tree" && cargo test -q -p capstan-coordinator --test simulation --no-run)
  if (cd "$tree" && cargo test -q -p capstan-coordinator --test simulation every_history -- --nocapture) >"$log" 2>&1; then
    echo "$name: NOT found"
    missed+=("$name")
  else
    echo "$name: found, $(grep -m1 '^seed ' "$log" | cut -c1-150)"
  fi
done
[[ ${#missed[@]} -eq 0 ]] || { echo "not found: ${missed[*]}" >&2; exit 1; }
