#!/bin/bash
# Which lines of engine, session and sys no test reaches: a number for each file, and the lines in build/coverage/missed.
# Fails where such a line is in a function without a reason in tests/coverage-reasons.txt. Counted is also what a process has
# run that was killed or left by _exit: the counters are in a file that it maps. Needs the component llvm-tools of the
# toolchain.
# Arguments: the tests to run, instead of all that matter here. How long calls wait is not judged here: these builds are slow.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/build/coverage
tools=$(echo "$(rustc --print sysroot)"/lib/rustlib/*/bin)
command -v "$tools/llvm-cov" > /dev/null || { echo "rustup component add llvm-tools" >&2; exit 1; }
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(failures faults kills kill_points histories snapshot reads clock traces golden second_reader
    doubtful_pairs damaged power_cuts)
mkdir -p "$out"
rm -f "$out"/*.profraw
# Only this project is instrumented.
printf '#!/bin/sh\nrustc=$1; shift\nexec "$rustc" "$@" -Cinstrument-coverage -Copt-level=1 -Cllvm-args=-runtime-counter-relocation\n' \
    > "$out/rustc"
chmod +x "$out/rustc"
built() {
    RUSTC_WORKSPACE_WRAPPER="$out/rustc" LLVM_PROFILE_FILE=$out/build.profraw cargo test --profile checked --no-run "$@" 2>&1 |
        tee -a "$out/build.log" | sed -n 's/.*Executable.*(\(.*\))$/\1/p'
}
: > "$out/build.log"
# shellcheck disable=SC2046
programs=$(built --lib $(printf -- '--test %s ' "${tests[@]}"); [ $# -gt 0 ] || built --package kissdb-cli)
[ -n "$programs" ] || { tail "$out/build.log" >&2; exit 1; }
rm -f "$out"/*.profraw
export LLVM_PROFILE_FILE=$out/%c%m.profraw
export KISSDB_KILLS=${KISSDB_KILLS:-400} KISSDB_HOLDERS=${KISSDB_HOLDERS:-50} KISSDB_HISTORIES=${KISSDB_HISTORIES:-200} \
    KISSDB_DAMAGED=${KISSDB_DAMAGED:-5000} KISSDB_DAMAGED_FILES=${KISSDB_DAMAGED_FILES:-200} \
    KISSDB_CUT_STATES=${KISSDB_CUT_STATES:-5000}
command=${CARGO_TARGET_DIR:-$PWD/target}/checked/kissdb
objects=()
[ $# -gt 0 ] || objects=("$command")
for program in $programs; do
    echo "$program"
    "$program" > "$out/${program##*/}.log" 2>&1 || { echo "$program: failed" >&2; tail -40 "$out/${program##*/}.log" >&2; }
    # The first one without the word.
    objects+=(${objects:+--object} "$program")
done
"$tools/llvm-profdata" merge --sparse "$out"/*.profraw -o "$out/all.profdata"
files=$(find src/engine src/session src/sys -name '*.rs' ! -path '*/tests*')
# shellcheck disable=SC2086
"$tools/llvm-cov" report "${objects[@]}" --instr-profile "$out/all.profdata" $files
# Lines that were not reached, as `file function line`: unit tests end a file.
# shellcheck disable=SC2086
"$tools/llvm-cov" show "${objects[@]}" --instr-profile "$out/all.profdata" --show-instantiations=false $files | awk -v root="$PWD/" '
    /^\/.*:$/ { file = substr($0, 1, length($0) - 1); sub(root, "", file); name = "-"; tests = 0 }
    {
        line = $0; sub(/^ *[0-9]+\| *[0-9.kMGTE]*\|/, "", line)
        if (line ~ /^mod tests/) tests = 1
        if (match(line, /(^|[^a-z_])fn [a-z0-9_]+/)) { name = substr(line, RSTART, RLENGTH); sub(/.*fn /, "", name) }
    }
    !tests && /^ *[0-9]+\| *0\|/ { split($0, part, "|"); gsub(/ /, "", part[1]); print file, name, part[1] ":" line }' \
    > "$out/missed"
wc -l "$out/missed"
awk 'FILENAME ~ /reasons/ { if ($0 !~ /^(#|$)/) reason[$1 " " $2] = 1; next }
    { met[$1 " " $2] = 1; if (!(($1 " " $2) in reason)) { bad = 1; print "no test and no reason: " $0 } }
    END { for (r in reason) if (!(r in met)) print "reached now: " r; exit bad }' tests/coverage-reasons.txt "$out/missed"
