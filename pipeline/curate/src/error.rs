//! Why a curation cannot be made.

use capstan_plan::FailureKind;

/// Why a curator cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The query list is empty, so that every text would be dropped.
    #[error(
        "curate setting `queries` is empty: every text would be dropped; list at least one query"
    )]
    NoQueries,
    /// A query that no text can match.
    #[error(
        "curate setting `queries[{index}]` is {query:?}: a query holds at least one visible character and neither begins nor ends with a space"
    )]
    Query {
        /// Its position in the list.
        index: usize,
        /// The query.
        query: String,
    },
    /// A setting that cannot be met.
    #[error("curate setting `{field}`: {problem}")]
    Setting {
        /// The field of the pipeline file.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The automaton over the query list could not be built.
    #[error("the {queries} queries make no automaton")]
    Automaton {
        /// Queries in the list.
        queries: usize,
        /// Why.
        #[source]
        source: aho_corasick::BuildError,
    },
}

impl Error {
    /// What the scheduler makes of it: all of these stand in the pipeline file.
    pub fn kind(&self) -> FailureKind {
        FailureKind::BadInput
    }
}
