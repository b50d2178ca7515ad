//! What ranks find, each on its images, put together.

use super::error::EvalError;
use crate::ranks::Ranks;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What every rank has, in the order of the ranks.
///
/// # Errors
/// If a rank cannot be reached, or something is not finite.
pub(super) fn of_all<T: Serialize + DeserializeOwned>(ranks: &Ranks, own: T) -> Result<Vec<T>, EvalError> {
    if ranks.size() == 1 {
        return Ok(vec![own]);
    }
    let unfit = |e: serde_json::Error| EvalError::Unfit(format!("what a rank has found cannot be sent: {e}"));
    let bytes = serde_json::to_vec(&own).map_err(unfit)?;
    ranks.gather(&bytes)?.iter().map(|bytes| serde_json::from_slice(bytes).map_err(unfit)).collect()
}
