//! Link arguments of the interception library.

fn main() {
    // Constructors of other libraries open files: ours must have run before theirs. Hooks initialise lazily all the
    // same, because only one object of a process can be first.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,initfirst");
    println!("cargo::rerun-if-changed=build.rs");
}
