#!/bin/bash
# make test-dlt: a library with the feature dlt, a program that meets damage, a daemon that must tell of it.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in dlt-daemon dlt-receive; do
    command -v "$tool" > /dev/null || { echo "test-dlt needs $tool" >&2; exit 1; }
done

dir=$(mktemp -d)
daemon=
receiver=
end() {
    for pid in $receiver $daemon; do
        kill "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    done
    rm -rf "$dir"
}
trap end EXIT

make --no-print-directory install FEATURES=dlt PREFIX="$dir/prefix" DESTDIR= > "$dir/install.log" 2>&1 \
    || { cat "$dir/install.log"; exit 1; }
export PKG_CONFIG_PATH=$dir/prefix/lib/pkgconfig
# shellcheck disable=SC2046
"${CC:-cc}" -std=c99 -Wall -Wextra -Werror -g -o "$dir/shared" ctest/dlt.c $(pkg-config --cflags --libs kissdb) \
    -Wl,-rpath,"$dir/prefix/lib"
# shellcheck disable=SC2046
"${CC:-cc}" -std=c99 -Wall -Wextra -Werror -g -o "$dir/static" ctest/dlt.c \
    $(pkg-config --static --cflags --libs kissdb | sed s/-lkissdb/-l:libkissdb.a/)

port=$((20000 + $$ % 20000))
sed "s|^ControlSocketPath.*|ControlSocketPath = $dir/control|; s|^LoggingFilename.*|LoggingFilename = $dir/dlt.log|" \
    /etc/dlt.conf > "$dir/dlt.conf"
dlt-daemon -c "$dir/dlt.conf" -t "$dir" -p $port > "$dir/daemon.out" 2>&1 &
daemon=$!
export DLT_PIPE_DIR=$dir
for _ in $(seq 100); do [ -p "$dir/dlt" ] && break; sleep 0.1; done
[ -p "$dir/dlt" ] || { cat "$dir/daemon.out"; echo "the daemon does not start" >&2; exit 1; }
# It gives up if the daemon does not listen yet, and hears of its own connection once it does.
for _ in $(seq 100); do
    [ -n "$receiver" ] && kill -0 "$receiver" 2> /dev/null || {
        stdbuf -oL dlt-receive -a -p $port localhost > "$dir/received" 2>&1 &
        receiver=$!
    }
    grep -q DLTD "$dir/received" && break
    sleep 0.1
done

said='pair at 16384, key "key": copy A is damaged, served from copy B'
for program in shared static; do
    "$dir/$program"
done
# Of each program: a child, and itself.
for _ in $(seq 100); do
    n=$(grep -cF "$said" "$dir/received" || true)
    [ "$n" -ge 4 ] && break
    sleep 0.1
done
if [ "$n" -ne 4 ] || [ "$(grep -F "$said" "$dir/received" | grep -c ' KDB- KDB- log warn ')" -ne 4 ]; then
    cat "$dir/received" "$dir/daemon.out"
    echo "$n messages arrived, not 4" >&2
    exit 1
fi
grep -F "$said" "$dir/received" | head -1
echo "test-dlt passed"
