//! The binary carries these folders; a file added to one must make it out of date.

fn main() {
    for folder in ["../guest-sdk", "../wit", "../agents"] {
        println!("cargo:rerun-if-changed={folder}");
    }
}
