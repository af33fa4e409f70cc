//! Computes with rayon: as many pieces as its first argument says, each of them on a pool of four threads, and says what came
//! of each. It begins when it is given a line of standard input, or its end.

use std::env;
use std::io::stdin;

use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

/// Rows and columns of what is drawn.
const SIZE: u32 = 160;
const MOST_STEPS: u32 = 300;

/// Steps until a point of the Mandelbrot set's surroundings leaves it.
fn steps(x: f64, y: f64) -> u32 {
    let (mut a, mut b) = (0.0_f64, 0.0_f64);
    (0..MOST_STEPS)
        .find(|_| {
            (a, b) = (a * a - b * b + x, 2.0 * a * b + y);
            a * a + b * b > 4.0
        })
        .unwrap_or(MOST_STEPS)
}

/// Draws a part of it, row by row, and adds up what it has drawn.
fn draw(piece: u32) -> (u64, u32) {
    let zoom = 2.0 / f64::from(piece + 1);
    let rows: Vec<Vec<u32>> = (0..SIZE)
        .into_par_iter()
        .map(|row| {
            let y = (f64::from(row) / f64::from(SIZE) - 0.5) * zoom + 0.11;
            (0..SIZE).map(|column| steps((f64::from(column) / f64::from(SIZE) - 0.5) * zoom - 0.75, y)).collect()
        })
        .collect();
    let mut all: Vec<u32> = rows.par_iter().flatten().copied().collect();
    all.par_sort_unstable();
    let sum = all.par_iter().enumerate().map(|(index, steps)| index as u64 * u64::from(*steps)).sum();
    (sum, all.par_iter().copied().reduce(|| 0, u32::max))
}

pub fn main() {
    let mut line = String::new();
    stdin().read_line(&mut line).expect("a line or the end");
    let pieces = env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3);
    let pool = ThreadPoolBuilder::new().num_threads(4).build().expect("a pool");
    for piece in 0..pieces {
        let (sum, largest) = pool.install(|| draw(piece));
        println!("piece {piece}: {sum:x}, at most {largest}");
    }
    println!("all done");
}
