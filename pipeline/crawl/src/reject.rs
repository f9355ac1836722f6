//! Why a page or a picture is not used, and the row that reports it.

use capstan_plan::reject::RejectCode;
use capstan_plan::row::Reject;

/// Characters of a reject's detail.
const MAX_DETAIL_CHARS: usize = 500;

/// Why a page, a picture or a record of a source is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectReason {
    /// The class, which is counted.
    pub code: RejectCode,
    /// What was found, for a person.
    pub detail: String,
}

impl RejectReason {
    /// A reason of this class.
    pub fn new(code: RejectCode, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { code, detail }
    }

    /// The row of the reject sidecar, its detail cut to 500 characters.
    ///
    /// - `url`: the page, picture or record that is rejected.
    /// - `page_url`: the page or file that names it; may be empty.
    /// - `is_image`: whether a picture is lost with it.
    pub fn into_reject(self, url: &str, page_url: &str, is_image: bool) -> Reject {
        Reject {
            code: self.code,
            url: url.to_owned(),
            page_url: page_url.to_owned(),
            is_image,
            detail: self.detail.chars().take(MAX_DETAIL_CHARS).collect(),
        }
    }
}
