//! Finds the end of a JPEG file. The decoder fills missing data with grey without an error, so this check runs beside
//! it.
//!
//! ITU-T T.81, Annex B: a file is a row of segments; behind the header of a scan come its bits, in which a byte 0xff is
//! followed by 0x00 or by a restart mark. What begins with anything else there is the next segment.

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the mark of the end.
    Marked,
    /// In the only scan's bits: there may be all of them.
    Unmarked,
    /// Before the last scan.
    CutOff,
}

/// The mark of the end.
pub(super) const END: &[u8] = &[0xff, 0xd9];

/// Bits that stand for something else than the zeros that a decoder supplies.
pub(super) const FILLER: &[u8] = &[0x5a; 64];

/// How the file ends, if it is a JPEG file.
pub(super) fn end(bytes: &[u8]) -> Option<End> {
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
    let mut progressive = false;
    loop {
        // Fill bytes before a mark are 0xff; others are skipped, as decoders do.
        let Some(at) = rest.windows(2).position(|w| w[0] == 0xff && !matches!(w[1], 0x00 | 0xff)) else {
            return Some(End::CutOff);
        };
        let mark = rest[at + 1];
        rest = &rest[at + 2..];
        match mark {
            0xd9 => return Some(End::Marked),
            0x01 | 0xd0..=0xd8 => continue,
            0xc2 | 0xc6 | 0xca | 0xce => progressive = true,
            _ => {}
        }
        let length = rest.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
        let Some(behind) = rest.get(length.max(2)..) else { return Some(End::CutOff) };
        rest = behind;
        if mark == 0xda {
            let next = rest.windows(2).position(|w| w[0] == 0xff && !matches!(w[1], 0x00 | 0xd0..=0xd7 | 0xff));
            let Some(next) = next else { return Some(if progressive { End::CutOff } else { End::Unmarked }) };
            rest = &rest[next..];
        }
    }
}
