//! The program's own `fdatasync` and the like stand in front of libc's for every loaded library.
fn main() {
    println!("cargo:rustc-link-arg-bins=-rdynamic");
    println!("cargo:rerun-if-changed=build.rs");
}
