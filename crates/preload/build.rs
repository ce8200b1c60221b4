//! Link arguments of the interception library.

fn main() {
    // Constructors of other libraries open files: ours must have run before theirs. Hooks initialise lazily all the
    // same, because only one object of a process can be first.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,initfirst");
    // A hook that calls another one (a 64-bit twin, say) means ours: that of a library before us (a sanitizer's) may
    // call the first again, without end.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
    println!("cargo::rerun-if-changed=build.rs");
}
