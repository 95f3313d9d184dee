#!/bin/bash
# The test run under AddressSanitizer and LeakSanitizer: an access outside of what was allocated, a use after it was freed,
# or a leak, in any process of any test, is a failure. The stable compiler does it when told to take an unstable option.
# Arguments: the tests to run, instead of all.
#
# Left out, and why:
# - kill_points: it puts an mmap of its own in the place of that of the sanitizer, and traces its children, under which leaks
#   cannot be searched for. Its children die in any case.
# - the_library_can_be_unloaded (faults): the sanitizer lives in the program, and a library that has been unloaded takes the
#   roots with it from which leaks are searched for. `make valgrind` and the plain run have it.
# - memory (c_programs): it puts a malloc of its own in the place of that of the sanitizer.
# - abi, header, install, integration, packaging, the command: they run none of the library's code that others do not.
# Children that are killed or leave by _exit are searched for bad accesses, not for leaks.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/build/asan
host=$(rustc -vV | sed -n 's/^host: //p')
# Of its own, so that the plain build stays; with a target, so that build scripts are left alone.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/asan CARGO_BUILD_TARGET=$host
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
# SIGBUS belongs to the library. What is said goes to files: some tests do not look at what their children say.
export ASAN_OPTIONS=detect_leaks=1:handle_sigbus=0:log_path=$out/said
# Counts that fit a build some times slower.
export KISSDB_KILLS=${KISSDB_KILLS:-200} KISSDB_HOLDERS=${KISSDB_HOLDERS:-50} KISSDB_HISTORIES=${KISSDB_HISTORIES:-100} \
    KISSDB_DAMAGED=${KISSDB_DAMAGED:-10000} KISSDB_DAMAGED_FILES=${KISSDB_DAMAGED_FILES:-200} KISSDB_CUT_STATES=${KISSDB_CUT_STATES:-5000}
# For C programs that are linked with the library.
runtime=$(echo "$(rustc --print sysroot)/lib/rustlib/$host"/lib/librustc-*_rt.asan.a)
export KISSDB_ASAN=$runtime
mkdir -p "$out"
rm -rf "${out:?}"/*
failed=()
run() {
    local name=$1
    shift
    echo "== $name"
    local found bad=
    cargo test --profile checked "$@" || bad=1
    # Fork children also say that threads of their parents are not there, which is as it should be.
    found=$(grep -ls 'ERROR: ' "$out"/said*) && bad=1
    [ -n "$bad" ] || return 0
    failed+=("$name")
    # shellcheck disable=SC2086
    [ -z "$found" ] || head -40 $found >&2
    mkdir -p "$out/$name"
    mv "$out"/said* "$out/$name" 2> /dev/null || true
}
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    names=(lib failures traces golden second_reader reads snapshot clock faults histories kills doubtful_pairs damaged
        power_cuts c_programs)
fi
for name in "${names[@]}"; do
    case $name in
        lib) run lib --lib ;;
        faults) run faults --test faults -- --skip the_library_can_be_unloaded ;;
        c_programs) run c_programs --test c_programs -- --skip memory ;;
        *) run "$name" --test "$name" ;;
    esac
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
echo "Nothing found."
