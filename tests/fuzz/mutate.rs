//! Small, deterministic changes to bytes: what a damaged disk, a careless tool or an attacker does.

/// Random numbers (splitmix64; Steele, Lea and Flood, 2014).
pub struct Rng(u64);

impl Rng {
    /// The numbers of one input of a target.
    pub fn of(seed: u64, target: &str, input: u64) -> Self {
        let name = target.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut rng = Self(seed ^ name);
        rng.0 = rng.next() ^ input.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// The largest input.
const MAX: usize = 8 << 20;

/// Numbers as text that somebody forgot about.
const NUMBERS: [&[u8]; 18] = [
    b"0",
    b"-1",
    b"1",
    b"NaN",
    b"inf",
    b"-0.0",
    b"1e999",
    b"1e300",
    b"-1e300",
    b"1e-320",
    b"4294967295",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551615",
    b"18446744073709551616",
    b"0.30000000000000004",
    b"null",
    b"1e9",
];

/// Numbers as bits.
const BITS: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Characters that end or begin something in one of the formats, or show where text is taken for granted.
const MARKS: [&[u8]; 22] = [
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"'",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"#",
    b"\0",
    b"\\",
    b"-",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\x1b[31m",
    "\u{202e}".as_bytes(),
    b"&a *a",
    b"=",
];

/// Changes bytes up to eight times; `others` are spliced in, `tokens` are the format's own.
pub fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], tokens: &[&[u8]], rng: &mut Rng) {
    for _ in 0..1 << rng.below(4) {
        match rng.below(16) {
            0 | 1 => flip(bytes, rng),
            2 => {
                let at = rng.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = BITS[rng.below(BITS.len())] as u8;
                }
            }
            3 | 4 => field(bytes, rng),
            5 => bytes.truncate(rng.below(bytes.len())),
            6 => {
                let (from, to) = range(bytes, rng);
                bytes.drain(from..to);
            }
            7 | 8 => repeat(bytes, rng),
            9 => splice(bytes, others, rng),
            10 | 11 => {
                let token = if tokens.is_empty() || rng.below(3) == 0 { rng.pick(&MARKS) } else { rng.pick(tokens) };
                let count = [1, 1, 1, 2, 100, 20_000][rng.below(6)];
                insert(bytes, &token.repeat(count), rng);
            }
            12..=14 => number(bytes, rng),
            _ => lines(bytes, rng),
        }
        bytes.truncate(MAX);
    }
}

fn flip(bytes: &mut [u8], rng: &mut Rng) {
    let at = rng.below(bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}

/// Overwrites what may be a length or an offset, in either order of bytes.
fn field(bytes: &mut [u8], rng: &mut Rng) {
    let (size, value) = ([2, 4, 8][rng.below(3)], BITS[rng.below(BITS.len())]);
    let near = [0, 1, u64::MAX, 8][rng.below(4)];
    let Some(room) = bytes.len().checked_sub(size) else { return };
    // Headers are at the beginning and, in archives, at the end.
    let at = match rng.below(3) {
        0 => rng.below(room.min(64) + 1),
        1 => room - rng.below(room.min(256) + 1),
        _ => rng.below(room + 1),
    };
    let field = &mut bytes[at..at + size];
    let value = value.wrapping_add(near);
    let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
    if rng.below(2) == 0 { field.copy_from_slice(&little[..size]) } else { field.copy_from_slice(&big[8 - size..]) }
}

fn range(bytes: &[u8], rng: &mut Rng) -> (usize, usize) {
    let from = rng.below(bytes.len() + 1);
    let most = [4, 32, 512, bytes.len()][rng.below(4)];
    (from, (from + rng.below(most + 1)).min(bytes.len()))
}

/// The same part many times over.
fn repeat(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let (from, to) = range(bytes, rng);
    let count = [1, 2, 10, 300, 10_000][rng.below(5)].min(MAX / (to - from).max(1));
    let part = bytes[from..to].repeat(count);
    bytes.splice(to..to, part);
}

fn splice(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    if others.is_empty() {
        return;
    }
    let other = &others[rng.below(others.len())];
    let (from, to) = range(other, rng);
    let (a, b) = range(bytes, rng);
    bytes.splice(a..b, other[from..to].iter().copied());
}

fn insert(bytes: &mut Vec<u8>, part: &[u8], rng: &mut Rng) {
    let at = rng.below(bytes.len() + 1);
    bytes.splice(at..at, part.iter().copied());
}

/// Puts an extreme number in the place of one that is written out.
fn number(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let start = rng.below(bytes.len());
    let Some(from) = bytes[start..].iter().position(u8::is_ascii_digit).map(|at| start + at) else { return };
    let end = bytes[from..].iter().position(|b| !b.is_ascii_digit() && *b != b'.').map_or(bytes.len(), |n| from + n);
    bytes.splice(from..end, rng.pick(&NUMBERS).iter().copied());
}

/// Takes a line out, writes it twice, or swaps it with another.
fn lines(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let mut all: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    if all.len() < 2 || bytes.len() > 1 << 20 {
        return;
    }
    let (a, b) = (rng.below(all.len()), rng.below(all.len()));
    match rng.below(3) {
        0 => drop(all.remove(a)),
        1 => all.insert(b, all[a].clone()),
        _ => all.swap(a, b),
    }
    *bytes = all.concat();
}
