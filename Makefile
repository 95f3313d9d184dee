# make build | install | uninstall | demo | clean
#      test, which is check, rust-tests and valgrind | test-dlt | test-disks | coverage | asan | soak | fuzz
#      dist | deb | abi-bless | yocto-crates
#      bench | bench-docs | bench-guard | bench-guard-bless
#
# install and uninstall take PREFIX (/usr/local), LIBDIR ($(PREFIX)/lib), BINDIR, INCLUDEDIR, MANDIR, DATADIR and DESTDIR.
# FEATURES=dlt builds a library that also logs to DLT (needs libdlt). CARGO_BUILD_TARGET cross-compiles.

CARGO      ?= cargo
CC         ?= cc
CXX        ?= c++
INSTALL    ?= install
PKG_CONFIG ?= pkg-config
PREFIX     ?= /usr/local
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR     ?= $(PREFIX)/bin
DATADIR    ?= $(PREFIX)/share
MANDIR     ?= $(DATADIR)/man

VERSION := $(shell sed -n '/^version/{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))
TARGET  := $(or $(CARGO_TARGET_DIR),target)
# In a directory of its own: what cargo builds by itself under the same names lacks the feature capi.
LIBRARY := $(TARGET)/library$(addprefix -with-,$(FEATURES))
OUT     := $(LIBRARY)$(addprefix /,$(CARGO_BUILD_TARGET))/release

SONAME := libkissdb.so.$(MAJOR)
SOFILE := libkissdb.so.$(VERSION)
SOURCE := Cargo.toml build.rs $(shell find src -name '*.rs')
# In a directory of its own: it has the library built another way, under the same file names.
COMMAND := $(TARGET)/command$(addprefix /,$(CARGO_BUILD_TARGET))/release/kissdb

.PHONY: all build install uninstall demo test check rust-tests valgrind test-dlt test-disks abi-bless dist deb yocto-crates coverage asan soak fuzz clean
.DELETE_ON_ERROR:

all: build
build: $(OUT)/libkissdb.so $(COMMAND)

# Both libraries come from one run; cargo leaves the time of a library that it need not change.
$(OUT)/libkissdb.so: $(SOURCE)
	$(CARGO) build --release --lib --target-dir $(LIBRARY) --features "capi $(FEATURES)"
	@touch -c $(OUT)/libkissdb.so $(OUT)/libkissdb.a

# The functions that man/kissdb.3 is about: each finds it by its own name.
MAN3 := $(shell sed -n 's/^\.Nm \([^ ]*\).*/\1/p' man/kissdb.3)

$(COMMAND): $(SOURCE) cli/Cargo.toml $(shell find cli/src -name '*.rs')
	$(CARGO) build --release --package kissdb-cli --target-dir $(TARGET)/command
	@touch -c $(COMMAND)

# What the static library needs of the system.
SYSTEM := $(strip $(addprefix -l,$(FEATURES)) -lutil -lrt -lpthread -lm -ldl)

# A tree can be moved with CMake's files, so these need the way from one directory to the other.
FILL = sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
    -e "s|@RELATIVE_INCLUDEDIR@|$$(realpath -ms --relative-to='$(LIBDIR)' '$(INCLUDEDIR)')|" \
    -e 's|@VERSION@|$(VERSION)|' -e 's|@MAJOR@|$(MAJOR)|' -e 's|@SONAME@|$(SONAME)|' \
    -e 's|@SOFILE@|$(SOFILE)|' -e 's|@SYSTEM@|$(SYSTEM)|'

BASH_COMPLETION := $(DATADIR)/bash-completion/completions/kissdb
ZSH_COMPLETION  := $(DATADIR)/zsh/site-functions/_kissdb
FISH_COMPLETION := $(DATADIR)/fish/vendor_completions.d/kissdb.fish

install: build
	$(INSTALL) -d "$(DESTDIR)$(LIBDIR)/pkgconfig" "$(DESTDIR)$(LIBDIR)/cmake/kissdb" "$(DESTDIR)$(INCLUDEDIR)"
	$(INSTALL) -m 755 $(OUT)/libkissdb.so "$(DESTDIR)$(LIBDIR)/$(SOFILE)"
	ln -sf $(SOFILE) "$(DESTDIR)$(LIBDIR)/$(SONAME)"
	ln -sf $(SONAME) "$(DESTDIR)$(LIBDIR)/libkissdb.so"
	$(INSTALL) -m 644 $(OUT)/libkissdb.a "$(DESTDIR)$(LIBDIR)/libkissdb.a"
	$(INSTALL) -m 644 include/kissdb.h include/kissdb.hpp "$(DESTDIR)$(INCLUDEDIR)"
	$(FILL) pkgconfig/kissdb.pc.in > "$(DESTDIR)$(LIBDIR)/pkgconfig/kissdb.pc"
	$(FILL) cmake/kissdb-config.cmake.in > "$(DESTDIR)$(LIBDIR)/cmake/kissdb/kissdb-config.cmake"
	$(FILL) cmake/kissdb-config-version.cmake.in > "$(DESTDIR)$(LIBDIR)/cmake/kissdb/kissdb-config-version.cmake"
	chmod 644 "$(DESTDIR)$(LIBDIR)/pkgconfig/kissdb.pc" "$(DESTDIR)$(LIBDIR)/cmake/kissdb"/*
	$(INSTALL) -d "$(DESTDIR)$(MANDIR)/man3"
	$(INSTALL) -m 644 man/kissdb.3 "$(DESTDIR)$(MANDIR)/man3/kissdb.3"
	for name in $(MAN3); do ln -sf kissdb.3 "$(DESTDIR)$(MANDIR)/man3/$$name.3"; done
	$(INSTALL) -D -m 755 $(COMMAND) "$(DESTDIR)$(BINDIR)/kissdb"
	$(INSTALL) -d "$(DESTDIR)$(MANDIR)/man1"
	$(INSTALL) -m 644 cli/man/*.1 "$(DESTDIR)$(MANDIR)/man1"
	$(INSTALL) -D -m 644 cli/completions/kissdb.bash "$(DESTDIR)$(BASH_COMPLETION)"
	$(INSTALL) -D -m 644 cli/completions/_kissdb "$(DESTDIR)$(ZSH_COMPLETION)"
	$(INSTALL) -D -m 644 cli/completions/kissdb.fish "$(DESTDIR)$(FISH_COMPLETION)"

uninstall:
	rm -f "$(DESTDIR)$(LIBDIR)/$(SOFILE)" "$(DESTDIR)$(LIBDIR)/$(SONAME)" \
	    "$(DESTDIR)$(LIBDIR)/libkissdb.so" "$(DESTDIR)$(LIBDIR)/libkissdb.a" \
	    "$(DESTDIR)$(INCLUDEDIR)/kissdb.h" "$(DESTDIR)$(INCLUDEDIR)/kissdb.hpp" \
	    "$(DESTDIR)$(LIBDIR)/pkgconfig/kissdb.pc"
	rm -rf "$(DESTDIR)$(LIBDIR)/cmake/kissdb"
	rm -f $(patsubst %,"$(DESTDIR)$(MANDIR)/man3/%.3",kissdb $(MAN3))
	rm -f "$(DESTDIR)$(BINDIR)/kissdb" $(foreach page,$(notdir $(wildcard cli/man/*.1)),"$(DESTDIR)$(MANDIR)/man1/$(page)") \
	    "$(DESTDIR)$(BASH_COMPLETION)" "$(DESTDIR)$(ZSH_COMPLETION)" "$(DESTDIR)$(FISH_COMPLETION)"

# The examples, on a settings database that the original library wrote.
DEMO := build/demo
demo: build
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@$(MAKE) --no-print-directory install PREFIX=$(abspath $(DEMO)) LIBDIR=$(abspath $(DEMO))/lib \
	    INCLUDEDIR=$(abspath $(DEMO))/include DESTDIR= > $(DEMO)/install.log
	$(CC) -std=c99 -Wall -Wextra -Wpedantic -o $(DEMO)/settings examples/settings.c \
	    $$(PKG_CONFIG_PATH=$(DEMO)/lib/pkgconfig $(PKG_CONFIG) --cflags --libs kissdb)
	$(CXX) -std=c++17 -Wall -Wextra -Wpedantic -o $(DEMO)/settings-cpp examples/settings.cpp \
	    $$(PKG_CONFIG_PATH=$(DEMO)/lib/pkgconfig $(PKG_CONFIG) --cflags --libs kissdb)
	@gunzip -c examples/vehicle.db.gz > $(DEMO)/vehicle.db
	LD_LIBRARY_PATH=$(DEMO)/lib $(DEMO)/settings $(DEMO)/vehicle.db
	LD_LIBRARY_PATH=$(DEMO)/lib $(DEMO)/settings-cpp $(DEMO)/vehicle.db

test: check rust-tests valgrind
	@echo "All passed."

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

# Unit, trace and recovery tests, the doc tests, the C programs against the installed library, and the command.
rust-tests: build
	$(CARGO) test --profile checked
	$(CARGO) test --profile checked --package kissdb-cli

# The same C programs under memcheck. Slow, so not part of a plain cargo test.
valgrind: build
	KISSDB_VALGRIND=1 $(CARGO) test --profile checked --test c_programs

# After a change of the header that is meant, the ABI is described anew. Debian: abigail-tools.
abi-bless: build
	KISSDB_BLESS=1 $(CARGO) test --profile checked --test abi

# The tarball of the release, build/kissdb-VERSION.tar.gz: what is committed, and nothing else.
dist:
	mkdir -p build
	git archive --prefix=kissdb-$(VERSION)/ -o build/kissdb-$(VERSION).tar.gz HEAD

# Debian packages in build/deb: libkissdb2, libkissdb-dev, kissdb-tools. Debian: debhelper, lintian.
# packaging/try-deb.sh then installs and tries them in a clean Debian.
# Of the tree as it stands, so that it works in an unpacked tarball, where there is no git for `dist`.
DEB := build/deb
deb:
	rm -rf $(DEB)/tree $(DEB)/*.deb $(DEB)/kissdb_*
	mkdir -p $(DEB)/tree
	tar --exclude-vcs --exclude=./target --exclude=./build -cf - . | tar -C $(DEB)/tree -xf -
	cp -r packaging/debian $(DEB)/tree/debian
	cd $(DEB)/tree && CARGO_TARGET_DIR="$(abspath $(DEB))/target" dpkg-buildpackage --build=binary --no-sign
	@# Suppressed: that the first upload to Debian closes a bug there.
	lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs $(DEB)/kissdb_*.changes

# After a change of Cargo.lock: the crates that the Yocto recipe names.
yocto-crates:
	packaging/yocto/crates.sh > packaging/yocto/recipes-support/kissdb/kissdb-crates.inc

# Messages in DLT, with a daemon of its own. Debian: dlt-daemon, dlt-tools, libdlt-dev.
test-dlt:
	tests/dlt.sh

# File systems on loop devices whose power is cut off, or that are full; as root. Debian: btrfs-progs, e2fsprogs, xfsprogs.
test-disks:
	$(CARGO) test --profile checked --test disks -- --ignored --nocapture --test-threads=1

# Which lines no test reaches; needs the component llvm-tools.
coverage:
	tests/coverage.sh

# The tests under AddressSanitizer and LeakSanitizer.
asan:
	tests/asan.sh

# Rounds of the long tests over new seeds, until interrupted; ROUNDS=n for n of them. Goes on where it stopped.
soak:
	tests/soak.sh

# Damaged files led by coverage, under AddressSanitizer, until interrupted; FUZZ holds options of libFuzzer. The stable
# compiler does it when told to take an unstable option.
FUZZ ?= -max_len=55
fuzz:
	mkdir -p fuzz/corpus/damage fuzz/artifacts
	host=$$(rustc -vV | sed -n 's/^host: //p') && cd fuzz && RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Ccodegen-units=1 -Cpasses=sancov-module \
	    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
	    $(CARGO) run --release --target "$$host" --bin damage -- \
	    corpus/damage -artifact_prefix=artifacts/ $(FUZZ)

# Speed, against other stores and bare loops; peers: liblmdb0 libtokyocabinet9 libtdb1 libgdbm6
# libsqlite3-0, as many as are installed. ARGS=--quick: some of the targets, in some minutes; ARGS=--help tells
# the rest; KISSDB_COMPARE=/path/lib.so adds another library with this interface.
.PHONY: bench bench-docs bench-guard bench-guard-bless bench-program
BENCH := $(TARGET)/bench
BENCH_PROGRAM = $(BENCH)/release/kissdb-bench
bench: build bench-program
	$(BENCH_PROGRAM) run --library $(OUT)/libkissdb.so --disk $(BENCH)/disk --out $(BENCH) $(ARGS)

# The tables and plots of docs/performance.md, from the last run.
bench-docs: bench-program
	$(BENCH_PROGRAM) show $(BENCH)/results.json --document docs/performance.md --plots docs/plots > $(BENCH)/tables.txt

# Instructions an operation, counted by valgrind, beside those in benches/guard.json; or these written anew.
bench-guard bench-guard-bless: build bench-program
	$(BENCH_PROGRAM) guard --library $(OUT)/libkissdb.so --figures benches/guard.json --out $(BENCH) \
	    $(if $(filter %-bless,$@),--bless)

bench-program:
	$(CARGO) build --release --manifest-path benches/Cargo.toml --target-dir $(BENCH)

clean:
	rm -rf build
	$(CARGO) clean
