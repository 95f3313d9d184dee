#!/bin/bash
# Which lines of engine, session and sys no test reaches: a number for each file, and the lines in build/coverage/missed.
# Needs the component llvm-tools of the toolchain. What a process does that is killed, or leaves by _exit, is not counted.
# Arguments: the tests to run, instead of all that matter here.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/build/coverage
tools=$(echo "$(rustc --print sysroot)"/lib/rustlib/*/bin)
command -v "$tools/llvm-cov" > /dev/null || { echo "rustup component add llvm-tools" >&2; exit 1; }
tests=("${@:-failures faults kills kill_points histories snapshot clock}")
mkdir -p "$out"
rm -f "$out"/*.profraw
# Only this project is instrumented.
printf '#!/bin/sh\nrustc=$1; shift\nexec "$rustc" "$@" -Cinstrument-coverage -Copt-level=1\n' > "$out/rustc"
chmod +x "$out/rustc"
# shellcheck disable=SC2068,SC2086
programs=$(RUSTC_WORKSPACE_WRAPPER="$out/rustc" cargo test --profile checked --no-run --lib $(printf -- '--test %s ' ${tests[@]}) 2>&1 |
    tee "$out/build.log" | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
export LLVM_PROFILE_FILE=$out/%4m.profraw
objects=()
for program in $programs; do
    KISSDB_KILLS=${KISSDB_KILLS:-200} KISSDB_HOLDERS=50 KISSDB_HISTORIES=${KISSDB_HISTORIES:-150} "$program" || echo "$program: failed" >&2
    # The first one without the word.
    objects+=(${objects:+--object} "$program")
done
"$tools/llvm-profdata" merge --sparse "$out"/*.profraw -o "$out/all.profdata"
files=$(find src/engine src/session src/sys -name '*.rs' ! -name tests.rs)
"$tools/llvm-cov" report "${objects[@]}" --instr-profile "$out/all.profdata" $files
"$tools/llvm-cov" show "${objects[@]}" --instr-profile "$out/all.profdata" $files |
    awk '/^\/.*:$/ { file = $0 } /^ *[0-9]+\| *0\|/ { print file $0 }' > "$out/missed"
wc -l "$out/missed"
