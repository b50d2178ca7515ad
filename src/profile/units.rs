//! Numbers with units, checked when they are made, so that milliseconds are never taken for mebibytes.

use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A number that its unit does not allow.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("is {found}, expected {expected}")]
pub struct UnitError {
    /// What was given.
    pub found: String,
    /// What the unit allows.
    pub expected: &'static str,
}

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $suffix:literal, $expected:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(f64);

        impl $name {
            /// Checks a number.
            ///
            /// # Errors
            /// If the unit does not allow it.
            pub fn new(value: f64) -> Result<Self, UnitError> {
                let allowed: fn(f64) -> bool = $allowed;
                if allowed(value) { Ok(Self(value)) } else { Err(UnitError { found: value.to_string(), expected: $expected }) }
            }

            /// The bare number.
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }

        impl FromStr for $name {
            type Err = UnitError;

            fn from_str(text: &str) -> Result<Self, UnitError> {
                let number = text.trim().parse::<f64>();
                number.map_err(|_| UnitError { found: format!("`{text}`"), expected: $expected }).and_then(Self::new)
            }
        }
    };
}

unit!(
    /// Milliseconds, more than zero.
    Millis, " ms", "milliseconds, more than 0", |v| v.is_finite() && v > 0.0
);
unit!(
    /// Millijoules, more than zero.
    Millijoules, " mJ", "millijoules, more than 0", |v| v.is_finite() && v > 0.0
);
unit!(
    /// Mebibytes (2^20 bytes), more than zero.
    Mib, " MiB", "mebibytes, more than 0", |v| v.is_finite() && v > 0.0
);
unit!(
    /// A share of a whole, 0 to 1.
    Ratio, "x", "a number from 0 to 1", |v| (0.0..=1.0).contains(&v)
);

impl Ratio {
    /// None.
    pub const ZERO: Self = Self(0.0);
    /// One tenth.
    pub const TENTH: Self = Self(0.1);
    /// One eighth.
    pub const EIGHTH: Self = Self(0.125);
    /// One half.
    pub const HALF: Self = Self(0.5);

    /// Checks a share that must leave something: more than 0, up to 1.
    ///
    /// # Errors
    /// If it is not.
    pub fn above_zero(value: f64) -> Result<Self, UnitError> {
        let expected = "a number more than 0, up to 1";
        match Self::new(value) {
            Ok(ratio) if ratio.0 > 0.0 => Ok(ratio),
            _ => Err(UnitError { found: value.to_string(), expected }),
        }
    }

    /// As [`Ratio::above_zero`], of what was typed.
    ///
    /// # Errors
    /// If it is no such number.
    pub fn parse_above_zero(text: &str) -> Result<Self, UnitError> {
        let expected = "a number more than 0, up to 1";
        let number = text.trim().parse::<f64>();
        number.map_err(|_| UnitError { found: format!("`{text}`"), expected }).and_then(Self::above_zero)
    }
}

impl Mib {
    /// The same in bytes.
    pub fn bytes(self) -> f64 {
        self.0 * f64::from(1 << 20)
    }
}
