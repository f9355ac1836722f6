//! What is written is read back, also by a process that starts anew.

use std::time::Duration;

use capstan_plan::failure;
use capstan_plan::task::Role;

use super::*;
use crate::machine::{Claim, Key, Machine, Offer, Policy, Spec, State};
use crate::view::RunView;

const POLICY: Policy = Policy::new(
    Duration::from_secs(30),
    4,
    Duration::from_secs(1),
    Duration::from_secs(60),
);

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
        device: None,
        may_twin: true,
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
        device: "cpu-avx512".into(),
        slots: 1,
        cached,
    }
}

/// A run that was submitted.
async fn submit(database: &Database, view: RunView) {
    let ops = [Op::Submit(Box::new(view))];
    database.write(&ops, &[], 7).await.unwrap();
}

/// What a machine has noted.
async fn note(database: &Database, machine: &mut Machine) {
    let changes = machine.take_changes().into_iter().map(Op::Change);
    let ops: Vec<Op> = changes.collect();
    database.write(&ops, &[], 9).await.unwrap();
}

fn add(machine: &mut Machine, tasks: &[NewTask]) {
    for task in tasks {
        machine.add(task.key.clone(), task.spec.clone());
    }
}

#[tokio::test]
async fn runs_are_read_as_they_were_written() {
    let database = Database::open("sqlite::memory:").await.unwrap();
    let mut run = view("r");
    submit(&database, run.clone()).await;
    assert_eq!(
        database.run(&"r".into()).await.unwrap().as_ref(),
        Some(&run)
    );
    assert_eq!(database.run(&"x".into()).await.unwrap(), None);
    run.reason = "because".to_owned();
    let before = run.stages[0].clone();
    run.stages[0]
        .quarantined
        .insert("0".into(), "it's \"broken\"".to_owned());
    run.stages[0].tasks = 3;
    for stages in [[].into(), ["s".into()].into()] {
        let view = run.clone();
        let change = ViewChange { view, stages };
        let is_whole = !change.stages.is_empty();
        database.write(&[], &[change], 8).await.unwrap();
        let read = database.run(&"r".into()).await.unwrap().unwrap();
        assert_eq!(read.reason, "because");
        let stage = if is_whole { &run.stages[0] } else { &before };
        assert_eq!(&read.stages[0], stage, "only what is named is written");
    }
    submit(&database, view("q")).await;
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
    let tasks = [task("b", 2), task("a", 1), task("c", 1), task("d", 1)];
    let mut machine = Machine::new(POLICY, 3);
    submit(&database, view("r")).await;
    let added = [Op::Tasks(tasks.to_vec())];
    database.write(&added, &[], 8).await.unwrap();
    add(&mut machine, &tasks);
    let offers = [offer("t2"), offer("t1"), offer("t3"), offer("t4")];
    let grants = machine.assign(&offers, Duration::ZERO);
    assert_eq!(grants.len(), 4);
    assert!(machine.committed(&tasks[1].key, grants[2].lease_epoch, Duration::ZERO));
    let failed = Claim {
        key: tasks[2].key.clone(),
        lease_epoch: grants[3].lease_epoch,
        rank: 0,
        worker: "t4".into(),
    };
    let kind = capstan_plan::FailureKind::Transient;
    machine.fail(&failed, kind, "503", Duration::ZERO).unwrap();
    let finished = Claim {
        key: tasks[0].key.clone(),
        lease_epoch: grants[1].lease_epoch,
        rank: 1,
        worker: "t2".into(),
    };
    machine.rank_finished(&finished).unwrap();
    note(&database, &mut machine).await;
    database.close().await;

    let database = Database::open(&url).await.unwrap();
    let restored = database.restore().await.unwrap();
    assert_eq!(restored.len(), 1);
    let shards: Vec<_> = restored[0]
        .tasks
        .iter()
        .map(|(key, _)| key.shard.as_str())
        .collect();
    assert_eq!(
        shards,
        ["b", "c", "d"],
        "as added, but for what is committed"
    );
    let [(_, gang), (_, failed), (_, fresh)] = &restored[0].tasks[..] else {
        panic!()
    };
    let lease = &gang.held().unwrap().lease;
    assert_eq!(lease.lease_epoch, grants[0].lease_epoch);
    let ranks: Vec<_> = lease
        .ranks
        .iter()
        .map(|rank| (rank.worker.as_str(), rank.is_finished))
        .collect();
    assert_eq!(ranks, [("t1", false), ("t2", true)]);
    assert_eq!((gang.attempts, failed.attempts, fresh.attempts), (1, 1, 0));
    assert_eq!(failed.failed_on, ["t4".into()].into());
    assert_eq!(
        (&failed.state, &fresh.state),
        (&State::Ready, &State::Ready)
    );
    let key = &tasks[2].key;
    let jsons = database.task_jsons(&[key]).await.unwrap();
    assert_eq!(jsons[key], "{\"shard\":\"c\"}");
}

#[tokio::test]
async fn both_leases_of_a_twin_survive_and_end() {
    let database = Database::open("sqlite::memory:").await.unwrap();
    submit(&database, view("r")).await;
    let mut machine = Machine::new(POLICY, 1);
    let tasks: Vec<NewTask> = (0..12).map(|n| task(&format!("{n:02}"), 1)).collect();
    let added = [Op::Tasks(tasks.clone())];
    database.write(&added, &[], 8).await.unwrap();
    add(&mut machine, &tasks);
    let slow = machine.assign(&[offer("slow")], Duration::ZERO).remove(0);
    for _ in 1..12 {
        let done = machine.assign(&[offer("w")], Duration::ZERO).remove(0);
        machine.committed(&done.key, done.lease_epoch, Duration::from_secs(1));
    }
    let twin = machine
        .assign(&[offer("w")], Duration::from_secs(9))
        .remove(0);
    assert_eq!(twin.key, slow.key);
    note(&database, &mut machine).await;
    let restored = database.restore().await.unwrap().remove(0);
    let [(_, task)] = &restored.tasks[..] else {
        panic!("{restored:?}")
    };
    let epochs: Vec<_> = task
        .held()
        .unwrap()
        .leases()
        .map(|l| l.lease_epoch)
        .collect();
    assert_eq!(epochs, [slow.lease_epoch, twin.lease_epoch]);
    assert_eq!(task.attempts, 2);

    machine.undelivered(&slow.key, slow.lease_epoch);
    note(&database, &mut machine).await;
    let restored = database.restore().await.unwrap().remove(0);
    let held = restored.tasks[0].1.held().unwrap();
    assert_eq!(held.lease.lease_epoch, twin.lease_epoch);
    assert_eq!(held.twin, None);
    machine.committed(&slow.key, twin.lease_epoch, Duration::from_secs(9));
    note(&database, &mut machine).await;
    assert!(database.restore().await.unwrap()[0].tasks.is_empty());
}

#[tokio::test]
async fn many_rows_are_written_in_few_statements_and_none_is_lost() {
    let database = Database::open("sqlite::memory:").await.unwrap();
    submit(&database, view("r")).await;
    let mut machine = Machine::new(POLICY, 1);
    let tasks: Vec<NewTask> = (0..300).map(|n| task(&format!("{n:03}"), 1)).collect();
    let added = [Op::Tasks(tasks.clone())];
    database.write(&added, &[], 8).await.unwrap();
    add(&mut machine, &tasks);
    let offers: Vec<Offer> = (0..290).map(|n| offer(&format!("w{n}"))).collect();
    let grants = machine.assign(&offers, Duration::ZERO);
    assert_eq!(grants.len(), 290);
    let keys: Vec<&Key> = grants.iter().map(|grant| &*grant.key).collect();
    assert_eq!(database.task_jsons(&keys).await.unwrap().len(), 290);
    for grant in &grants[..280] {
        machine.committed(&grant.key, grant.lease_epoch, Duration::ZERO);
    }
    note(&database, &mut machine).await;
    let restored = database.restore().await.unwrap().remove(0);
    let leased = restored
        .tasks
        .iter()
        .filter(|(_, task)| task.held().is_some());
    assert_eq!((restored.tasks.len(), leased.count()), (20, 10));
}

#[tokio::test]
async fn submitting_again_forgets_tasks_and_attempts() {
    let database = Database::open("sqlite::memory:").await.unwrap();
    submit(&database, view("r")).await;
    for _ in 0..2 {
        let ops = [Op::Tasks(vec![task("a", 1)])];
        database.write(&ops, &[], 8).await.unwrap();
    }
    assert_eq!(
        database.restore().await.unwrap()[0].tasks.len(),
        1,
        "added once"
    );
    let mut machine = Machine::new(POLICY, 1);
    add(&mut machine, &[task("a", 1)]);
    machine.assign(&[offer("w")], Duration::ZERO);
    note(&database, &mut machine).await;
    submit(&database, view("r")).await;
    assert_eq!(database.restore().await.unwrap()[0].tasks.len(), 0);
    let again = [Op::Tasks(vec![task("a", 1)])];
    database.write(&again, &[], 8).await.unwrap();
    let (_, task) = database.restore().await.unwrap().remove(0).tasks.remove(0);
    assert_eq!((task.state, task.attempts), (State::Ready, 0));
}

#[tokio::test]
async fn a_file_is_held_by_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("capstan.db");
    let url = format!("sqlite:{}", file.display());
    let database = Database::open(&url).await.unwrap();
    let error = Database::open(&url).await.unwrap_err();
    assert!(
        matches!(&error, Error::Held { file: held } if *held == file),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("capstan.db is held by another coordinator: stop"),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");
    let replaced = Database::replace(&url, async |_| Ok::<_, Error>(())).await;
    assert!(matches!(replaced, Err(Error::Held { .. })));
    database.close().await;
    Database::open(&url).await.unwrap().close().await;
}

#[tokio::test]
async fn a_database_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("capstan.db").display());
    let database = Database::open(&url).await.unwrap();
    submit(&database, view("old")).await;
    database.close().await;
    let fails = async |database: &Database| {
        submit(database, view("half")).await;
        Err(Error::Damaged {
            table: "runs",
            run: "half".to_owned(),
            reason: "test".to_owned(),
        })
    };
    Database::replace(&url, fails).await.unwrap_err();
    let fills = async |database: &Database| {
        submit(database, view("new")).await;
        Ok::<_, Error>(())
    };
    for (expected, replaces) in [("old", false), ("new", true)] {
        if replaces {
            Database::replace(&url, fills).await.unwrap();
        }
        let database = Database::open(&url).await.unwrap();
        let runs = database.runs(10).await.unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].run.as_str(), expected);
        database.close().await;
    }
    // Whatever stands there.
    std::fs::write(folder.path().join("capstan.db"), b"no database").unwrap();
    assert!(Database::open(&url).await.is_err());
    Database::replace(&url, fills).await.unwrap();
    Database::open(&url).await.unwrap().close().await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let error = Database::open("sqlite:/nowhere/at/all.db")
        .await
        .unwrap_err();
    assert_eq!(
        failure::chain(&error),
        "database /nowhere/at/all.db cannot be locked or replaced (give sqlite:FILE in an \
         existing, writable folder): No such file or directory (os error 2)"
    );
}

#[test]
fn the_program_contains_every_file_of_the_migrations_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    let compiled: Vec<(String, String)> = migrator()
        .iter()
        .map(|migration| {
            let words = migration.description.replace(' ', "_");
            let name = format!("{:04}_{words}.sql", migration.version);
            (name, migration.sql.as_str().to_owned())
        })
        .collect();
    assert_eq!(compiled, files);
}
