#!/bin/bash
# Does by hand what bitbake would do with the recipe: unpacks the tarball and exactly the crates that it names,
# checks their checksums, and builds and installs without any network. Leaves the installation in build/yocto.
#     packaging/yocto/check.sh [TARBALL]
# Without TARBALL: that of `make dist`, so what is committed, and it needs git.
#
# The crates come from cargo's own cache (cargo fetch fills it).
set -euo pipefail
tarball=${1:+$(realpath "$1")}
cd "$(dirname "$0")/../.."
recipe=packaging/yocto/recipes-support/kissdb
if [ -z "$tarball" ]; then
    make --no-print-directory dist
    name=$(basename $recipe/kissdb_*.bb .bb)
    tarball=build/${name/_/-}.tar.gz
fi
work=$PWD/build/yocto
rm -rf "$work"
mkdir -p "$work"/{cargo,vendor,source}

cargo fetch --locked --quiet
cache=${CARGO_HOME:-$HOME/.cargo}/registry/cache
while read -r name version; do
    file=$(find "$cache" -name "$name-$version.crate" -print -quit)
    [ -n "$file" ] || { echo "$name $version is not in $cache" >&2; exit 1; }
    sum=$(sed -n "s/^SRC_URI\[$name-$version\.sha256sum\] = \"\(.*\)\"/\1/p" $recipe/kissdb-crates.inc)
    echo "$sum  $file" | sha256sum --check --quiet
    tar -C "$work/vendor" -xzf "$file"
    echo "{\"files\":{},\"package\":\"$sum\"}" > "$work/vendor/$name-$version/.cargo-checksum.json"
done < <(sed -n 's|^ *crate://crates.io/\(.*\)/\(.*\) .*|\1 \2|p' $recipe/kissdb-crates.inc)
cat > "$work/cargo/config.toml" <<END
[source.crates-io]
replace-with = "recipe"
[source.recipe]
directory = "$work/vendor"
[net]
offline = true
END

tar -C "$work/source" --strip-components=1 -xzf "$tarball"
echo "$(sed -n 's/.*LICENSE;md5=\(.*\)"/\1/p' $recipe/kissdb_*.bb)  $work/source/LICENSE" | md5sum --check --quiet

# do_compile and do_install, with what EXTRA_OEMAKE would hold.
host=$(rustc -vV | sed -n 's/^host: //p')
for step in build "install DESTDIR=$work/image"; do
    # shellcheck disable=SC2086
    CARGO_HOME=$work/cargo make -C "$work/source" CARGO_BUILD_TARGET="$host" CARGO_TARGET_DIR="$work/target" \
        PREFIX=/usr BINDIR=/usr/bin LIBDIR=/usr/lib INCLUDEDIR=/usr/include DATADIR=/usr/share \
        MANDIR=/usr/share/man $step
done

# Every file of the image is named by FILES of the recipe, or by the defaults of bitbake.
left=$(cd "$work/image" && find . -type f -o -type l | grep -vE \
    '^\./usr/(bin/kissdb$|include/|lib/libkissdb\.(a|so|so\.[0-9.]+)$|lib/(pkgconfig|cmake)/|share/(man|bash-completion|fish|zsh)/)' || true)
[ -z "$left" ] || { echo "in no package: $left" >&2; exit 1; }
rm -rf "$work"/{cargo,vendor,source,target}
echo "The recipe's crates are complete; installed into ${work#"$PWD"/}/image."
