use super::*;

fn config() -> Config {
    toml::from_str(
        r#"
        current = "prod"
        [contexts.prod]
        url = "https://prod.example.com/"
        nats = "nats://prod.example.com"
        token_file = "/run/prod.token"
        [contexts.dev]
        url = "http://127.0.0.1:7070"
        "#,
    )
    .expect("config")
}

fn check(said: &Said, expected: &str) {
    let text = match choose(&config(), said) {
        Ok(target) => format!(
            "{} {} {} {}",
            target.name,
            target.url,
            target.nats.as_deref().unwrap_or("-"),
            target.token.describe()
        ),
        Err(error) => error.to_string(),
    };
    assert_eq!(text, expected, "{said:?}");
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn flags_win_over_environment_over_context() {
    let token = Token::new("secret");
    let none = Said::default;
    check(&none(), "prod https://prod.example.com nats://prod.example.com file /run/prod.token");
    check(
        &Said { env_token: token.clone(), ..none() },
        "prod https://prod.example.com nats://prod.example.com OMNIRELAY_TOKEN",
    );
    check(&Said { env_url: some("http://h:1"), ..none() }, "h:1 http://h:1 - none");
    check(
        &Said { env_url: some("http://h:1"), env_token: token.clone(), env_nats: some("nats://n"), ..none() },
        "h:1 http://h:1 nats://n OMNIRELAY_TOKEN",
    );
    check(
        &Said { flag_url: some("http://g:2"), env_url: some("http://h:1"), env_nats: some("nats://n"), ..none() },
        "g:2 http://g:2 - none",
    );
    check(
        &Said { flag_context: some("dev"), env_url: some("http://h:1"), env_token: token.clone(), ..none() },
        "dev http://127.0.0.1:7070 - OMNIRELAY_TOKEN",
    );
    check(
        &Said { flag_context: some("prod"), flag_url: some("http://g:2"), env_token: token, ..none() },
        "prod http://g:2 nats://prod.example.com file /run/prod.token",
    );
    check(&Said { flag_context: some("staging"), ..none() }, "there is no context \"staging\"; known: dev, prod");
    check(
        &Said { flag_url: some("ftp://g"), ..none() },
        "\"ftp://g\" is not an address like https://omnirelay.example.com",
    );
}

#[test]
fn nothing_said_and_no_file() {
    assert!(matches!(choose(&Config::default(), &Said::default()), Err(ContextError::Nowhere)));
}

#[test]
fn a_token_is_never_printed() {
    let token = Token::new(" secret\n").expect("token");
    assert_eq!(token.expose(), "secret");
    assert!(!format!("{token:?} {:?}", TokenSource::Environment(token.clone())).contains("secret"));
    assert_eq!(Token::new(" \n"), None);
}

#[test]
fn passwords_are_not_shown() {
    assert_eq!(without_password("nats://u:p@h:4222"), "nats://...@h:4222");
    assert_eq!(without_password("nats://h:4222"), "nats://h:4222");
}

#[test]
fn the_file_survives_a_round_trip_and_is_private() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("deep/config.toml");
    assert_eq!(Config::read(&path).expect("absent"), Config::default());
    config().write(&path).expect("written");
    assert_eq!(Config::read(&path).expect("read"), config());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn tokens_come_from_files_and_commands() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "abc\n").expect("written");
    let fetched = TokenSource::File(path).fetch().await.expect("file");
    assert_eq!(fetched, Token::new("abc"));
    let fetched = TokenSource::Command("printf '%s\\n' def".to_owned()).fetch().await.expect("command");
    assert_eq!(fetched, Token::new("def"));
    assert!(TokenSource::Command("exit 3".to_owned()).fetch().await.is_err());
    assert!(TokenSource::Command("true".to_owned()).fetch().await.is_err());
}
