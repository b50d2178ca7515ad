//! JPEG and PNG to RGB bytes and back, with bounds; and the orientation that a camera notes in its EXIF data.
//!
//! The decoders are used directly: a library around them would bring formats, colour profiles and twice the crates into
//! every binary that ships.

use std::io::Cursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The largest side that is read, pixels.
const MAX_SIDE: usize = 1 << 15;

/// The most bytes of pixels that are read.
const MAX_BYTES: usize = 1 << 30;

/// Columns, rows, and interleaved RGB bytes.
pub(super) type Rgb = (usize, usize, Vec<u8>);

/// Reads an image and turns it upright; the error says what is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, String> {
    let (rgb, exif) = match bytes {
        [0xFF, 0xD8, 0xFF, ..] => jpeg(bytes)?,
        [0x89, b'P', b'N', b'G', ..] => png(bytes)?,
        _ => return Err("starts like neither".into()),
    };
    if rgb.0 == 0 || rgb.1 == 0 {
        return Err("has no pixels".into());
    }
    Ok(turn(rgb, exif.as_deref().and_then(orientation).unwrap_or(1)))
}

fn check(width: usize, height: usize) -> Result<usize, String> {
    let pixels = width.checked_mul(height).filter(|_| width.max(height) <= MAX_SIDE);
    let bytes = pixels.and_then(|pixels| pixels.checked_mul(3)).filter(|bytes| *bytes <= MAX_BYTES);
    bytes.ok_or_else(|| format!("{width} x {height} pixels, at most {MAX_SIDE} a side and {MAX_BYTES} bytes in all"))
}

fn jpeg(bytes: &[u8]) -> Result<(Rgb, Option<Vec<u8>>), String> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(Cursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("has no size")?;
    let expected = check(width, height)?;
    let exif = decoder.exif().cloned();
    let data = decoder.decode().map_err(|e| e.to_string())?;
    if data.len() != expected {
        return Err(format!("{} bytes of pixels, expected {expected}", data.len()));
    }
    Ok(((width, height, data), exif))
}

fn png(bytes: &[u8]) -> Result<(Rgb, Option<Vec<u8>>), String> {
    let fail = |e: png::DecodingError| e.to_string();
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_BYTES });
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(fail)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let expected = check(width, height)?;
    let size = reader.output_buffer_size().filter(|size| *size <= 2 * MAX_BYTES).ok_or("is too large")?;
    let mut buffer = vec![0; size];
    let frame = reader.next_frame(&mut buffer).map_err(fail)?;
    let pixels = &buffer[..frame.buffer_size().min(size)];
    let data: Vec<u8> = match frame.color_type {
        png::ColorType::Rgb => pixels.to_vec(),
        png::ColorType::Rgba => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        png::ColorType::Grayscale => pixels.iter().flat_map(|p| [*p; 3]).collect(),
        png::ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        png::ColorType::Indexed => return Err("its palette was not resolved".into()),
    };
    if data.len() != expected {
        return Err(format!("{} bytes of pixels, expected {expected}", data.len()));
    }
    let exif = reader.info().exif_metadata.as_ref().map(|exif| exif.to_vec());
    Ok(((width, height, data), exif))
}

/// The bytes of a PNG file.
pub(super) fn encode_png(width: usize, height: usize, rgb: &[u8]) -> Result<Vec<u8>, String> {
    let side = |side: usize| u32::try_from(side).map_err(|_| format!("{side} pixels are too many"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(width)?, side(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(rgb)?;
        writer.finish()
    });
    written.map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// The value of the tag "orientation" (0x112) in the first directory of EXIF data, 1 to 8.
fn orientation(exif: &[u8]) -> Option<u8> {
    let little = match exif.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let pair: [u8; 2] = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) })
    };
    let u32_at = |at: usize| {
        let (a, b) = (usize::from(u16_at(at)?), usize::from(u16_at(at.checked_add(2)?)?));
        Some(if little { b << 16 | a } else { a << 16 | b })
    };
    const SHORT: u16 = 3;
    let start = u32_at(4)?;
    let entries = usize::from(u16_at(start)?);
    let entry = |i: usize| start.checked_add(2 + 12 * i);
    let found =
        (0..entries).filter_map(entry).find(|at| u16_at(*at) == Some(0x112) && u16_at(at + 2) == Some(SHORT))?;
    u16_at(found.checked_add(8)?).and_then(|value| u8::try_from(value).ok()).filter(|value| (1..=8).contains(value))
}

/// Turns an image that is stored with an orientation (EXIF 2.32, 4.6.4) upright.
fn turn((width, height, data): Rgb, orientation: u8) -> Rgb {
    if orientation == 1 {
        return (width, height, data);
    }
    let (w, h) = if orientation >= 5 { (height, width) } else { (width, height) };
    let mut turned = Vec::with_capacity(data.len());
    for y in 0..h {
        for x in 0..w {
            // Where the upright pixel is stored.
            let (sx, sy) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            let at = 3 * (sy * width + sx);
            turned.extend_from_slice(&data[at..at + 3]);
        }
    }
    (w, h, turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_orientation_is_turned_upright() {
        // a b c / d e f, stored in each way.
        let pixel = |name: char| [name as u8; 3];
        let cases = [
            (1, 3, "abcdef"),
            (2, 3, "cbafed"),
            (3, 3, "fedcba"),
            (4, 3, "defabc"),
            (5, 2, "adbecf"),
            (6, 2, "cfbead"),
            (7, 2, "fcebda"),
            (8, 2, "daebfc"),
        ];
        for (orientation, width, stored) in cases {
            let data: Vec<u8> = stored.chars().flat_map(pixel).collect();
            let (w, h, upright) = turn((width, 6 / width, data), orientation);
            let names: String = upright.chunks(3).map(|p| p[0] as char).collect();
            assert_eq!((w, h, names.as_str()), (3, 2, "abcdef"), "orientation {orientation}");
        }
    }

    #[test]
    fn exif_of_any_kind_is_read_without_harm() {
        let little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0";
        assert_eq!((orientation(little), orientation(big)), (Some(6), Some(8)));
        for end in 0..little.len() {
            assert!(matches!(orientation(&little[..end]), None | Some(6)));
        }
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff\x01\0"), None);
    }
}
