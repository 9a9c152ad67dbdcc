//! What may be set, what is refused and how that is said; and that the schema says the same.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

fn rule_with(member: &str, value: &Value) -> Value {
    let mut rule = json!({"name": "prod", "verbs": ["peers.drain"]});
    rule[member] = value.clone();
    json!({"approvals": {"rules": [rule]}})
}

#[test]
fn defaults_are_whole_and_valid() {
    let whole = Settings::default_value();
    assert_eq!(
        whole,
        json!({
            "drain": {"deadline": null, "onDeadline": "hold", "maxConcurrent": 4},
            "promote": {"minHealthyPercent": 50, "maxReplicationLagMs": 500, "fenceTimeout": "30s"},
            "approvals": {"rules": []},
            "disruption": {"maxUnavailable": null, "services": {}},
            "heartbeat": {"timeout": "10s"},
        })
    );
    assert_eq!(Settings::parse(&whole).expect("valid"), Settings::default());
    assert_eq!(Settings::default().promote.max_replication_lag_ms, Some(500));
}

#[test]
fn a_patch_sets_and_takes_back() {
    let patch = json!({
        "drain": {"deadline": "90m", "maxConcurrent": 8},
        "promote": {"maxReplicationLagMs": "unlimited"},
        "disruption": {"maxUnavailable": "25%", "services": {"checkout": 1, "old": "10%"}},
    });
    let (whole, settings) = Settings::patched(&Settings::default_value(), &patch).expect("valid");
    assert_eq!(whole["drain"]["deadline"], "90m", "as it was written");
    assert_eq!(whole["disruption"]["maxUnavailable"], "25%");
    assert_eq!(whole["disruption"]["services"], json!({"checkout": 1, "old": "10%"}));
    assert_eq!(settings.drain.deadline, Some(Duration::from_secs(5400)));
    assert_eq!(settings.promote.max_replication_lag_ms, None);
    assert_eq!(settings.disruption.services["checkout"], Amount::Count(1));

    let patch = json!({"drain": {"deadline": null, "maxConcurrent": null}, "disruption": {"services": {"old": null}}, "promote": null});
    let (whole, _) = Settings::patched(&whole, &patch).expect("valid");
    assert_eq!((&whole["drain"]["deadline"], &whole["drain"]["maxConcurrent"]), (&Value::Null, &json!(4)));
    assert_eq!(whole["disruption"]["services"], json!({"checkout": 1}));
    assert_eq!(whole["promote"], Settings::default_value()["promote"]);
}

#[test]
fn a_rule_is_completed() {
    let (whole, settings) =
        Settings::patched(&Settings::default_value(), &rule_with("selector", &json!("env=prod"))).expect("valid");
    assert_eq!(
        whole["approvals"]["rules"][0],
        json!({
            "name": "prod", "verbs": ["peers.drain"], "selector": "env=prod", "gate": "start", "required": 1,
            "approverScope": "mesh.approve", "expiresIn": "30m", "requireTicket": false,
        })
    );
    assert_eq!(settings.approvals.rules[0].expires_in, Duration::from_secs(1800));
}

#[test]
fn what_is_wrong_is_named_with_its_rule() {
    let check = |patch: Value, expect: &str| {
        let refused = Settings::patched(&Settings::default_value(), &patch).expect_err(expect);
        assert_eq!(refused.to_string(), expect);
        assert!(expect.contains(refused.rule()) && expect.starts_with(refused.key()), "{refused:?}");
    };
    check(
        json!({"drain": {"maxConcurrent": 0}}),
        "drain.maxConcurrent must be a whole number of at least 1, at most 1000, not 0",
    );
    check(
        json!({"drain": {"maxConcurrent": "4"}}),
        "drain.maxConcurrent must be a whole number of at least 1, at most 1000, not \"4\"",
    );
    check(
        json!({"drain": {"onDeadline": "stop"}}),
        "drain.onDeadline must be one of hold, cancel, force, not \"stop\"",
    );
    check(
        json!({"heartbeat": {"timeout": "soon"}}),
        "heartbeat.timeout must be a duration like \"30s\" or \"1h 30m\", from 1s to 1h, not \"soon\"",
    );
    check(
        json!({"heartbeat": {"timeout": "100ms"}}),
        "heartbeat.timeout must be a duration like \"30s\" or \"1h 30m\", from 1s to 1h, not \"100ms\"",
    );
    check(
        json!({"promote": {"maxReplicationLagMs": "none"}}),
        "promote.maxReplicationLagMs must be a whole number of at least 0, at most 86400000, or \"unlimited\", not \"none\"",
    );
    check(
        json!({"promote": {"minHealthyPercent": 101}}),
        "promote.minHealthyPercent must be a whole number of at least 0, at most 100, not 101",
    );
    check(
        json!({"disruption": {"services": {"checkout": "120%"}}}),
        "disruption.services.checkout must be a whole number or a percent text like \"25%\", not \"120%\"",
    );
    check(json!({"drian": {}}), "drian is no setting; known here: drain, promote, approvals, disruption, heartbeat");
    check(json!({"drian": null}), "drian is no setting; known here: drain, promote, approvals, disruption, heartbeat");
    check(json!({"heartbeat": {"interval": 3}}), "heartbeat.interval is no setting; known here: timeout");
    check(json!([]), "settings must be an object, not a list of 0");
    check(json!({"drain": 3}), "drain must be an object, not 3");
    check(
        rule_with("required", &json!(0)),
        "approvals.rules[0].required must be a whole number of at least 1, at most 20, not 0",
    );
    check(rule_with("verbs", &json!([])), "approvals.rules[0].verbs must be a list of 1 to 50, not a list of 0");
    check(
        rule_with("selector", &json!("a b")),
        "approvals.rules[0].selector must be a selector: terms a=b, a!=b, a, !a, separated by commas, not \"a b\"",
    );
    check(
        rule_with("approverScope", &json!("mesh.read")),
        "approvals.rules[0].approverScope must be one of mesh.approve, mesh.admin, not \"mesh.read\"",
    );
    check(
        json!({"approvals": {"rules": [{"verbs": ["peers.drain"]}]}}),
        "approvals.rules[0].name is missing: it must be a text of 1 to 100 characters",
    );
    let rule = json!({"name": "prod", "verbs": ["peers.drain"]});
    check(
        json!({"approvals": {"rules": [rule, rule]}}),
        "approvals.rules[1].name must be a name that no other rule has, nor request or approvals-guard, not \"prod\"",
    );
    check(
        rule_with("name", &json!("request")),
        "approvals.rules[0].name must be a name that no other rule has, nor request or approvals-guard, not \"request\"",
    );
    check(
        rule_with("gate", &json!("cutover")),
        "approvals.rules[0].verbs[0] must be one of clusters.promote, clusters.demote, which have a cutover gate, not \"peers.drain\"",
    );
    let verbs = Settings::patched(&Settings::default_value(), &rule_with("verbs", &json!(["peers.drian"])));
    assert_eq!(verbs.expect_err("no verb").key(), "approvals.rules[0].verbs[0]");
}

#[test]
fn an_amount_is_a_number_or_a_share() {
    let check = |given: Value, of: u32, expect: u32| {
        let amount: Amount = serde_json::from_value(given.clone()).expect("an amount");
        assert_eq!(amount.of(of), expect, "{given} of {of}");
        assert_eq!(serde_json::to_value(amount).expect("JSON"), given, "as it was given");
    };
    check(json!(0), 10, 0);
    check(json!(3), 10, 3);
    check(json!("0%"), 10, 0);
    check(json!("25%"), 10, 2);
    check(json!("25%"), 3, 1);
    check(json!("1%"), 0, 1);
    check(json!("100%"), 7, 7);
    check(json!("99%"), u32::MAX, 4_252_017_622);
    for bad in [json!(-1), json!(1.5), json!("25"), json!("%"), json!("101%"), json!("05%"), json!("-1%"), json!(null)]
    {
        assert!(serde_json::from_value::<Amount>(bad.clone()).is_err(), "{bad}");
    }
}

/// Every path of an object, those of list items as `[]`.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    for (key, member) in value.as_object().into_iter().flatten() {
        found.insert(format!("{at}/{key}"));
        paths(member, &format!("{at}/{key}"), found);
    }
    for item in value.as_array().into_iter().flatten() {
        paths(item, &format!("{at}[]"), found);
    }
}

fn schema_paths(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    for (key, member) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(format!("{at}/{key}"));
        assert!(member["description"].as_str().is_some_and(|text| text.ends_with('.')), "{at}/{key}: {member}");
        schema_paths(member, &format!("{at}/{key}"), found);
    }
    if schema["items"].is_object() {
        schema_paths(&schema["items"], &format!("{at}[]"), found);
    }
}

#[test]
fn the_schema_has_what_the_defaults_have_and_nothing_else() {
    let schema = schema();
    let (whole, _) = Settings::patched(&Settings::default_value(), &rule_with("required", &json!(2))).expect("valid");
    let (mut set, mut described) = (BTreeSet::new(), BTreeSet::new());
    paths(&whole, "", &mut set);
    schema_paths(&schema, "", &mut described);
    assert_eq!(set, described);
    for (key, section) in Settings::default_value().as_object().expect("an object") {
        assert_eq!(&schema["properties"][key]["default"], section);
    }
    jsonschema::draft202012::meta::validate(&schema).expect("a schema");
}

/// One value too many, too few, of another type: for every setting.
fn samples() -> impl Strategy<Value = Value> {
    let setting = prop::sample::select(vec![
        "drain.deadline",
        "drain.onDeadline",
        "drain.maxConcurrent",
        "drain.other",
        "drain",
        "promote.minHealthyPercent",
        "promote.maxReplicationLagMs",
        "promote.fenceTimeout",
        "approvals.rules",
        "approvals.name",
        "approvals.required",
        "approvals.gate",
        "approvals.verbs",
        "approvals.selector",
        "approvals.requireTicket",
        "approvals.approverScope",
        "disruption.maxUnavailable",
        "disruption.services",
        "disruption.checkout",
        "heartbeat.timeout",
        "limits",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!(""),
            json!("hold"),
            json!("1h 30m"),
            json!("30s"),
            json!("30 parsecs"),
            json!("-30s"),
            json!("unlimited"),
            json!("25%"),
            json!("250%"),
            json!("mesh.admin"),
            json!("cutover"),
            json!(["peers.drain"]),
            json!(["peers.dance"]),
            json!(-1),
            json!(0.5),
            json!("a=b"),
            json!({"checkout": 2}),
            json!({"": 2}),
        ]),
        (0u64..1200).prop_map(Value::from),
        "[a-z0-9% ]{0,5}".prop_map(Value::from),
        (1u64..60, prop::sample::select(vec!["s", "sec", " min", "m"]))
            .prop_map(|(n, unit)| json!(format!("{n}{unit}"))),
    ];
    (setting, value).prop_map(|(setting, value)| match setting.split_once('.') {
        Some(("approvals", "rules")) => json!({"approvals": {"rules": value}}),
        Some(("approvals", member)) => rule_with(member, &value),
        Some(("disruption", "checkout")) => json!({"disruption": {"services": {"checkout": value}}}),
        Some((section, member)) => json!({section: {member: value}}),
        None => json!({setting: value}),
    })
}

/// Bounds of durations, the grammar of selectors and which verbs have which gate are told by the schema in words only.
fn in_words_only(sample: &Value, refused: &InvalidSetting) -> bool {
    if refused.rule().ends_with("gate") {
        return true;
    }
    let told = refused.rule().starts_with("a selector") || refused.rule().starts_with("a duration");
    let value = sample.pointer(&format!("/{}", refused.key().replace("[0]", "/0").replace('.', "/")));
    told && value.and_then(Value::as_str).is_some_and(|text| {
        refused.rule().starts_with("a selector") && !text.is_empty() || humantime::parse_duration(text).is_ok()
    })
}

static SCHEMA: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::draft202012::new(&schema()).expect("a schema"));

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn the_schema_and_the_validator_agree(sample in samples()) {
        match Settings::parse(&sample) {
            Ok(_) => prop_assert!(SCHEMA.is_valid(&sample), "the schema refuses {sample}"),
            Err(refused) if in_words_only(&sample, &refused) => {}
            Err(refused) => prop_assert!(!SCHEMA.is_valid(&sample), "the schema allows {sample}, but {refused}"),
        }
    }
}
