//! Imports pairs that already exist: COCO captions, img2dataset's Parquet, WebDataset tars, folders
//! of pictures.
//!
//! What lives here: the folders that may be read ([`Roots`]), one reader per source format, and the
//! step that turns what a reader yields into pairs and rejects. This room may call `plan` for rows
//! and settings and `crawl` for canonical URLs and for decoding and normalising pictures. It reads
//! local files; it knows no store and no service: rows leave through a channel.
//!
//! ```text
//! source ─► reader of its format (a thread) ─► items ─► load, decode, normalise ─► pairs, rejects
//! ```
//! A reader yields items in the sorted order of the source and keeps none of them. Pictures are
//! decoded a few ahead and leave in the same order. A damaged file or row is a reject, never an
//! error of the task. A picture without a text is an ordinary row, unless the stage sets
//! `texts = "required"`.

mod coco;
mod error;
mod folder;
mod img2dataset;
mod import;
mod item;
mod roots;
mod table;
mod webdataset;

pub use error::Error;
pub use import::{Imported, import};
pub use roots::{Roots, SourceFolder};
