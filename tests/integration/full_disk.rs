//! The coordinator's database on a disk that is full for a while.

use capstan_coordinator::state::{Database, Known, Op, Sqlite};
use capstan_coordinator::view::RunView;
use capstan_plan::Pipeline;
use capstan_tests::disk::SmallDisk;

/// Larger than what the log of the database has allocated already.
const PIPELINE_BYTES: usize = 1 << 20;
/// Writes that fail. The first fails in a transaction; later ones failed in a savepoint of it.
const FAILURES: usize = 3;
const GENERATION: u64 = 1;

fn submit(run: &str) -> Op {
    let toml = "name = \"p\"\n[[stage]]\nname = \"s\"\nkind = \"import\"\ndataset = \"d\"\n\
                format = \"folder\"\nsource = \"x\"\n";
    let pipeline = Pipeline::from_toml(toml, "p.toml").unwrap();
    let json = "x".repeat(PIPELINE_BYTES);
    Op::Submit(Box::new(RunView::new(
        run.into(),
        &pipeline,
        json.into(),
        1,
        7,
    )))
}

#[tokio::test]
async fn a_database_keeps_what_is_written_after_its_disk_was_full() {
    let Some(disk) = SmallDisk::mount("size=8m") else {
        return;
    };
    let url = format!("sqlite:{}", disk.folder().join("capstan.db").display());
    let database = Sqlite::open(&url).await.unwrap();
    let known = Known {
        generation: GENERATION,
        ..Known::default()
    };
    database.know(&known).await.unwrap();
    disk.fill();
    for _ in 0..FAILURES {
        let written = database.append(GENERATION, &[submit("lost")], &[], 7).await;
        let error = written.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    disk.free();
    let written = database.append(GENERATION, &[submit("kept")], &[], 7).await;
    written.unwrap();
    assert!(database.run(&"kept".into()).await.unwrap().is_some());
    database.close().await;
    let reopened = Sqlite::open(&url).await.unwrap();
    assert!(reopened.run(&"kept".into()).await.unwrap().is_some());
    assert_eq!(reopened.run(&"lost".into()).await.unwrap(), None);
    reopened.close().await;
}
