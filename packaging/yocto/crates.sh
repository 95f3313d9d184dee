#!/bin/sh
# Names every crate of Cargo.lock that comes from the registry, with its checksum, for the recipe:
#     packaging/yocto/crates.sh > packaging/yocto/recipes-support/kissdb/kissdb-crates.inc
# or `make yocto-crates`. tests/packaging.rs fails while the two differ.
set -eu
cd "$(dirname "$0")/../.."

crates=$(awk '
    function value(line) { sub(/^[a-z]+ = "/, "", line); sub(/"$/, "", line); return line }
    /^\[\[package\]\]/ { name = version = "" }
    /^name = /     { name = value($0) }
    /^version = /  { version = value($0) }
    /^checksum = / { print name, version, value($0) }
' Cargo.lock)

echo "# Made of Cargo.lock by packaging/yocto/crates.sh."
echo
printf '%s\n' 'SRC_URI += "\'
echo "$crates" | while read -r name version _; do
    echo "    crate://crates.io/$name/$version \\"
done
echo '"'
echo
echo "$crates" | while read -r name version sum; do
    echo "SRC_URI[$name-$version.sha256sum] = \"$sum\""
done
