//! Every row of a demo leads back to its page, its models and the rules that decided.

use std::collections::BTreeSet;
use std::path::Path;

use capstan_dataset::files::{self, Pixels};
use capstan_dataset::view::{View, ViewRow};
use capstan_dataset::{Store, commits, versions};
use capstan_plan::commit::FileKind;
use capstan_plan::id::{ModelDigest, RunId, StageName};
use capstan_plan::row::Reject;

use crate::harness::RUN;

/// Checks every row of the newest version of `web` and every reject of the run in `out`.
pub fn every_row_is_traceable(out: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(&out.join("store").display().to_string()).unwrap();
        let version = versions::resolve(&store, "web").await.unwrap();
        let captioner = model_of(&store, "captioner").await;
        let filter = model_of(&store, "matcher").await;
        let (mut rows, mut dropped, mut synthetic) = (0, 0, 0);
        for part in versions::parts(&store, &version).await.unwrap() {
            let mut view = View::open(&store, &part, Pixels::Skip).await.unwrap();
            while let Some(group) = view.next().await.unwrap() {
                assert_eq!(view.captioner(), Some(captioner), "captioner of {version}");
                assert_eq!(view.filter(), Some(filter), "filter of {version}");
                for row in &group {
                    names_its_origin(row);
                    is_decided_by_named_rules(row);
                    dropped += usize::from(!row.keep);
                    synthetic += row.synthetic.len();
                }
                rows += group.len();
            }
        }
        assert!(
            rows > dropped && dropped > 0 && synthetic > 0,
            "{rows} rows, {dropped} dropped, {synthetic} synthetic texts"
        );
        every_reject_has_a_reason(&store).await;
    });
}

/// The model that a stage of the run made.
async fn model_of(store: &Store, stage: &str) -> ModelDigest {
    let (run, stage) = (RunId::from(RUN), StageName::from(stage));
    let commits = commits::of_stage(store, &run, &stage).await.unwrap();
    commits[0].outputs.model.expect("a training makes a model")
}

/// A pair names its page and picture; the ids of its texts are derived from it.
fn names_its_origin(row: &ViewRow) {
    let pair = &row.pair;
    assert!(pair.page_url.starts_with("http://"), "{}", pair.page_url);
    assert!(pair.image_url.starts_with("http://"), "{}", pair.image_url);
    assert_ne!(pair.sha256, [0; 32], "{}", pair.image_url);
    for text in pair.texts.iter().chain(&row.synthetic) {
        let derived = capstan_plan::row::Text::new(&pair.pair_id, text.origin, &*text.text);
        assert_eq!(text.text_id, derived.text_id, "{text:?}");
    }
}

/// A dropped pair has a reason. Exactly the texts that the filter judges have a verdict, with a rule.
fn is_decided_by_named_rules(row: &ViewRow) {
    let reason = row.reason.as_deref().unwrap_or_default();
    assert_eq!(
        row.keep,
        reason.is_empty(),
        "{}: `{reason}`",
        row.pair.pair_id
    );
    let judged: BTreeSet<_> = row.judged_texts().map(|text| text.text_id).collect();
    let with_verdict: BTreeSet<_> = row.verdicts.iter().map(|verdict| verdict.text_id).collect();
    assert_eq!(with_verdict, judged, "{}", row.pair.pair_id);
    for verdict in &row.verdicts {
        assert!(!verdict.reason.is_empty(), "{verdict:?}");
        assert!(
            verdict.itc.is_finite() && verdict.itm.is_finite(),
            "{verdict:?}"
        );
    }
}

/// Every picture and page that was refused has a row with its address and a detail.
async fn every_reject_has_a_reason(store: &Store) {
    let commits = commits::of_run(store, &RunId::from(RUN)).await.unwrap();
    let mut rejects = 0;
    for commit in commits {
        let files = commit.outputs.files.iter();
        for file in files.filter(|file| file.kind == FileKind::Rejects) {
            for reject in files::read::<Reject>(store, file).await.unwrap() {
                assert!(!reject.url.is_empty(), "{reject:?}");
                assert!(!reject.detail.is_empty(), "{reject:?}");
                rejects += 1;
            }
        }
    }
    assert!(rejects > 0, "the demo web plants pictures that are refused");
}
