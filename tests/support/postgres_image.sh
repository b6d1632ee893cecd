#!/bin/sh
# Stands in for the entry point of the official postgres image: a server's first start makes the
# data directory, runs the files of INITDB on a server that only listens on a socket, and only then
# the command runs. Needs PGDATA, POSTGRES_PASSWORD and INITDB.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    (umask 077 && printf '%s\n' "$POSTGRES_PASSWORD" >"$PGDATA.password")
    initdb --pgdata="$PGDATA" --username=postgres --pwfile="$PGDATA.password" --auth=trust --no-sync
    rm "$PGDATA.password"
    socket=$(mktemp -d)
    export PGPASSWORD="$POSTGRES_PASSWORD"
    # Without its first word, which is the program.
    options=$(shift && echo "$*")
    pg_ctl --pgdata="$PGDATA" --wait --options="$options -c listen_addresses= -k $socket" start
    for file in "$INITDB"/*.sql; do
        PGHOST=$socket psql -v ON_ERROR_STOP=1 --username=postgres --dbname=postgres \
            --no-password --no-psqlrc --file="$file"
    done
    pg_ctl --pgdata="$PGDATA" --wait --mode=fast stop
    rm -r "$socket"
    unset PGPASSWORD
fi

exec "$@"
