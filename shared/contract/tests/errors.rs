//! `docs/errors.md` has a section for each code, with its statuses, and none for anything else.

use std::collections::BTreeMap;

use omnirelay_contract::problem::Code;

/// Code → what its section says first.
fn sections() -> BTreeMap<&'static str, &'static str> {
    let page = include_str!("../../../docs/errors.md");
    let mut sections = BTreeMap::new();
    for section in page.split("\n### ").skip(1) {
        let section = section.split("\n## ").next().unwrap_or(section);
        let (heading, text) = section.split_once('\n').expect("a section has more than its heading");
        let code = heading.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        let code = code.unwrap_or_else(|| panic!("{heading:?} is not a code"));
        assert!(sections.insert(code, text.trim()).is_none(), "{code} has two sections");
    }
    sections
}

/// As the gRPC specification writes it: `FAILED_PRECONDITION`.
fn grpc_word(code: Code) -> String {
    let mut word = String::new();
    for letter in format!("{:?}", code.grpc_code()).chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(letter.to_uppercase());
    }
    word
}

#[test]
fn every_code_has_its_section_with_its_statuses() {
    let sections = sections();
    for code in Code::ALL {
        let text = sections.get(code.as_str()).unwrap_or_else(|| panic!("docs/errors.md has no section for {code}"));
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(first, format!("**{}** · gRPC `{}`", code.http_status(), grpc_word(*code)), "of {code}");
        for part in ["**When.** ", "**Do.** "] {
            assert!(text.contains(part), "the section of {code} does not say {part}");
        }
    }
}

#[test]
fn no_section_is_about_something_else() {
    for code in sections().keys() {
        assert!(Code::parse(code).is_some(), "docs/errors.md tells of {code}, which no answer carries");
    }
}
