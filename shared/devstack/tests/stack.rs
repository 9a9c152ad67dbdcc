//! What a stack offers to those who have one: the same data again, faults on request, and room for every test.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use async_nats::jetstream;
use omnirelay_devstack::{Availability, Devstack, DevstackError, Options, testing};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

#[tokio::test]
async fn the_same_directory_resumes_ports_passwords_and_data() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("made/by/the/start");
    let stack = Devstack::start(small(&state)).await.unwrap();
    let urls = (stack.nats_url().to_owned(), stack.database_url().to_owned());
    write(&stack, "first").await;
    stack.stop().await.unwrap();

    let stack = Devstack::start(small(&state)).await.unwrap();
    assert_eq!((stack.nats_url(), stack.database_url()), (urls.0.as_str(), urls.1.as_str()));
    assert_eq!(read(&stack).await, ("first".to_owned(), 1));
    stack.remove().await.unwrap();
    assert!(!state.exists());
}

#[tokio::test]
async fn a_port_that_somebody_took_meanwhile_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { postgres: false, ..small(dir.path()) };
    let stack = Devstack::start(options.clone()).await.unwrap();
    let old = stack.nats_url().to_owned();
    stack.stop().await.unwrap();
    let port: u16 = old.rsplit(':').next().unwrap().parse().unwrap();
    let _somebody = TcpListener::bind(("127.0.0.1", port)).unwrap();

    let stack = Devstack::start(options).await.unwrap();
    assert_ne!(stack.nats_url(), old);
    connect(stack.nats_url()).await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn servers_come_back_with_port_and_data_after_stops_and_kills() {
    let mut stack = testing::own().await;
    let urls = (stack.nats_url().to_owned(), stack.database_url().to_owned());
    write(&stack, "kept").await;

    stack.stop_nats().await.unwrap();
    stack.stop_postgres().await.unwrap();
    assert_eq!((stack.nats_pid(), stack.postgres_pid()), (None, None));
    assert!(PgConnection::connect(stack.database_url()).await.is_err());
    stack.start_nats().await.unwrap();
    stack.start_postgres().await.unwrap();
    assert_eq!(read(&stack).await, ("kept".to_owned(), 1));

    stack.kill_nats().await.unwrap();
    stack.kill_postgres().await.unwrap();
    stack.start_postgres().await.unwrap();
    stack.start_nats().await.unwrap();
    assert_eq!(read(&stack).await, ("kept".to_owned(), 1));
    assert_eq!((stack.nats_url(), stack.database_url()), (urls.0.as_str(), urls.1.as_str()));

    stack.wipe_nats().await.unwrap();
    stack.start_nats().await.unwrap();
    let jetstream = jetstream::new(connect(stack.nats_url()).await);
    assert!(jetstream.get_stream("KEPT").await.is_err(), "a wiped server holds no streams");

    let dir = stack.state_dir().to_owned();
    stack.stop().await.unwrap();
    assert!(!dir.exists(), "a stack for tests is deleted with its end");
}

#[tokio::test]
async fn a_stack_can_be_one_server_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = Devstack::start(Options { postgres: false, ..small(dir.path()) }).await.unwrap();
    assert_eq!((stack.database_url(), stack.postgres_pid()), ("", None));
    assert!(matches!(stack.kill_postgres().await, Err(DevstackError::NotStarted("PostgreSQL"))));
    assert!(matches!(stack.create_database("x").await, Err(DevstackError::NotStarted("PostgreSQL"))));
    stack.remove().await.unwrap();
}

/// Two tests, each with a runtime of its own as `#[tokio::test]` has it, and one stack.
#[test]
fn every_test_has_its_own_database_and_account() {
    let own = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stack = testing::shared().await;
            let (database, account) = (stack.database().await, stack.nats_account().await);
            let mut connection = PgConnection::connect(&database).await.unwrap();
            sqlx::raw_sql("create table mine (id int)").execute(&mut connection).await.unwrap();
            let jetstream = jetstream::new(connect(&account).await);
            // The same name in each account, with different subjects: in one account the second would be refused.
            let subjects = vec![format!("mine.{:?}", std::thread::current().id()).replace(['(', ')'], "")];
            let config = jetstream::stream::Config { name: "MINE".into(), subjects, ..Default::default() };
            jetstream.create_stream(config).await.unwrap();
            (database, account)
        })
    };
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(own);
        let two = scope.spawn(own);
        (one.join().unwrap(), two.join().unwrap())
    });
    assert!(one.0 != two.0 && one.1 != two.1);
}

#[tokio::test]
async fn only_plain_names_become_databases() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Devstack::start(Options { nats: false, ..small(dir.path()) }).await.unwrap();
    for name in ["", "1st", "Upper", "a-b", "a;drop database omnirelay", &"x".repeat(64)] {
        assert!(matches!(stack.create_database(name).await, Err(DevstackError::DatabaseName(_))), "{name}");
    }
    let url = stack.create_database("plain_1").await.unwrap();
    PgConnection::connect(&url).await.unwrap();
    assert!(matches!(stack.create_database("plain_1").await, Err(DevstackError::Database { .. })));
    stack.remove().await.unwrap();
}

#[tokio::test]
async fn secrets_are_for_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Devstack::start(small(dir.path())).await.unwrap();
    for file in ["devstack.json", "nats/nats.conf"] {
        let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    stack.remove().await.unwrap();
}

/// Root's PostgreSQL runs as another user, so its data goes where that user can come.
#[tokio::test]
async fn as_root_a_closed_directory_has_its_postgresql_elsewhere() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let stack = Devstack::start(small(dir.path())).await.unwrap();
    let saved = std::fs::read_to_string(dir.path().join("devstack.json")).unwrap();
    let home = saved.lines().find_map(|line| line.trim().strip_prefix("\"postgresHome\": \"")).unwrap();
    let home = Path::new(home.trim_end_matches([',', '"']));
    assert!(home.join("data/PG_VERSION").exists());
    write(&stack, "elsewhere").await;
    stack.stop().await.unwrap();
    assert!(home.exists());

    let stack = Devstack::start(small(dir.path())).await.unwrap();
    assert_eq!(read(&stack).await, ("elsewhere".to_owned(), 1));
    stack.remove().await.unwrap();
    assert!(!home.exists());
}

#[test]
fn the_doctor_names_both_programs() {
    let findings = Devstack::check();
    let programs: Vec<_> = findings.iter().map(|finding| finding.program).collect();
    assert_eq!(programs, ["nats-server", "PostgreSQL"]);
    for finding in findings {
        assert!(finding.is_good(), "{finding}");
        if let Availability::Ready { path, .. } = finding.availability {
            assert!(path.is_absolute());
        }
    }
}

fn small(dir: &Path) -> Options {
    Options { small: true, ..Options::new(dir) }
}

/// async-nats takes no credentials from the URL by itself.
async fn connect(url: &str) -> async_nats::Client {
    let server: async_nats::ServerAddr = url.parse().unwrap();
    let (user, password) = (server.username().unwrap().to_owned(), server.password().unwrap().to_owned());
    async_nats::ConnectOptions::with_user_and_password(user, password).connect(server).await.unwrap()
}

/// One row and one message.
async fn write(stack: &Devstack, text: &str) {
    let mut connection = PgConnection::connect(stack.database_url()).await.unwrap();
    let statement = AssertSqlSafe(format!("create table kept as select '{text}'::text as text"));
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    let jetstream = jetstream::new(connect(stack.nats_url()).await);
    let config = jetstream::stream::Config { name: "KEPT".into(), subjects: vec!["kept".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    jetstream.publish("kept", text.to_owned().into()).await.unwrap().await.unwrap();
}

/// The row, and how many messages there are.
async fn read(stack: &Devstack) -> (String, u64) {
    let mut connection = PgConnection::connect(stack.database_url()).await.unwrap();
    let text = sqlx::query_scalar("select text from kept").fetch_one(&mut connection).await.unwrap();
    let jetstream = jetstream::new(connect(stack.nats_url()).await);
    let mut stream = jetstream.get_stream("KEPT").await.unwrap();
    (text, stream.info().await.unwrap().state.messages)
}
