#!/bin/bash
# Installs the packages of `make deb` in a clean Debian, uses each of them, and removes them again.
# As root, with debootstrap and a mirror:
#     packaging/try-deb.sh [SUITE [MIRROR]]
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${1:-bookworm}
mirror=${2:-http://deb.debian.org/debian}
debs=build/deb
[ "$(id -u)" = 0 ] || { echo "try-deb.sh needs root: it makes a chroot" >&2; exit 1; }
ls $debs/libkissdb2_*.deb $debs/libkissdb-dev_*.deb $debs/kissdb-tools_*.deb > /dev/null

root=$(mktemp -d)
chmod 755 "$root"
end() {
    for mounted in "$root/dev/shm" "$root/proc"; do
        mountpoint -q "$mounted" && umount "$mounted"
    done
    rm -rf --one-file-system "$root"
}
trap end EXIT

debootstrap --variant=minbase "$suite" "$root" "$mirror" > "$root.log" 2>&1 \
    || { tail -20 "$root.log" >&2; exit 1; }
rm -f "$root.log"
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
mkdir "$root/try"
cp $debs/libkissdb2_*.deb $debs/libkissdb-dev_*.deb $debs/kissdb-tools_*.deb "$root/try"
cp -r examples "$root/try"

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
# Quiet, unless something is wrong. The names are expanded inside.
install() {
    inside sh -c "apt-get install -y -qq --no-install-recommends $1" > "$root/try/log" 2>&1 \
        || { cat "$root/try/log" >&2; exit 1; }
}
say() { printf '== %s\n' "$*"; }

say "the library and the command alone: they need no more than the C library and libgcc_s"
install '/try/libkissdb2_*.deb /try/kissdb-tools_*.deb'
inside sh -ec '
    cd /try
    gunzip -c examples/vehicle.db.gz > vehicle.db
    kissdb info vehicle.db > info
    test "$(kissdb list vehicle.db | wc -l)" -ge 58
    kissdb check vehicle.db
    kissdb put vehicle.db /try/key value
    test "$(kissdb get vehicle.db /try/key)" = value
    kissdb delete vehicle.db /try/key
    test -e /usr/share/bash-completion/completions/kissdb'

say "programs in C and C++, with pkg-config and with CMake"
install '/try/libkissdb-dev_*.deb gcc g++ make pkg-config cmake'
inside sh -ec '
    cd /try
    cc -std=c99 -Wall -Wextra -Werror -o settings examples/settings.c $(pkg-config --cflags --libs kissdb)
    ./settings vehicle.db | tail -2
    c++ -std=c++17 -Wall -Wextra -Werror -o settings-cpp examples/settings.cpp $(pkg-config --cflags --libs kissdb)
    ./settings-cpp vehicle.db | tail -2
    cmake -S examples -B cmake > cmake.log
    cmake --build cmake >> cmake.log
    gunzip -c examples/vehicle.db.gz > vehicle.db
    cmake/settings vehicle.db > /dev/null
    cmake/settings-cpp vehicle.db > /dev/null
    readelf -d settings | grep "NEEDED.*libkissdb.so.2"
    test -z "$(ls /dev/shm)"'

say "removed again"
inside apt-get purge -y -qq libkissdb2 libkissdb-dev kissdb-tools > /dev/null 2>&1
left=$(find "$root/usr" "$root/etc" "$root/var/lib" -iname '*kissdb*' | sed "s|^$root||")
[ -z "$left" ] || { printf 'left behind: %s\n' "$left" >&2; exit 1; }
echo "The packages are good for a clean Debian $suite."
