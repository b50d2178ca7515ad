//! What a training leaves for people to look at: a table with a row per epoch (`results.csv`), and event files for
//! TensorBoard. The table is part of the results of a job, and so has nothing in it that another run would not find: no times.
//!
//! An event file is a stream of TFRecords: length, checksum, message, checksum, where the message is an `Event` of
//! TensorFlow's `event.proto` and the checksum a masked CRC-32C. Only scalars are written.

use super::config::{EpochRow, FitEvent, PastEpoch};
use super::terms::Terms;
use crate::files;
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const HEADER: &str = "epoch,loss,box,class,dfl,task,teacher,held_back,lr";

/// Writes what a training reports.
#[derive(Debug)]
pub struct Record {
    table: PathBuf,
    rows: Vec<String>,
    events: Option<EventFile>,
}

impl Record {
    /// A table at a path, and a new event file in a folder.
    ///
    /// # Errors
    /// If the event file cannot be made.
    pub fn new(table: PathBuf, tensorboard: Option<&Path>) -> io::Result<Self> {
        let events = tensorboard.map(EventFile::create).transpose()?;
        Ok(Self { table, rows: Vec::new(), events })
    }

    /// Takes an event. A row is written as soon as its epoch is done.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn note(&mut self, event: &FitEvent) -> io::Result<()> {
        match event {
            FitEvent::Resumed { past, .. } => {
                self.rows = past.iter().enumerate().map(|(epoch, past)| table_row(epoch, past)).collect();
                Ok(())
            }
            FitEvent::RolledBack { epochs, .. } => {
                self.rows.truncate(*epochs);
                Ok(())
            }
            FitEvent::Epoch { epoch, terms, row } => self.epoch(*epoch, terms, row),
            _ => Ok(()),
        }
    }

    /// The table so far.
    pub fn table(&self) -> String {
        let rows: String = self.rows.iter().map(|row| format!("{row}\n")).collect();
        format!("{HEADER}\n{rows}")
    }

    fn epoch(&mut self, epoch: usize, terms: &Terms, row: &EpochRow) -> io::Result<()> {
        let speed = row.images_per_second;
        let (number, loss, lr) = (epoch + 1, terms.sum(), row.lr);
        self.rows.push(table_row(epoch, &PastEpoch { terms: *terms, held: row.held.map(|(_, figure)| figure), lr }));
        files::write_atomic(&self.table, self.table().as_bytes())?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let mut scalars = vec![("loss/all".to_owned(), loss)];
        scalars.extend(terms.named().map(|(name, value)| (format!("loss/{name}"), value)));
        scalars.extend(row.held.map(|(metric, figure)| (format!("held-back/{}", metric.name()), figure)));
        scalars.extend([("learning-rate".to_owned(), lr), ("images-per-second".to_owned(), speed)]);
        events.scalars(number, &scalars)
    }
}

/// An epoch, from 0, in the table.
fn table_row(epoch: usize, PastEpoch { terms, held, lr }: &PastEpoch) -> String {
    let (number, loss, Terms { box_, cls, dfl, task, distill }) = (epoch + 1, terms.sum(), terms);
    let held = held.map(|figure| figure.to_string()).unwrap_or_default();
    format!("{number},{loss},{box_},{cls},{dfl},{task},{distill},{held},{lr}")
}

impl FitEvent {
    /// What people are told about it; nothing about a single step.
    pub fn message(&self) -> Option<String> {
        Some(match self {
            Self::Step { .. } => return None,
            Self::Device { name, bytes } => format!("on {name}, with {} MiB of its memory", bytes >> 20),
            Self::Resumed { epochs, step: 0, .. } => format!("resumed after {epochs} epochs"),
            Self::Resumed { epochs, step, .. } => format!("resumed after {epochs} epochs and {step} steps"),
            Self::SetAside { problem, aside } => format!(
                "the training kept from an earlier run: {problem}; set aside as {}, training starts anew",
                aside.display()
            ),
            Self::NotSaved { problem } => format!("warning: {problem}; an interrupted training would start anew"),
            Self::Int8 { epochs, of } => {
                format!("the last {epochs} of {of} epochs train for int8, and held-back images judge in int8")
            }
            Self::HeldBack { images, metric, before } => {
                format!("{images} images are held back to choose the epoch: {} {before:.4} before", metric.name())
            }
            Self::RolledBack { problem, epochs, rate } => format!(
                "warning: training diverged at {problem}; it goes on after epoch {epochs} with {rate} of the learning rate"
            ),
            Self::Epoch { epoch, terms, row } => epoch_line(*epoch, terms, row),
            Self::Chosen { epoch: Some(epoch), figure, before, best, epochs } => {
                let more = best.filter(|(best, _)| best != epoch).map_or(String::new(), |(best, figure)| {
                    format!(", which cannot tell it from epoch {} ({figure:.4})", best + 1)
                });
                format!(
                    "epoch {} of {epochs} is kept: {before:.4} -> {figure:.4} on the held-back images{more}",
                    epoch + 1
                )
            }
            Self::Chosen { epoch: None, before, epochs, .. } => {
                format!(
                    "none of {epochs} epochs is better on the held-back images: the network before them is kept ({before:.4})"
                )
            }
        })
    }
}

/// One line for people about an epoch.
fn epoch_line(epoch: usize, terms: &Terms, row: &EpochRow) -> String {
    let parts: Vec<String> = terms.named().map(|(name, value)| format!("{name} {value:.4}")).collect();
    let parts = if parts.len() > 1 { format!(" ({})", parts.join(", ")) } else { String::new() };
    let held = row.held.map_or(String::new(), |(metric, figure)| format!(", held-back {} {figure:.4}", metric.name()));
    let left = row.seconds_left.round() as u64;
    let (minutes, seconds) = (left / 60, left % 60);
    format!(
        "epoch {}/{}: loss {:.4}{parts}{held}, lr {:.1e}, {:.0} images/s, {minutes}:{seconds:02} left",
        epoch + 1,
        row.epochs,
        terms.sum(),
        row.lr,
        row.images_per_second
    )
}

/// An event of TensorBoard.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// Of the first event of a file.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// Values of a step.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// A value under its name.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// An event file. It only grows, so that TensorBoard follows it.
#[derive(Debug)]
struct EventFile(File);

impl EventFile {
    /// Makes the folder, where it is not there, and a file in it whose name no other has.
    fn create(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let now = seconds();
        let name = format!("events.out.tfevents.{now:.0}.secateurs.{}", std::process::id());
        let mut number = 0;
        let file = loop {
            let path = folder.join(format!("{name}.{number}"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                made => break made?,
            }
        };
        let mut events = Self(file);
        let version = Some("brain.Event:2".to_owned());
        events.write(&Event { wall_time: now, file_version: version, ..Event::default() })?;
        Ok(events)
    }

    fn scalars(&mut self, step: usize, scalars: &[(String, f64)]) -> io::Result<()> {
        let value = |(tag, value): &(String, f64)| Scalar { tag: tag.clone(), simple_value: *value as f32 };
        let summary = Some(Summary { value: scalars.iter().map(value).collect() });
        self.write(&Event { wall_time: seconds(), step: step as i64, summary, ..Event::default() })
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        let message = event.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        let sums = [&length[..], &message[..]].map(|bytes| masked_crc(bytes).to_le_bytes());
        self.0.write_all(&[&length[..], &sums[0], &message, &sums[1]].concat())?;
        self.0.flush()
    }
}

/// Seconds since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The checksum of a TFRecord: CRC-32C, turned and moved so that sums of sums stay good.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial (RFC 3720, appendix B.4). Messages are short: bit by bit is fast enough.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Metric;

    fn epoch(epoch: usize, figure: f64) -> FitEvent {
        let terms = Terms { box_: 1.5, cls: 0.25, ..Terms::default() };
        let row = EpochRow {
            epochs: 3,
            held: Some((Metric::Boxes, figure)),
            lr: 5e-4,
            images_per_second: 61.2,
            seconds_left: 83.4,
        };
        FitEvent::Epoch { epoch, terms, row }
    }

    /// The events of a file, read by the format's description.
    fn events(bytes: &[u8]) -> Vec<Event> {
        let mut found = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (length, behind) = rest.split_at(8);
            let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (message, behind) = behind[4..].split_at(size);
            assert_eq!(behind[..4], masked_crc(message).to_le_bytes());
            found.push(Event::decode(message).unwrap());
            rest = &behind[4..];
        }
        found
    }

    #[test]
    fn checksums_are_those_of_the_standards() {
        // RFC 3720, B.4, and the check value of the catalogue of CRCs.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // The first record of every event file of TensorFlow: 24 bytes follow.
        assert_eq!(masked_crc(&24u64.to_le_bytes()), 0x224b_7fa3);
    }

    #[test]
    fn rows_and_events_follow_the_epochs_and_a_resumed_table_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (table, board) = (folder.path().join("results.csv"), folder.path().join("board"));
        let mut record = Record::new(table.clone(), Some(&board)).unwrap();
        for event in [epoch(0, 0.25), epoch(1, 0.5)] {
            record.note(&event).unwrap();
        }
        let text = fs::read_to_string(&table).unwrap();
        assert_eq!(text, format!("{HEADER}\n1,1.75,1.5,0.25,0,0,0,0.25,0.0005\n2,1.75,1.5,0.25,0,0,0,0.5,0.0005\n"));
        let file = fs::read_dir(&board).unwrap().next().unwrap().unwrap().path();
        let found = events(&fs::read(file).unwrap());
        assert_eq!((found.len(), found[0].file_version.as_deref()), (3, Some("brain.Event:2")));
        let last: Vec<(&str, f32)> =
            found[2].summary.as_ref().unwrap().value.iter().map(|v| (v.tag.as_str(), v.simple_value)).collect();
        assert_eq!(found[2].step, 2);
        assert_eq!(
            last[..4],
            [("loss/all", 1.75), ("loss/box", 1.5), ("loss/class", 0.25), ("held-back/mAP50-95", 0.5)]
        );
        // Resumed after one epoch: the second row is made anew.
        let mut again = Record::new(table.clone(), None).unwrap();
        let terms = Terms { box_: 1.5, cls: 0.25, ..Terms::default() };
        let past = vec![PastEpoch { terms, held: Some(0.25), lr: 5e-4 }];
        again.note(&FitEvent::Resumed { epochs: 1, step: 3, past }).unwrap();
        again.note(&epoch(1, 0.75)).unwrap();
        let text = fs::read_to_string(&table).unwrap();
        assert!(text.lines().count() == 3 && text.contains(",0.25,0.0005") && text.contains(",0.75,0.0005"), "{text}");
    }

    #[test]
    fn a_line_says_what_an_epoch_brought() {
        let FitEvent::Epoch { epoch, terms, row } = epoch(0, 0.46441) else { panic!() };
        assert_eq!(
            epoch_line(epoch, &terms, &row),
            "epoch 1/3: loss 1.7500 (box 1.5000, class 0.2500), held-back mAP50-95 0.4644, lr 5.0e-4, 61 images/s, 1:23 left"
        );
    }
}
