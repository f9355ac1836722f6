//! TensorBoard event files, which `tensorboard --logdir FOLDER` shows.
//!
//! A file is a sequence of TFRecord frames (`tensorflow/core/lib/io/record_writer.h`): length (u64,
//! little endian), masked CRC-32C of the length, data, masked CRC-32C of the data. The data is an
//! `Event` (`tensorflow/core/util/event.proto`); the first one names the version of the format. Of
//! `Event` and `Summary` only the fields of scalars are defined here.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use capstan_plan::results::{TrainingStep, ValidationPoint};
use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

/// Name of the file in its folder. TensorBoard reads files whose name contains `tfevents`.
const FILE: &str = "events.out.tfevents.capstan";
/// The first event of a file.
const VERSION: &str = "brain.Event:2";
/// Tags of measurements on the validation set begin with this, those of steps with [`TRAIN`].
const VALIDATION: &str = "validation/";
const TRAIN: &str = "train/";
/// Most bytes of an event that is read back. A longer one was not written by this program.
const MAX_EVENT_BYTES: u64 = 1 << 20;

const CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `Summary.Value` with its field `simple_value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// An open event file of one training.
#[derive(Debug)]
pub struct Events {
    file: File,
}

impl Events {
    /// Opens the event file in `folder`, which exists, for a training that begins at `step`. Events
    /// that a killed attempt left after its last checkpoint are cut off, and so is a broken frame.
    ///
    /// - `now`: the time of the file's first event.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn open(folder: &Path, step: u64, now: SystemTime) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.join(FILE))?;
        let keep = length_before(&file, step)?;
        file.set_len(keep)?;
        file.seek(SeekFrom::Start(keep))?;
        let mut events = Self { file };
        if keep == 0 {
            events.write(&Event {
                wall_time: seconds(now),
                file_version: Some(VERSION.to_owned()),
                ..Event::default()
            })?;
        }
        Ok(events)
    }

    /// Adds the scalars of a step: losses, learning rate, norm of the gradient, samples per second.
    ///
    /// - `samples`: of the global batch.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn step(&mut self, step: &TrainingStep, samples: usize, now: SystemTime) -> io::Result<()> {
        let parts = step.parts.iter().map(|(name, loss)| (name.as_str(), *loss));
        let scalars = [
            ("loss", step.loss),
            ("learning_rate", step.learning_rate),
            ("gradient_norm", step.gradient_norm),
            (
                "samples_per_second",
                samples as f64 / step.step_seconds.max(1e-9),
            ),
        ];
        self.scalars(step.step, TRAIN, scalars.into_iter().chain(parts), now)
    }

    /// Adds the figures of a measurement on the validation set.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn validation(&mut self, point: &ValidationPoint, now: SystemTime) -> io::Result<()> {
        let figures = point.figures.iter();
        let figures = figures.map(|(name, value)| (name.as_str(), *value));
        self.scalars(point.step, VALIDATION, figures, now)
    }

    fn scalars<'a>(
        &mut self,
        step: u64,
        group: &str,
        scalars: impl Iterator<Item = (&'a str, f64)>,
        now: SystemTime,
    ) -> io::Result<()> {
        let value = scalars.map(|(name, value)| Scalar {
            tag: format!("{group}{name}"),
            simple_value: Some(value as f32),
        });
        self.write(&Event {
            wall_time: seconds(now),
            step: i64::try_from(step).unwrap_or(i64::MAX),
            summary: Some(Summary {
                value: value.collect(),
            }),
            ..Event::default()
        })
    }

    /// Each event is one write, so a reader of a running training sees whole frames.
    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.file.write_all(&frame(&event.encode_to_vec()))
    }
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

/// A TFRecord frame.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(data.len() + 16);
    frame.extend(length);
    frame.extend(masked_crc(&length).to_le_bytes());
    frame.extend(data);
    frame.extend(masked_crc(data).to_le_bytes());
    frame
}

/// CRC-32C, masked so that a checksum of data that holds checksums stays meaningful
/// (`tensorflow/core/lib/hash/crc32c.h`).
fn masked_crc(data: &[u8]) -> u32 {
    let crc = CASTAGNOLI.checksum(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Bytes of the leading whole frames that a training from `step` on does not write again; 0 for a
/// file that this program did not write.
fn length_before(file: &File, step: u64) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let mut keep = 0;
    while let Some((event, size_bytes)) = next_event(&mut reader)? {
        let is_head = event.file_version.as_deref() == Some(VERSION);
        let mut scalars = event.summary.iter().flat_map(|summary| &summary.value);
        let is_validation = scalars.any(|scalar| scalar.tag.starts_with(VALIDATION));
        let of = u64::try_from(event.step).unwrap_or(u64::MAX);
        // A measurement carries the number of steps before it, a step its place from 0.
        let earlier = of < step || (is_validation && of == step);
        if is_head != (keep == 0) || !(is_head || earlier) {
            break;
        }
        keep += size_bytes;
    }
    Ok(keep)
}

/// The next event and the size of its frame; `None` at the end and at a broken frame.
fn next_event(reader: &mut impl Read) -> io::Result<Option<(Event, u64)>> {
    let Some(data) = next_frame(reader)? else {
        return Ok(None);
    };
    let event = Event::decode(&data[..]).ok();
    Ok(event.map(|event| (event, data.len() as u64 + 16)))
}

fn next_frame(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    reader.by_ref().take(12).read_to_end(&mut head)?;
    let Some((length, crc)) = head.split_first_chunk::<8>() else {
        return Ok(None);
    };
    let size_bytes = u64::from_le_bytes(*length);
    if crc != masked_crc(length).to_le_bytes() || size_bytes > MAX_EVENT_BYTES {
        return Ok(None);
    }
    let mut data = Vec::new();
    reader
        .by_ref()
        .take(size_bytes + 4)
        .read_to_end(&mut data)?;
    let Some((event, crc)) = data.split_last_chunk::<4>() else {
        return Ok(None);
    };
    let whole = event.len() as u64 == size_bytes && *crc == masked_crc(event).to_le_bytes();
    Ok(whole.then(|| event.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(step: u64) -> TrainingStep {
        TrainingStep {
            step,
            data_epoch: 0,
            learning_rate: 0.5,
            loss: 2.0,
            parts: [("itc".to_owned(), 2.0)].into(),
            gradient_norm: 1.5,
            step_seconds: 0.25,
            all_reduce_seconds: 0.01,
        }
    }

    fn point(step: u64) -> ValidationPoint {
        ValidationPoint {
            step,
            figures: [("r_at_1".to_owned(), 0.0)].into(),
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_500)
    }

    fn events(folder: &Path) -> Vec<Event> {
        let mut file = File::open(folder.join(FILE)).unwrap();
        let next = || next_event(&mut file).unwrap().map(|(event, _)| event);
        std::iter::from_fn(next).collect()
    }

    /// Steps 0 to 9, measured after 4 and 8 steps.
    fn written() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::open(folder.path(), 0, now()).unwrap();
        for s in 0..10 {
            events.step(&step(s), 8, now()).unwrap();
            if s == 3 || s == 7 {
                events.validation(&point(s + 1), now()).unwrap();
            }
        }
        folder
    }

    /// Each event as its step, negative for a measurement.
    fn steps(folder: &Path) -> Vec<i64> {
        let signed = |event: &Event| {
            let scalars = &event.summary.as_ref().unwrap().value;
            let is_validation = scalars[0].tag.starts_with(VALIDATION);
            if is_validation {
                -event.step
            } else {
                event.step
            }
        };
        events(folder)[1..].iter().map(signed).collect()
    }

    #[test]
    fn checksums_are_those_of_the_rfc() {
        // RFC 3720, appendix B.4.
        assert_eq!(CASTAGNOLI.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(CASTAGNOLI.checksum(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(CASTAGNOLI.checksum(&ascending), 0x46dd_794e);
        assert_eq!(CASTAGNOLI.checksum(b"foo"), 0xcfc4_ae1d);
        assert_eq!(masked_crc(b"foo"), 0xfebe_8a61);
    }

    #[test]
    fn the_first_bytes_are_those_that_tensorflow_writes() {
        // The first frame of a file of PyTorch's SummaryWriter, but for the time: length 24, the
        // CRC of the length, and the fields of the event.
        let folder = written();
        let bytes = std::fs::read(folder.path().join(FILE)).unwrap();
        assert_eq!(bytes[..8], [24, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(bytes[12], 0x09, "field 1, a double");
        assert_eq!(bytes[13..21], 1.5f64.to_le_bytes());
        assert_eq!(&bytes[21..36], b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn a_step_and_a_measurement_are_scalars_with_their_tags() {
        let folder = written();
        let events = events(folder.path());
        assert_eq!(events.len(), 13);
        assert_eq!(events[0].file_version.as_deref(), Some(VERSION));
        let scalars = |event: &Event| -> Vec<(String, f32)> {
            let value = event.summary.as_ref().unwrap().value.iter();
            let scalar = |v: &Scalar| (v.tag.clone(), v.simple_value.unwrap());
            value.map(scalar).collect()
        };
        let expected = [
            ("train/loss", 2.0),
            ("train/learning_rate", 0.5),
            ("train/gradient_norm", 1.5),
            ("train/samples_per_second", 32.0),
            ("train/itc", 2.0),
        ];
        let expected = expected.map(|(tag, value)| (tag.to_owned(), value));
        assert_eq!(scalars(&events[1]), expected);
        assert_eq!((events[5].step, events[5].wall_time), (4, 1.5));
        // A value of 0 is there, not left out.
        assert_eq!(scalars(&events[5]), [("validation/r_at_1".to_owned(), 0.0)]);
    }

    #[test]
    fn a_resumed_file_holds_every_event_once() {
        for (from, kept) in [
            (10, vec![0, 1, 2, 3, -4, 4, 5, 6, 7, -8, 8, 9]),
            (4, vec![0, 1, 2, 3, -4]),
            (3, vec![0, 1, 2]),
            (0, vec![]),
        ] {
            let folder = written();
            let path = folder.path().join(FILE);
            // Half a frame at the end, as a kill leaves it.
            let half = &frame(b"killed")[..17];
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(half).unwrap();
            let mut resumed = Events::open(folder.path(), from, now()).unwrap();
            assert_eq!(steps(folder.path()), kept, "from {from}");
            resumed.step(&step(from), 8, now()).unwrap();
            assert_eq!(*steps(folder.path()).last().unwrap(), from as i64);
        }
    }

    #[test]
    fn a_changed_byte_cuts_the_file_there_and_a_foreign_file_is_replaced() {
        let folder = written();
        let path = folder.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let place = bytes.len() / 2;
        bytes[place] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        Events::open(folder.path(), 10, now()).unwrap();
        let left = steps(folder.path());
        assert!(!left.is_empty() && left.len() < 12, "{left:?}");
        std::fs::write(&path, b"no events at all").unwrap();
        Events::open(folder.path(), 10, now()).unwrap();
        assert_eq!(events(folder.path()).len(), 1);
    }
}
