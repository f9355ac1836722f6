//! Guarantees of [`Database`], tested on each implementation: what is written is read back, also after
//! a restart.

use std::sync::Arc;
use std::time::Duration;

use capstan_plan::commit::Outputs;
use capstan_plan::id::RecipeHash;
use capstan_plan::task::Role;
use capstan_proto::v1;
use tempfile::TempDir;

use super::*;
use crate::machine::{Claim, Machine, Offer, Policy, State};

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

/// The generation of the coordinator that writes.
const GENERATION: u64 = 5;

/// An implementation under test.
struct Subject {
    database: Arc<dyn Database>,
    /// The folder of its file, if it has one.
    folder: Option<TempDir>,
}

impl Subject {
    async fn all() -> Vec<Self> {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(&url(&folder)).await.unwrap();
        let subjects = [
            (Arc::new(sqlite) as Arc<dyn Database>, Some(folder)),
            (Arc::new(InMemory::default()), None),
        ];
        let known = Known {
            generation: GENERATION,
            ..Known::default()
        };
        let mut all = Vec::new();
        for (database, folder) in subjects {
            assert_eq!(database.known().await.unwrap(), Known::default());
            database.know(&known).await.unwrap();
            assert_eq!(database.known().await.unwrap(), known);
            all.push(Self { database, folder });
        }
        all
    }

    /// Closes the database and opens it again, as the next process does.
    async fn restart(&mut self) {
        self.database.close().await;
        if let Some(folder) = &self.folder {
            self.database = Arc::new(Sqlite::open(&url(folder)).await.unwrap());
        }
    }
}

fn url(folder: &TempDir) -> String {
    format!("sqlite:{}", folder.path().join("capstan.db").display())
}

/// Appends as the coordinator of [`GENERATION`].
async fn append(database: &dyn Database, ops: &[Op], views: &[ViewChange]) {
    database.append(GENERATION, ops, views, 8).await.unwrap();
}

fn view(run: &str) -> RunView {
    let pipeline = capstan_plan::Pipeline::from_toml(PIPELINE, "p.toml").unwrap();
    RunView::new(run.into(), &pipeline, "{}".into(), u64::MAX, 7)
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

/// Submits a run.
async fn submit(database: &dyn Database, view: RunView) {
    append(database, &[Op::Submit(Box::new(view))], &[]).await;
}

/// Appends the changes of a machine.
async fn append_changes(database: &dyn Database, machine: &mut Machine) {
    let changes = machine.take_changes().into_iter().map(Op::Change);
    let ops: Vec<Op> = changes.collect();
    append(database, &ops, &[]).await;
}

fn add(machine: &mut Machine, tasks: &[NewTask]) {
    for task in tasks {
        machine.add(task.key.clone(), task.spec.clone());
    }
}

#[tokio::test]
async fn runs_are_read_as_they_were_written() {
    for subject in Subject::all().await {
        let database = &*subject.database;
        let mut run = view("r");
        submit(database, run.clone()).await;
        assert_eq!(
            database.run(&"r".into()).await.unwrap().as_ref(),
            Some(&run)
        );
        assert_eq!(database.run(&"x".into()).await.unwrap(), None);
        run.reason = "because".to_owned();
        let before = run.stages[0].clone();
        run.stages[0].tasks = 3;
        for stages in [[].into(), ["s".into()].into()] {
            let view = run.clone();
            let change = ViewChange { view, stages };
            let is_whole = !change.stages.is_empty();
            append(database, &[], &[change]).await;
            let read = database.run(&"r".into()).await.unwrap().unwrap();
            assert_eq!(read.reason, "because");
            let stage = if is_whole { &run.stages[0] } else { &before };
            assert_eq!(&read.stages[0], stage, "only listed stages are written");
        }
        submit(database, view("q")).await;
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
}

/// The shards of stage `s` that were given up, as they are after a restart.
async fn given_up(database: &dyn Database) -> Vec<(String, String)> {
    let view = database.run(&"r".into()).await.unwrap().unwrap();
    assert_eq!(database.load().await.unwrap()[0].view, view);
    let shards = view.stages[0].quarantined.iter();
    let shards = shards.map(|(shard, reason)| (shard.to_string(), reason.clone()));
    shards.collect()
}

fn pairs(shards: &[(&str, &str)]) -> Vec<(String, String)> {
    let shards = shards.iter();
    let shards = shards.map(|(shard, reason)| ((*shard).to_owned(), (*reason).to_owned()));
    shards.collect()
}

#[tokio::test]
async fn shards_that_were_given_up_are_stored_until_they_are_retried() {
    for subject in Subject::all().await {
        let database = &*subject.database;
        let mut run = view("r");
        let before = [("0".into(), "it's \"broken\"".to_owned())];
        run.stages[0].quarantined = before.into();
        submit(database, run.clone()).await;
        assert_eq!(given_up(database).await, pairs(&[("0", "it's \"broken\"")]));
        // Writing the stage later does not change them.
        run.stages[0].quarantined.clear();
        let stages = ["s".into()].into();
        append(database, &[], &[ViewChange { view: run, stages }]).await;
        let left_out = Op::GivenUp {
            run: "r".into(),
            stage: "s".into(),
            shards: vec![
                ("0".into(), "again".to_owned()),
                ("1".into(), "built without it".to_owned()),
            ],
        };
        append(database, &[left_out], &[]).await;
        let known = [("0", "it's \"broken\""), ("1", "built without it")];
        assert_eq!(given_up(database).await, pairs(&known));

        let mut machine = Machine::new(POLICY, 1);
        let tasks = [task("2", 1)];
        append(database, &[Op::Tasks(tasks.to_vec())], &[]).await;
        add(&mut machine, &tasks);
        let grant = machine.assign(&[offer("w")], Duration::ZERO).remove(0);
        let claim = Claim {
            key: tasks[0].key.clone(),
            lease_epoch: grant.lease_epoch,
            rank: 0,
            worker: "w".into(),
        };
        let kind = capstan_plan::FailureKind::Fatal;
        machine
            .fail(&claim, kind, "no such file", Duration::ZERO)
            .unwrap();
        append_changes(database, &mut machine).await;
        let all = [known[0], known[1], ("2", "no such file")];
        assert_eq!(given_up(database).await, pairs(&all));
        let of_stage = machine.given_up(&"r".into(), &"s".into());
        let fatal: Vec<_> = of_stage.map(|(_, given_up)| given_up.is_fatal).collect();
        assert_eq!(fatal, [true]);

        assert!(machine.retry(&tasks[0].key));
        append_changes(database, &mut machine).await;
        assert_eq!(given_up(database).await, pairs(&known));
        assert_eq!(machine.count_given_up(&"r".into(), &"s".into()), 0);
        submit(database, view("r")).await;
        assert_eq!(given_up(database).await, [], "every shard is retried");
    }
}

#[tokio::test]
async fn tasks_and_leases_survive_a_restart() {
    for mut subject in Subject::all().await {
        let database = &*subject.database;
        let tasks = [task("b", 2), task("a", 1), task("c", 1), task("d", 1)];
        let mut machine = Machine::new(POLICY, 3);
        submit(database, view("r")).await;
        let added = [Op::Tasks(tasks.to_vec())];
        append(database, &added, &[]).await;
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
        append_changes(database, &mut machine).await;
        subject.restart().await;
        let database = &*subject.database;
        let restored = database.load().await.unwrap();
        assert_eq!(restored.len(), 1);
        let shards: Vec<_> = restored[0]
            .tasks
            .iter()
            .map(|(key, _)| key.shard.as_str())
            .collect();
        assert_eq!(
            shards,
            ["b", "c", "d"],
            "in the order of insertion, without committed tasks"
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
}

#[tokio::test]
async fn both_leases_of_a_task_survive_a_restart_and_end() {
    for subject in Subject::all().await {
        let database = &*subject.database;
        submit(database, view("r")).await;
        let mut machine = Machine::new(POLICY, 1);
        let tasks: Vec<NewTask> = (0..12).map(|n| task(&format!("{n:02}"), 1)).collect();
        let added = [Op::Tasks(tasks.clone())];
        append(database, &added, &[]).await;
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
        append_changes(database, &mut machine).await;
        let restored = database.load().await.unwrap().remove(0);
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
        append_changes(database, &mut machine).await;
        let restored = database.load().await.unwrap().remove(0);
        let held = restored.tasks[0].1.held().unwrap();
        assert_eq!(held.lease.lease_epoch, twin.lease_epoch);
        assert_eq!(held.twin, None);
        machine.committed(&slow.key, twin.lease_epoch, Duration::from_secs(9));
        append_changes(database, &mut machine).await;
        assert!(database.load().await.unwrap()[0].tasks.is_empty());
    }
}

#[tokio::test]
async fn many_rows_are_written_in_few_statements_and_none_is_lost() {
    for subject in Subject::all().await {
        let database = &*subject.database;
        submit(database, view("r")).await;
        let mut machine = Machine::new(POLICY, 1);
        let tasks: Vec<NewTask> = (0..300).map(|n| task(&format!("{n:03}"), 1)).collect();
        let added = [Op::Tasks(tasks.clone())];
        append(database, &added, &[]).await;
        add(&mut machine, &tasks);
        let offers: Vec<Offer> = (0..290).map(|n| offer(&format!("w{n}"))).collect();
        let grants = machine.assign(&offers, Duration::ZERO);
        assert_eq!(grants.len(), 290);
        let keys: Vec<&Key> = grants.iter().map(|grant| &*grant.key).collect();
        assert_eq!(database.task_jsons(&keys).await.unwrap().len(), 290);
        for grant in &grants[..280] {
            machine.committed(&grant.key, grant.lease_epoch, Duration::ZERO);
        }
        append_changes(database, &mut machine).await;
        let restored = database.load().await.unwrap().remove(0);
        let leased = restored
            .tasks
            .iter()
            .filter(|(_, task)| task.held().is_some());
        assert_eq!((restored.tasks.len(), leased.count()), (20, 10));
    }
}

#[tokio::test]
async fn submitting_again_forgets_tasks_and_attempts() {
    for subject in Subject::all().await {
        let database = &*subject.database;
        submit(database, view("r")).await;
        for _ in 0..2 {
            let ops = [Op::Tasks(vec![task("a", 1)])];
            append(database, &ops, &[]).await;
        }
        assert_eq!(
            database.load().await.unwrap()[0].tasks.len(),
            1,
            "one task, although added twice"
        );
        let mut machine = Machine::new(POLICY, 1);
        add(&mut machine, &[task("a", 1)]);
        machine.assign(&[offer("w")], Duration::ZERO);
        append_changes(database, &mut machine).await;
        submit(database, view("r")).await;
        assert_eq!(database.load().await.unwrap()[0].tasks.len(), 0);
        let again = [Op::Tasks(vec![task("a", 1)])];
        append(database, &again, &[]).await;
        let (_, task) = database.load().await.unwrap().remove(0).tasks.remove(0);
        assert_eq!((task.state, task.attempts), (State::Ready, 0));
    }
}

#[tokio::test]
async fn a_superseded_coordinator_writes_nothing() {
    for subject in Subject::all().await {
        let database = &*subject.database;
        submit(database, view("r")).await;
        let known = Known {
            generation: GENERATION + 1,
            ..Known::default()
        };
        database.know(&known).await.unwrap();
        let ops = [Op::Submit(Box::new(view("late")))];
        let error = database.append(GENERATION, &ops, &[], 9).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the database belongs to generation 6, this coordinator is generation 5"
        );
        assert!(!error.is_transient());
        assert_eq!(database.run(&"late".into()).await.unwrap(), None);
        assert!(database.run(&"r".into()).await.unwrap().is_some());
    }
}

fn shards<'a>(run: &'a RunId, stage: &'a StageName, of: &'a [ShardId; 2]) -> Shards<'a> {
    let [first, last] = of;
    Shards {
        run,
        stage,
        first,
        last,
    }
}

fn commits(names: &[&str]) -> Op {
    let commit = |name: &&str| {
        let summary = Summary {
            recipe: RecipeHash(Digest::of(name.as_bytes())),
            outputs: Outputs::default(),
            adopted: *name == "00002",
        };
        (ShardId::from(*name), summary)
    };
    Op::Commits {
        run: "r".into(),
        stage: "s".into(),
        commits: names.iter().map(commit).collect(),
    }
}

#[tokio::test]
async fn commits_are_read_by_ranges_of_their_names_and_survive_a_new_submission() {
    for mut subject in Subject::all().await {
        let (run, stage) = (RunId::from("r"), StageName::from("s"));
        submit(&*subject.database, view("r")).await;
        assert!(!subject.database.is_listed(&run, &stage).await.unwrap());
        let listed = Op::Listed {
            run: run.clone(),
            stage: stage.clone(),
        };
        let all = ["00000", "00001", "00002", "99999", "a100000"];
        append(&*subject.database, &[commits(&all), listed], &[]).await;
        subject.restart().await;
        let database = &*subject.database;
        assert!(database.is_listed(&run, &stage).await.unwrap());
        let range = ["00001".into(), "99999".into()];
        let range = shards(&run, &stage, &range);
        assert_eq!(database.count_committed(range).await.unwrap(), 3);
        let names: Vec<ShardId> = all[1..4].iter().map(|name| (*name).into()).collect();
        let found = database.committed(range).await.unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), names);
        let found = database.commits(range).await.unwrap();
        let adopted = found.iter().filter(|(_, commit)| commit.adopted);
        assert_eq!(
            adopted.map(|(shard, _)| shard).collect::<Vec<_>>(),
            [&names[1]]
        );
        let (other, none) = (StageName::from("t"), ["0".into(), "b".into()]);
        let none = shards(&run, &other, &none);
        assert_eq!(database.count_committed(none).await.unwrap(), 0);

        // A new submission removes a commit that the store no longer has.
        submit(database, view("r")).await;
        assert!(!database.is_listed(&run, &stage).await.unwrap());
        let lost = Op::Lost {
            run: run.clone(),
            stage: stage.clone(),
            shards: vec!["00002".into()],
        };
        append(database, &[lost], &[]).await;
        assert_eq!(database.count_committed(range).await.unwrap(), 2);
    }
}

#[tokio::test]
async fn a_committed_task_leaves_only_its_summary() {
    for mut subject in Subject::all().await {
        submit(&*subject.database, view("r")).await;
        let mut machine = Machine::new(POLICY, GENERATION);
        let task = task("00000", 1);
        append(&*subject.database, &[Op::Tasks(vec![task.clone()])], &[]).await;
        add(&mut machine, std::slice::from_ref(&task));
        let grants = machine.assign(&[offer("w")], Duration::ZERO);
        append_changes(&*subject.database, &mut machine).await;
        assert!(machine.committed(&task.key, grants[0].lease_epoch, Duration::ZERO));
        append_changes(&*subject.database, &mut machine).await;
        append(&*subject.database, &[commits(&["00000"])], &[]).await;
        subject.restart().await;
        let restored = subject.database.load().await.unwrap();
        assert_eq!(restored[0].tasks, []);
        let jsons = subject.database.task_jsons(&[&task.key]).await.unwrap();
        assert_eq!(jsons.len(), 0);
    }
}

#[tokio::test]
async fn a_run_is_pruned_with_its_commits() {
    for subject in Subject::all().await {
        let database = &*subject.database;
        for (run, ended) in [("r", 50), ("later", 60), ("running", 0)] {
            let mut view = view(run);
            if ended > 0 {
                view.state = v1::RunState::Done;
                view.ended_unix_ms = ended;
            }
            submit(database, view).await;
        }
        append(database, &[commits(&["00000"])], &[]).await;
        let ended = |before, limit| database.ended_before(before, limit);
        assert_eq!(ended(61, 9).await.unwrap(), ["r".into(), "later".into()]);
        assert_eq!(ended(61, 1).await.unwrap(), ["r".into()]);
        assert_eq!(ended(50, 9).await.unwrap(), []);
        append(database, &[Op::Prune("r".into())], &[]).await;
        assert_eq!(database.run(&"r".into()).await.unwrap(), None);
        let (run, stage) = ("r".into(), "s".into());
        let all = ["".into(), "z".into()];
        let all = shards(&run, &stage, &all);
        assert_eq!(database.count_committed(all).await.unwrap(), 0);
        assert_eq!(ended(61, 9).await.unwrap(), ["later".into()]);
    }
}
