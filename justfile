# The same door as in CI: format, lints, tests.
verify:
    .ci/run

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

test *args:
    cargo test --workspace --locked {{args}}

# See it at work in about a minute, and have every claim measured.
demo *args:
    cargo run --release -- demo {{args}}

# Everything in one process, for another terminal to speak to.
dev *args:
    cargo run --release -- dev --env-file .omnirelay/env {{args}}

# Licences and sources always; advisories need the network. Wants cargo-deny.
deny:
    cargo deny check

# Against a running `just dev`: wants OMNIRELAY_URL and OMNIRELAY_TOKEN of its env file.
bench *args:
    cargo run --release -- bench {{args}}
