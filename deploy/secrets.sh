#!/bin/sh
# Makes what compose.yaml needs and no repository may hold: passwords (.env) and keys (deploy/secrets/). What is there is kept.
#
#   deploy/secrets.sh && docker compose up --build
#
# Tokens for the API are signed with deploy/secrets/auth.key.pem:
#   omnirelay auth token --key deploy/secrets/auth.key.pem --subject ana --scope mesh.operate ...
set -eu
cd "$(dirname "$0")/.."
umask 077

# A letter first: nats-server would read digits as a number.
password() { printf 'p%s' "$(openssl rand -hex 24)"; }

if [ ! -e .env ]; then
    for name in POSTGRES NATS_INGRESS NATS_WORKER NATS_AUDIT NATS_OBSERVER NATS_AGENT; do
        printf '%s_PASSWORD=%s\n' "$name" "$(password)"
    done >.env
fi

mkdir -p deploy/secrets
key_pair() {
    [ -e "deploy/secrets/$1.key.pem" ] && return
    openssl genpkey -algorithm ed25519 -out "deploy/secrets/$1.key.pem"
    openssl pkey -in "deploy/secrets/$1.key.pem" -pubout -out "deploy/secrets/$1.pub.pem"
    # The service's user in the container reads them through a mount; on this machine the folder keeps others out.
    chmod 644 "deploy/secrets/$1.pub.pem"
}
key_pair auth
key_pair audit
chmod 644 deploy/secrets/audit.key.pem
