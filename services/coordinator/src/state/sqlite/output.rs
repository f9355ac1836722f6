//! The format of the `output_json` column:
//! `{"dataset":"web@3","parts":8}`, `{"model":"<digest>"}`, `{"figures":true}`, or `{}` for a stage
//! that is not done.

use capstan_plan::commit::{OutputRef, VersionRef};
use capstan_plan::id::ModelDigest;
use serde::{Deserialize, Serialize};

/// Why a value of the column cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The text is not JSON with these keys.
    #[error("output: {0}")]
    Json(serde_json::Error),
    /// The dataset version is not written as `name@number`.
    #[error("output: `{0}` is not a dataset version such as web@3")]
    Version(String),
}

#[derive(Default, Serialize, Deserialize)]
struct Column {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dataset: Option<String>,
    // Rows of earlier program versions have no such key.
    #[serde(default, skip_serializing_if = "is_zero")]
    parts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<ModelDigest>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    figures: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(super) fn write(output: Option<&OutputRef>) -> String {
    let column = match output {
        Some(OutputRef::Dataset { version, parts }) => Column {
            dataset: Some(version.to_string()),
            parts: *parts,
            ..Column::default()
        },
        Some(OutputRef::Model { digest }) => Column {
            model: Some(*digest),
            ..Column::default()
        },
        Some(OutputRef::Figures) => Column {
            figures: true,
            ..Column::default()
        },
        None => Column::default(),
    };
    serde_json::to_string(&column).expect("plain data with text keys")
}

pub(super) fn read(text: &str) -> Result<Option<OutputRef>, Error> {
    let column: Column = serde_json::from_str(text).map_err(Error::Json)?;
    if let Some(text) = column.dataset {
        let version = version(&text).ok_or(Error::Version(text))?;
        let parts = column.parts;
        return Ok(Some(OutputRef::Dataset { version, parts }));
    }
    let model = column.model.map(|digest| OutputRef::Model { digest });
    Ok(model.or(column.figures.then_some(OutputRef::Figures)))
}

fn version(text: &str) -> Option<VersionRef> {
    let (dataset, number) = text.split_once('@')?;
    Some(VersionRef {
        dataset: dataset.into(),
        number: number.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use capstan_plan::id::Digest;

    use super::*;

    fn web(parts: u64) -> OutputRef {
        let version = version("web@3").unwrap();
        OutputRef::Dataset { version, parts }
    }

    #[test]
    fn every_output_is_read_as_it_was_written() {
        let digest = ModelDigest(Digest::of(b"a model"));
        let outputs = [
            None,
            Some(web(8)),
            Some(OutputRef::Model { digest }),
            Some(OutputRef::Figures),
        ];
        for output in outputs {
            assert_eq!(read(&write(output.as_ref())).unwrap(), output);
        }
    }

    #[test]
    fn rows_of_earlier_versions_are_read() {
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(read(r#"{"dataset":"web@3"}"#).unwrap(), Some(web(0)));
    }

    #[test]
    fn a_damaged_row_is_an_error() {
        assert!(matches!(read("web@3"), Err(Error::Json(_))));
        let error = read(r#"{"dataset":"web"}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "output: `web` is not a dataset version such as web@3"
        );
    }
}
