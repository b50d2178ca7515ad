//! Digests as text.

use sha2::{Digest, Sha256};

/// Hex digits of the SHA-256 of some bytes (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
