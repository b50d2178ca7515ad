//! Says what a camera sees, frame after frame, with the pruned model that `build.rs` embedded.
//!
//!     camera PICTURE...                      JPEG or PNG files
//!     camera nv12 640 480 < frames.raw       raw frames, for example of ffmpeg or v4l2-ctl; or rgb, bgr, grey

use secateurs::detector::Object;
use secateurs::vision::{Frame, Image, PixelFormat};
use std::error::Error;
use std::io::{self, ErrorKind, Read, StdoutLock, Write};
use std::path::Path;

/// The pruned model: its classes, its figures, and what runs it.
mod model {
    secateurs::model!("host");
}

// The budgets of this program. A model that needs more does not compile.
const _: () = assert!(model::PEAK_BYTES <= 8 << 20, "the model needs more than 8 MiB");
const _: () = assert!(model::IMGSZ[0] <= 640 && model::IMGSZ[1] <= 640, "the model wants larger images");

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [format @ ("nv12" | "rgb" | "bgr" | "grey"), width, height] => stream(format, width.parse()?, height.parse()?),
        [] => Err("expected: PICTURE..., or nv12|rgb|bgr|grey WIDTH HEIGHT and frames on the standard input".into()),
        _ => pictures(&arguments),
    }
}

/// Frames from the standard input, until it ends. Every buffer is used again.
fn stream(format: &str, width: usize, height: usize) -> Result<(), Box<dyn Error>> {
    let pixels = width.checked_mul(height).ok_or("too many pixels")?;
    let (format, bytes) = match format {
        "nv12" => (PixelFormat::Nv12, pixels.checked_add(pixels / 2)),
        "grey" => (PixelFormat::Grey, Some(pixels)),
        "bgr" => (PixelFormat::Bgr, pixels.checked_mul(3)),
        _ => (PixelFormat::Rgb, pixels.checked_mul(3)),
    };
    let stride = if matches!(format, PixelFormat::Rgb | PixelFormat::Bgr) { 3 * width } else { width };
    let bytes = bytes.filter(|bytes| *bytes <= 1 << 30).ok_or("a frame of more than 1 GiB")?;
    let mut predictor = model::predictor()?;
    let (mut buffer, mut found) = (vec![0; bytes], Vec::new());
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    for number in 0.. {
        match input.read_exact(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        predictor.detect(&Frame::new(format, width, height, stride, &buffer)?, &mut found)?;
        print(&mut output, &format_args!("frame {number}"), &found)?;
    }
    Ok(())
}

fn pictures(paths: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut predictor = model::predictor()?;
    let (mut output, mut found) = (io::stdout().lock(), Vec::new());
    for path in paths {
        let image = Image::open(Path::new(path))?;
        predictor.detect(&Frame::of(&image)?, &mut found)?;
        print(&mut output, &format_args!("{path}"), &found)?;
    }
    Ok(())
}

fn print(output: &mut StdoutLock, what: &std::fmt::Arguments, found: &[Object]) -> io::Result<()> {
    writeln!(output, "{what}: {} found", found.len())?;
    for Object { detection, .. } in found {
        let name = model::Class::from_index(detection.class).map_or("?", model::Class::name);
        let [left, top, right, bottom] = detection.bbox.0;
        let percent = 100.0 * detection.score;
        writeln!(output, "  {percent:5.1} %  {name:<16} {left:.1},{top:.1} to {right:.1},{bottom:.1}")?;
    }
    Ok(())
}
