#!/bin/bash
# The long runs of the reliability tests: rounds over ever new seeds, until interrupted or for ROUNDS rounds.
# A round that was interrupted is run again; finished ones are remembered in build/soak. Each prints its seed.
set -euo pipefail
cd "$(dirname "$0")/.."
state=build/soak
mkdir -p "$state"
first=$(cat "$state/next" 2>/dev/null || echo 1)
last=${ROUNDS:+$((first + ROUNDS - 1))}
for ((seed = first; ; seed++)); do
    [ -z "${last:-}" ] || [ "$seed" -le "$last" ] || break
    echo "round $seed"
    KISSDB_CUT_STATES=${CUTS:-2000000} KISSDB_SEED=$seed KISSDB_SEEDS=1 \
        cargo test --profile checked --test power_cuts -- --nocapture
    KISSDB_ALL_POINTS=1 cargo test --profile checked --test kill_points
    KISSDB_KILLS=${KILLS:-10000} KISSDB_SEED=$seed cargo test --profile checked --test kills -- --nocapture
    KISSDB_DAMAGED=${DAMAGED:-4000000} KISSDB_SEED=$seed cargo test --profile checked --test damaged -- --nocapture
    KISSDB_HISTORIES=${HISTORIES:-40000} KISSDB_SEED=$seed cargo test --profile checked --test histories -- --nocapture
    echo $((seed + 1)) > "$state/next"
done
