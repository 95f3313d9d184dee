//! Gives the shared library its SONAME. The major number is that of the ABI that callers link.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libkissdb.so.{major}");
    // The SIGBUS handler must not be unloaded under a process that still has it installed.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
