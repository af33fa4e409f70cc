//! Prints what this machine makes of the vectors.

fn main() {
    vectors::run(&mut |line| println!("{line}"));
}
