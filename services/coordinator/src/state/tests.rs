//! What is written is read back, also by a process that starts anew.

use std::time::Duration;

use capstan_plan::task::Role;

use super::*;
use crate::machine::{Key, Machine, Offer, Policy, Spec, State};
use crate::view::RunView;

const POLICY: Policy = Policy {
    lease: Duration::from_secs(30),
    max_attempts: 4,
    backoff: Duration::from_secs(1),
    max_backoff: Duration::from_secs(60),
};

const PIPELINE: &str = r#"
name = "p"
[[stage]]
name = "s"
kind = "import"
dataset = "d"
format = "coco_captions"
source = "x"
"#;

fn view(run: &str) -> RunView {
    let pipeline = capstan_plan::Pipeline::from_toml(PIPELINE, "p.toml").unwrap();
    RunView::new(run.into(), &pipeline, "{}".to_owned(), u64::MAX, 7)
}

fn task(shard: &str, world_size: usize) -> NewTask {
    let key = Key {
        run: "r".into(),
        stage: "s".into(),
        shard: shard.into(),
    };
    let spec = Spec {
        role: Role::Train,
        world_size,
        base: None,
    };
    NewTask {
        key,
        spec,
        task_json: format!("{{\"shard\":\"{shard}\"}}"),
    }
}

fn offer(worker: &str) -> Offer {
    let cached = Default::default();
    Offer {
        worker: worker.into(),
        roles: [Role::Train].into(),
        slots: 1,
        cached,
    }
}

#[tokio::test]
async fn runs_are_read_as_they_were_written() {
    let database = Database::open("sqlite::memory:").await.unwrap();
    let mut run = view("r");
    database.submit(&run).await.unwrap();
    assert_eq!(
        database.run(&"r".into()).await.unwrap().as_ref(),
        Some(&run)
    );
    assert_eq!(database.run(&"x".into()).await.unwrap(), None);
    run.reason = "because".to_owned();
    run.stages[0]
        .quarantined
        .insert("0".into(), "it's \"broken\"".to_owned());
    run.stages[0].tasks = 3;
    database.write(&[], &[&run], 8).await.unwrap();
    assert_eq!(
        database.run(&"r".into()).await.unwrap().as_ref(),
        Some(&run)
    );
    database.submit(&view("q")).await.unwrap();
    let listed = database.runs(10).await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|view| view.run.as_str())
            .collect::<Vec<_>>(),
        ["q", "r"]
    );
    assert_eq!(database.runs(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_remembers_tasks_and_leases_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("capstan.db").display());
    let database = Database::open(&url).await.unwrap();
    let tasks = [task("b", 2), task("a", 1), task("c", 1)];
    let mut machine = Machine::new(POLICY, 3);
    database.submit(&view("r")).await.unwrap();
    database.add_tasks(&tasks).await.unwrap();
    tasks
        .iter()
        .for_each(|task| machine.add(task.key.clone(), task.spec.clone()));
    let offers = [offer("t2"), offer("t1"), offer("t3")];
    assert_eq!(machine.assign(&offers, Duration::ZERO).len(), 3);
    assert!(machine.committed(&tasks[1].key));
    database
        .write(&machine.take_changes(), &[&view("r")], 9)
        .await
        .unwrap();
    database.close().await;

    let database = Database::open(&url).await.unwrap();
    let restored = database.restore().await.unwrap();
    assert_eq!(restored.len(), 1);
    let shards: Vec<_> = restored[0]
        .tasks
        .iter()
        .map(|(key, _)| key.shard.as_str())
        .collect();
    assert_eq!(shards, ["b", "a", "c"], "in the order of adding");
    let State::Leased(lease) = &restored[0].tasks[0].1.state else {
        panic!()
    };
    assert_eq!(lease.lease_epoch.generation, 3);
    let workers: Vec<_> = lease
        .ranks
        .iter()
        .map(|rank| rank.worker.as_str())
        .collect();
    assert_eq!(workers, ["t1", "t2"]);
    assert_eq!(restored[0].tasks[0].1.attempts, 1);
    assert_eq!(restored[0].tasks[1].1.state, State::Committed);
    assert_eq!(restored[0].tasks[2].1.state, State::Ready);
    let json = database.task_json(&tasks[2].key).await.unwrap();
    assert_eq!(json, "{\"shard\":\"c\"}");
}

#[tokio::test]
async fn submitting_again_forgets_tasks_and_attempts() {
    let database = Database::open("sqlite::memory:").await.unwrap();
    database.submit(&view("r")).await.unwrap();
    database.add_tasks(&[task("a", 1)]).await.unwrap();
    database.add_tasks(&[task("a", 1)]).await.unwrap();
    assert_eq!(
        database.restore().await.unwrap()[0].tasks.len(),
        1,
        "added once"
    );
    database.submit(&view("r")).await.unwrap();
    assert_eq!(database.restore().await.unwrap()[0].tasks.len(), 0);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let error = Database::open("sqlite:/nowhere/at/all.db")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("database `sqlite:/nowhere/at/all.db` cannot be opened"),
        "{error}"
    );
}
