//! Why a curator cannot be built.

use capstan_plan::FailureKind;

/// Why a curator cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The query list is empty; every text would be dropped.
    #[error(
        "curate setting `queries` is empty: every text would be dropped; list at least one query"
    )]
    NoQueries,
    /// No text can match a query.
    #[error(
        "curate setting `queries[{index}]` is {query:?}: a query holds at least one visible character and neither begins nor ends with a space"
    )]
    Query {
        /// Its position in the list.
        index: usize,
        /// The query.
        query: String,
    },
    /// No row can pass a setting.
    #[error("curate setting `{field}`: {problem}")]
    Setting {
        /// The field of the pipeline file.
        field: &'static str,
        /// What is wrong, and the fix.
        problem: String,
    },
    /// The automaton over the query list could not be built.
    #[error("cannot build an automaton over {queries} queries")]
    Automaton {
        /// Queries in the list.
        queries: usize,
        /// The cause.
        #[source]
        source: aho_corasick::BuildError,
    },
}

impl Error {
    /// How the scheduler treats the failure. All of these are mistakes in the pipeline file.
    pub fn kind(&self) -> FailureKind {
        FailureKind::BadInput
    }
}
