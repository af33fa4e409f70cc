//! With what the cost of a checkpoint that builds upon another grows: with what was written, and not with memory.

use serde::Serialize;

use super::{ByChanges, BySize};

/// Straight lines through what was measured, by least squares.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Slopes {
    /// Time of a checkpoint that builds upon another, in microseconds for each page that it holds.
    pub us_per_changed_page: f64,
    /// The same, in microseconds for each further MiB of memory, as many pages having changed.
    pub us_per_mib: f64,
    /// Time of a full checkpoint, in microseconds for each further MiB of memory that holds nothing.
    pub full_us_per_mib: f64,
}

impl Slopes {
    pub(super) fn of(sizes: &[BySize], changes: &[ByChanges]) -> Self {
        let by_memory = |took_ms: fn(&BySize) -> f64| {
            slope(sizes.iter().map(|size| (f64::from(size.memory_mib), took_ms(size) * 1e3)))
        };
        Self {
            us_per_changed_page: slope(changes.iter().map(|change| (change.pages as f64, change.took_ms * 1e3))),
            us_per_mib: by_memory(|size| size.changed_took_ms),
            full_us_per_mib: by_memory(|size| size.took_ms),
        }
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "a checkpoint of what has changed takes {:.1} us for each page that has, and {:.2} us for each MiB of memory; a full \
             one takes {:.1} us for each MiB\n",
            self.us_per_changed_page, self.us_per_mib, self.full_us_per_mib
        )
    }
}

/// The slope of the straight line that lies closest to these points; 0 if they do not make one.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count() as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (product, square) =
        points.fold((0.0, 0.0), |(p, s), point| (p + (point.0 - x) * (point.1 - y), s + (point.0 - x).powi(2)));
    if square > 0.0 { product / square } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn a_line_has_its_slope_and_a_point_none() {
        let near = |points: &[(f64, f64)], expected: f64| (slope(points.iter().copied()) - expected).abs() < 1e-9;
        assert!(near(&[(0.0, 5.0), (10.0, 25.0), (20.0, 45.0)], 2.0));
        assert!(near(&[(0.0, 1.0), (1.0, -1.0), (2.0, 1.0)], 0.0));
        assert!(near(&[(3.0, 4.0), (3.0, 8.0)], 0.0));
        assert!(near(&[], 0.0));
    }
}
