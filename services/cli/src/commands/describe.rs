//! Runs, stages and plans as tables and as JSON.

use std::time::{Duration, UNIX_EPOCH};

use capstan_plan::clock::{Clock, SystemClock};
use capstan_plan::commit::OutputRef;
use capstan_proto::convert::stage_output;
use capstan_proto::v1;
use comfy_table::Table;
use serde_json::{Value, json};

use crate::output::table;
use crate::watch::clock;

/// Name of a state as the configuration and JSON write names: `running`.
fn plain(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// `running`, `done`, `failed`, `cancelled`.
pub fn run_state(state: v1::RunState) -> String {
    plain(state.as_str_name(), "RUN_STATE_")
}

fn stage_state(state: v1::StageState) -> String {
    plain(state.as_str_name(), "STAGE_STATE_")
}

/// A run with its stages, as JSON.
pub fn run_json(status: &v1::RunStatus) -> Value {
    json!({
        "run": status.run,
        "pipeline": status.pipeline,
        "seed": status.seed,
        "state": run_state(status.state()),
        "reason": status.reason,
        "submitted_unix_ms": status.submitted_unix_ms,
        "ended_unix_ms": status.ended_unix_ms,
        "leased": status.leased,
        "stages": status.stages.iter().map(stage_json).collect::<Vec<_>>(),
    })
}

fn stage_json(stage: &v1::StageStatus) -> Value {
    json!({
        "stage": stage.stage,
        "kind": stage.kind,
        "state": stage_state(stage.state()),
        "tasks": stage.tasks,
        "committed": stage.committed,
        "adopted": stage.adopted,
        "leased": stage.leased,
        "quarantined": stage.quarantined,
        "started_unix_ms": stage.started_unix_ms,
        "ended_unix_ms": stage.ended_unix_ms,
        "output": output(stage.output.as_ref()),
    })
}

/// The output of a stage as JSON: `{"dataset": "web@3"}`, `{"model": "<digest>"}` or `{}`.
fn output(message: Option<&v1::StageOutput>) -> Value {
    match stage_output(message.cloned()) {
        Some(OutputRef::Dataset { version, .. }) => json!({ "dataset": version.to_string() }),
        Some(OutputRef::Model { digest }) => json!({ "model": digest.to_string() }),
        Some(OutputRef::Figures) | None => json!({}),
    }
}

/// The output of a stage in a table.
fn output_cell(message: Option<&v1::StageOutput>) -> String {
    match stage_output(message.cloned()) {
        Some(OutputRef::Dataset { version, .. }) => version.to_string(),
        Some(OutputRef::Model { digest }) => format!("model {}", digest.0.short()),
        Some(OutputRef::Figures) | None => String::new(),
    }
}

/// Runs, one a row.
pub fn runs_table(runs: &[v1::RunStatus]) -> Table {
    let mut table = table(&["run", "state", "seed", "submitted", "took", ""]);
    for run in runs {
        let took = match run.ended_unix_ms {
            0 => String::new(),
            ended => clock((ended - run.submitted_unix_ms).max(0) as f64 / 1e3),
        };
        table.add_row([
            run.run.clone(),
            run_state(run.state()),
            run.seed.to_string(),
            ago(run.submitted_unix_ms),
            took,
            shortened(&run.reason),
        ]);
    }
    table
}

/// Stages of a run, one a row.
pub fn stages_table(status: &v1::RunStatus) -> Table {
    let mut table = table(&["stage", "kind", "state", "tasks", "reused", "took", "gave"]);
    for stage in &status.stages {
        let took = match (stage.started_unix_ms, stage.ended_unix_ms) {
            (0, _) | (_, 0) => String::new(),
            (started, ended) => clock((ended - started).max(0) as f64 / 1e3),
        };
        table.add_row([
            stage.stage.clone(),
            stage.kind.clone(),
            stage_state(stage.state()),
            format!("{}/{}", stage.committed, stage.tasks),
            stage.adopted.to_string(),
            took,
            output_cell(stage.output.as_ref()),
        ]);
    }
    table
}

/// A plan, as JSON. `tasks` is null where it cannot be known yet, `done` where adoption was not
/// looked up.
pub fn plan_json(plan: &v1::PlanRunResponse) -> Value {
    let stage = |stage: &v1::StagePlan| {
        json!({
            "stage": stage.stage,
            "kind": stage.kind,
            "reads": stage.reads,
            "tasks": stage.tasks,
            "done": (!stage.adoption_unknown).then_some(stage.done),
            "output": output(stage.output.as_ref()),
        })
    };
    json!({
        "run": plan.run,
        "exists": plan.exists,
        "stages": plan.stages.iter().map(stage).collect::<Vec<_>>(),
    })
}

/// A plan, one stage a row.
pub fn plan_table(plan: &v1::PlanRunResponse) -> Table {
    let mut table = table(&["stage", "kind", "reads", "tasks", "done", "gives"]);
    for stage in &plan.stages {
        let tasks = stage.tasks.map(|tasks| tasks.to_string());
        table.add_row([
            stage.stage.clone(),
            stage.kind.clone(),
            stage.reads.join(", "),
            tasks.unwrap_or_else(|| "not known yet".to_owned()),
            match stage.adoption_unknown {
                true => "adoption not looked up".to_owned(),
                false => stage.done.to_string(),
            },
            output_cell(stage.output.as_ref()),
        ]);
    }
    table
}

/// `plan` in one sentence.
pub fn plan_sentence(plan: &v1::PlanRunResponse) -> String {
    let is_done = |stage: &&v1::StagePlan| stage.tasks.is_some_and(|tasks| tasks == stage.done);
    let done = plan.stages.iter().filter(is_done).count();
    let what = if plan.exists {
        "exists"
    } else {
        "would be new"
    };
    let sentence = format!(
        "run {} {what}: {done} of {} stages are done already; nothing was started",
        plan.run,
        plan.stages.len()
    );
    if plan.stages.iter().any(|stage| stage.adoption_unknown) {
        return format!(
            "{sentence}. Adoption was not looked up for stages that compute with models: no worker \
             is there to name a kind of device"
        );
    }
    sentence
}

fn ago(unix_ms: i64) -> String {
    let then = UNIX_EPOCH + Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0));
    // Another machine's clock may be ahead of this one's.
    let age = SystemClock::new()
        .wall()
        .duration_since(then)
        .unwrap_or_default();
    format!("{} ago", clock(age.as_secs_f64()))
}

/// A reason short enough for a row.
fn shortened(reason: &str) -> String {
    const LONGEST: usize = 60;
    match reason.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &reason[..end]),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use capstan_plan::commit::VersionRef;

    use super::*;

    #[test]
    fn a_run_as_json_has_plain_states_and_outputs() {
        let web = OutputRef::Dataset {
            version: VersionRef {
                dataset: "web".into(),
                number: 1,
            },
            parts: 8,
        };
        let status = v1::RunStatus {
            run: "small-7".into(),
            state: v1::RunState::Done as i32,
            stages: vec![v1::StageStatus {
                stage: "crawl".into(),
                state: v1::StageState::Done as i32,
                output: Some((&web).into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let json = run_json(&status);
        assert_eq!(json["state"], "done");
        assert_eq!(json["stages"][0]["state"], "done");
        assert_eq!(json["stages"][0]["output"]["dataset"], "web@1");
        assert!(stages_table(&status).to_string().contains("web@1"));
    }

    #[test]
    fn a_plan_counts_what_is_done_and_says_what_is_not_known() {
        let stage = |name: &str, tasks, done| v1::StagePlan {
            stage: name.into(),
            tasks,
            done,
            ..Default::default()
        };
        let plan = v1::PlanRunResponse {
            warnings: Vec::new(),
            run: "small-7".into(),
            exists: false,
            stages: vec![stage("crawl", Some(3), 3), stage("caption", None, 0)],
        };
        assert!(plan_sentence(&plan).contains("would be new: 1 of 2 stages"));
        assert!(plan_table(&plan).to_string().contains("not known yet"));
        assert!(plan_json(&plan)["stages"][1]["tasks"].is_null());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = shortened(&"ü".repeat(100));
        assert_eq!(cut.chars().count(), 63);
    }
}
