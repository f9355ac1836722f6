//! The database file: locked by one process, replaced completely, named in errors. Readers run beside
//! the writer.

use capstan_plan::failure;

use super::*;

fn view(run: &str) -> RunView {
    let text = "name = \"p\"\n[[stage]]\nname = \"s\"\nkind = \"import\"\ndataset = \"d\"\n\
                format = \"coco_captions\"\nsource = \"x\"\n";
    let pipeline = capstan_plan::Pipeline::from_toml(text, "p.toml").unwrap();
    RunView::new(run.into(), &pipeline, "{}".into(), 1, 7)
}

async fn submit(database: &Sqlite, view: RunView) {
    let ops = [Op::Submit(Box::new(view))];
    database.append(0, &ops, &[], 7).await.unwrap();
}

#[tokio::test]
async fn one_process_at_a_time_holds_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("capstan.db");
    let url = format!("sqlite:{}", file.display());
    let database = Sqlite::open(&url).await.unwrap();
    let error = Sqlite::open(&url).await.unwrap_err();
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
    let replaced = Sqlite::replace(&url, async |_| Ok::<_, Error>(())).await;
    assert!(matches!(replaced, Err(Error::Held { .. })));
    database.close().await;
    Sqlite::open(&url).await.unwrap().close().await;
}

#[tokio::test]
async fn a_database_is_replaced_completely_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("capstan.db").display());
    let database = Sqlite::open(&url).await.unwrap();
    submit(&database, view("old")).await;
    database.close().await;
    let fails = async |database: &Sqlite| {
        submit(database, view("half")).await;
        Err(Error::Damaged {
            table: "runs",
            run: "half".to_owned(),
            reason: "test".to_owned(),
        })
    };
    Sqlite::replace(&url, fails).await.unwrap_err();
    let fills = async |database: &Sqlite| {
        submit(database, view("new")).await;
        Ok::<_, Error>(())
    };
    for (expected, replaces) in [("old", false), ("new", true)] {
        if replaces {
            Sqlite::replace(&url, fills).await.unwrap();
        }
        let database = Sqlite::open(&url).await.unwrap();
        let runs = database.runs(10).await.unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].run.as_str(), expected);
        database.close().await;
    }
    // The old file may be damaged.
    std::fs::write(folder.path().join("capstan.db"), b"no database").unwrap();
    assert!(Sqlite::open(&url).await.is_err());
    Sqlite::replace(&url, fills).await.unwrap();
    Sqlite::open(&url).await.unwrap().close().await;
}

#[tokio::test]
async fn the_error_names_a_missing_folder() {
    let error = Sqlite::open("sqlite:/nowhere/at/all.db").await.unwrap_err();
    assert_eq!(
        failure::chain(&error),
        "database /nowhere/at/all.db cannot be locked or replaced (give sqlite:FILE in an \
         existing, writable folder): No such file or directory (os error 2)"
    );
}

#[test]
fn the_program_includes_every_file_of_the_migrations_folder() {
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

#[tokio::test]
async fn shards_that_an_older_program_gave_up_stay_given_up() {
    let pool = sqlx::sqlite::SqlitePoolOptions::new()
        .max_connections(1)
        .connect("sqlite::memory:")
        .await
        .unwrap();
    for (migration, sql) in migrator().iter().map(|m| (m.version, m.sql.clone())) {
        if migration == 6 {
            let stage = r#"INSERT INTO stages VALUES ('r', 's', 0, 'import', 'x', 1, 0, 0,
                '{"00001": "it''s \"broken\"", "00002": "gone"}', 0, 0, '')"#;
            sqlx::raw_sql(stage).execute(&pool).await.unwrap();
        }
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    let mut run = view("r");
    given_up::read(&pool, &mut run).await.unwrap();
    let expected = [
        ("00001".into(), "it's \"broken\"".to_owned()),
        ("00002".into(), "gone".to_owned()),
    ];
    assert_eq!(run.stages[0].quarantined, expected.into());
}

#[tokio::test]
async fn rows_of_an_older_program_keep_their_columns() {
    let pool = sqlx::sqlite::SqlitePoolOptions::new()
        .max_connections(1)
        .connect("sqlite::memory:")
        .await
        .unwrap();
    for (migration, sql) in migrator().iter().map(|m| (m.version, m.sql.clone())) {
        if migration == 7 {
            // The order of the columns that the older program had.
            for row in [
                "tasks VALUES ('r', 's', '0', 3, 'import', 1, 'b', 0, '{}', 'cpu-avx2')",
                "task_states VALUES ('r', 's', '0', 'READY', 2, '[]', 'w', 'm')",
                "attempts VALUES ('r', 's', '0', 1, 4, 0, 2, 'w', 0, 5, 0, '', 'm')",
                "commits VALUES ('r', 's', '1', '{}')",
            ] {
                let insert = sqlx::AssertSqlSafe(format!("INSERT INTO {row}"));
                sqlx::raw_sql(insert).execute(&pool).await.unwrap();
            }
        }
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    let task: (i64, String, String, String, i64, String, i64, String) = sqlx::query_as(
        "SELECT t.position, t.role, t.base, t.device, s.attempts, s.last_worker, a.counter, a.worker \
         FROM tasks t JOIN task_states s USING (run, stage, shard) \
         JOIN attempts a USING (run, stage, shard)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let text = str::to_owned;
    let expected = (
        3,
        text("import"),
        text("b"),
        text("cpu-avx2"),
        2,
        text("w"),
        4,
        text("w"),
    );
    assert_eq!(task, expected);
    let (shard,): (String,) = sqlx::query_as("SELECT shard FROM commits WHERE summary = '{}'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(shard, "1");
}

#[tokio::test]
async fn readers_do_not_wait_for_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("capstan.db").display());
    let database = Sqlite::open(&url).await.unwrap();
    submit(&database, view("r")).await;
    let mut writing = database.writer.begin().await.unwrap();
    sqlx::query("UPDATE runs SET reason = 'not yet committed'")
        .execute(&mut *writing)
        .await
        .unwrap();
    let run = database.run(&"r".into()).await.unwrap().unwrap();
    assert_eq!(run.reason, "", "only committed transactions are read");
    writing.commit().await.unwrap();
    let run = database.run(&"r".into()).await.unwrap().unwrap();
    assert_eq!(run.reason, "not yet committed");
    database.close().await;
}

#[tokio::test]
async fn a_full_disk_is_transient_and_a_rejected_statement_is_not() {
    let database = Sqlite::open("sqlite::memory:").await.unwrap();
    let (pages,): (i64,) = sqlx::query_as("PRAGMA page_count")
        .fetch_one(&database.writer)
        .await
        .unwrap();
    let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    sqlx::query(limit).execute(&database.writer).await.unwrap();
    let mut large = view("r");
    large.pipeline_json = "x".repeat(1 << 20).into();
    let ops = [Op::Submit(Box::new(large))];
    let error = database.append(0, &ops, &[], 7).await.unwrap_err();
    assert!(error.is_transient(), "{}", failure::chain(&error));
    let refused = sqlx::query("SELECT * FROM nothing")
        .execute(&database.writer)
        .await;
    assert!(!Error::from(refused.unwrap_err()).is_transient());
}
