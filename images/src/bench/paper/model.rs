//! The paper's model of what epochs cost, fitted to measurements.
//!
//! Section 4 of the paper: `NP(EL) = 1 + (n_sim * h_sim + (VI / EL) * h_epoch + C) / RT`, where `VI` is the number of
//! instructions that the guest executes, `EL` the length of an epoch in instructions, `h_epoch` the cost of an epoch's
//! boundary with its communication, and `RT` the time without any of this. A guest of ours has no privileged
//! instructions to be simulated (`n_sim = 0`); without I/O there is no `C`. What is left has one constant, `h_epoch`.

use serde::Serialize;

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// `EL`, in instructions.
    pub length: f64,
    /// Normalised performance.
    pub np: f64,
    /// `(VI / EL) / RT`: epochs, by the seconds that the same takes without epochs.
    pub epochs_per_s: f64,
}

/// The model at a point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FitPoint {
    /// Length of an epoch, in instructions.
    pub length: f64,
    /// Measured normalised performance.
    pub measured: f64,
    /// The model's.
    pub modelled: f64,
    /// How far the measurement lies above the model, as a share of the model.
    pub residual: f64,
    /// `h_epoch` as this point alone would give it, in microseconds.
    pub own_cost_us: f64,
}

/// The model, fitted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// `h_epoch`, in microseconds.
    pub cost_us: f64,
    /// `VI / RT`, the middle over all points, in instructions a second, for a guest that fills its epochs.
    pub instructions_per_s: f64,
    /// Every measurement and what the model makes of it.
    pub points: Vec<FitPoint>,
}

impl Fit {
    /// Normalised performance at a length in instructions, for a guest that fills its epochs.
    pub fn np(&self, length: f64) -> f64 {
        1.0 + self.instructions_per_s / length * self.cost_us / 1e6
    }

    /// The greatest residual, whatever its sign.
    pub fn worst(&self) -> f64 {
        self.points.iter().map(|point| point.residual.abs()).fold(0.0, f64::max)
    }
}

/// Fits `h_epoch` by least squares of the relative errors: normalised performance spans orders of magnitude, and
/// absolute ones would leave the shortest epochs alone to decide. `None` for fewer than two points.
pub fn fit(points: &[Point]) -> Option<Fit> {
    if points.len() < 2 {
        return None;
    }
    // Minimal sum of ((np - 1 - x h) / np)^2, where x is the number of epochs in a second of RT.
    let weight = |point: &Point| 1.0 / (point.np * point.np);
    let against: f64 = points.iter().map(|p| weight(p) * p.epochs_per_s * (p.np - 1.0)).sum();
    let squares: f64 = points.iter().map(|p| weight(p) * p.epochs_per_s * p.epochs_per_s).sum();
    let cost_s = against / squares;
    let of = |point: &Point| {
        let modelled = 1.0 + point.epochs_per_s * cost_s;
        FitPoint {
            length: point.length,
            measured: point.np,
            modelled,
            residual: point.np / modelled - 1.0,
            own_cost_us: (point.np - 1.0) / point.epochs_per_s * 1e6,
        }
    };
    let rates: Vec<f64> = points.iter().map(|point| point.epochs_per_s * point.length).collect();
    Some(Fit {
        cost_us: cost_s * 1e6,
        instructions_per_s: crate::bench::median(&rates),
        points: points.iter().map(of).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points that a cost of `cost_us` microseconds gives, each times a factor.
    fn points(cost_us: f64, factors: &[f64]) -> Vec<Point> {
        let at = |(index, factor): (usize, &f64)| {
            let length = 1e3 * 4f64.powi(index as i32);
            Point { length, np: factor * (1.0 + 5e8 / length * cost_us / 1e6), epochs_per_s: 5e8 / length }
        };
        factors.iter().enumerate().map(at).collect()
    }

    #[test]
    fn an_exact_model_is_found_again() {
        let fit = fit(&points(30.0, &[1.0; 6])).expect("enough points");
        assert!((fit.cost_us - 30.0).abs() < 1e-9);
        assert!(fit.worst() < 1e-12);
        assert!((fit.np(1e3) - 16.0).abs() < 1e-9);
        assert!(fit.points.iter().all(|point| (point.own_cost_us - 30.0).abs() < 1e-6));
    }

    #[test]
    fn noise_leaves_residuals_and_moves_the_cost_little() {
        let fit = fit(&points(30.0, &[1.05, 0.95, 1.05, 0.95, 1.0, 1.0])).expect("enough points");
        assert!((fit.cost_us / 30.0 - 1.0).abs() < 0.1, "{}", fit.cost_us);
        assert!(fit.worst() > 0.03 && fit.worst() < 0.12, "{}", fit.worst());
        assert!(fit.points[0].residual > 0.0 && fit.points[1].residual < 0.0);
    }

    #[test]
    fn short_epochs_do_not_decide_alone() {
        // The shortest costs half as much an epoch; the others still pull the constant towards theirs.
        let mut all = points(30.0, &[1.0; 4]);
        all[0].np = 1.0 + (all[0].np - 1.0) / 2.0;
        let fit = fit(&all).expect("enough points");
        assert!(fit.cost_us > 18.0 && fit.cost_us < 30.0, "{}", fit.cost_us);
    }

    #[test]
    fn one_point_is_no_curve() {
        assert_eq!(fit(&points(30.0, &[1.0])), None);
    }
}
