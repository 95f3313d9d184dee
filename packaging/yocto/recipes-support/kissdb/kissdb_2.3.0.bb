SUMMARY = "Key-value store of automotive persistence middleware"
DESCRIPTION = "The settings of a device in one file of keys and values that \
               survives power cuts and dead processes. Takes the place of \
               the C library: same functions, structs, files and \
               shared-memory names."
SECTION = "libs"
LICENSE = "MPL-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=815ca599c9df247a0c7f619bab123dad"

CVE_PRODUCT = "kissdb"

# The tarball of the release, beside this recipe, or wherever KISSDB_SOURCE says.
KISSDB_SOURCE ?= "file://kissdb-${PV}.tar.gz"
SRC_URI = "${KISSDB_SOURCE}"

# Every crate of Cargo.lock, with its checksum: made by packaging/yocto/crates.sh.
require kissdb-crates.inc

inherit cargo pkgconfig

PACKAGECONFIG ??= ""
# Messages of recovery and damage in DLT (meta-oe or meta-ivi).
PACKAGECONFIG[dlt] = "FEATURES=dlt,,dlt-daemon"

EXTRA_OEMAKE = "\
    CARGO_BUILD_TARGET=${RUST_HOST_SYS} \
    CARGO_TARGET_DIR=${B}/target \
    PREFIX=${prefix} \
    BINDIR=${bindir} \
    LIBDIR=${libdir} \
    INCLUDEDIR=${includedir} \
    DATADIR=${datadir} \
    MANDIR=${mandir} \
    ${PACKAGECONFIG_CONFARGS} \
"

# The Makefile calls cargo for what is installed, and no more than that.
do_compile() {
    oe_cargo_fix_env
    export RUSTFLAGS="${RUSTFLAGS}"
    export RUST_TARGET_PATH="${RUST_TARGET_PATH}"
    oe_runmake -C ${S} build
}

do_install() {
    oe_cargo_fix_env
    export RUSTFLAGS="${RUSTFLAGS}"
    export RUST_TARGET_PATH="${RUST_TARGET_PATH}"
    oe_runmake -C ${S} install DESTDIR=${D}
}

PACKAGES =+ "${PN}-tools"
FILES:${PN}-tools += "\
    ${bindir}/kissdb \
    ${datadir}/bash-completion \
    ${datadir}/fish \
    ${datadir}/zsh \
"

# The command serves on the host as well.
BBCLASSEXTEND = "native nativesdk"
