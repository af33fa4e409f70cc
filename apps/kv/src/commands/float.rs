//! Addition for INCRBYFLOAT and HINCRBYFLOAT.

use super::error::{Error, NOT_FINITE};
use crate::base::{DecimalBuf, decimal_add, format_shortest, parse_f64};

/// Adds two numbers given as text and writes the sum as redis prints it.
///
/// Redis adds 80-bit `long double`s and prints 17 digits after the point, which for decimals of everyday size is exact
/// decimal addition; so is this. Larger or smaller numbers are added as doubles and printed in full.
pub fn add(old: &[u8], old_error: Error, increment: &[u8], sum: &mut DecimalBuf) -> Result<(), Error> {
    let first = parse_f64(old).ok_or(old_error)?;
    let second = parse_f64(increment).ok_or(super::error::NOT_FLOAT)?;
    if decimal_add(old, increment, sum) {
        return Ok(());
    }
    let total = first + second;
    if !total.is_finite() {
        return Err(NOT_FINITE);
    }
    format_shortest(total, sum);
    Ok(())
}
