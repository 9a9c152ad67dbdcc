# Stops the servers of one devstack when the process that started them is gone, however it went.
#
# Standard input is a pipe whose other end only that process holds: it ends when the process ends, kill -9 included.
# Arguments: the folder of the pid files, the signals for nats-server and for PostgreSQL, then the folders to delete.
# After a clean stop there are no pid files left, and nothing to do but the deleting.
# A pid file holds the line of /proc/PID/stat as it was at the start; field 22, the start time, proves the identity.

trap '' HUP INT TERM
run=$1 nats_signal=$2 postgres_signal=$3
shift 3

while read -r _; do :; done

# Sets pid, state and started from a stat line. The name in the second field may hold spaces, hence the parenthesis.
fields() {
    pid=${1%% *}
    set -- ${1##*) }
    state=$1
    started=${20}
}

# Sends the signal, if one is given, to the process of a pid file. True while that process runs.
reach() {
    read -r line <"$1" || return 1
    fields "$line"
    at_start=$started
    read -r line <"/proc/$pid/stat" || return 1
    fields "$line"
    [ "$started" = "$at_start" ] && [ "$state" != Z ] && [ "$state" != X ] || return 1
    [ -z "$2" ] || kill -s "$2" "$pid"
}

# Sends a signal to each server that still runs, "polite" being its own. True while any runs.
reach_all() {
    any=1
    for file in "$run"/*.pid; do
        signal=$1
        if [ "$signal" = polite ]; then
            case $file in
            */nats-server.pid) signal=$nats_signal ;;
            */PostgreSQL.pid) signal=$postgres_signal ;;
            *) signal=TERM ;;
            esac
        fi
        reach "$file" "$signal" && any=0
    done
    return $any
}

if reach_all polite; then
    left=100
    while reach_all '' && [ $left -gt 0 ]; do
        sleep 0.1
        left=$((left - 1))
    done
    reach_all KILL
fi

rm -rf "$run"
if [ $# -gt 0 ]; then
    # A server's last child may still be writing: what it adds to a folder being deleted, the second round takes.
    rm -rf "$@" || { sleep 0.5; rm -rf "$@"; }
fi
