#!/bin/sh
# Run a streaming replica: clone the primary into PGDATA if nothing is there, then run the command.
#
#   PGDATA=/var/lib/postgresql/data PRIMARY_HOST=primary REPLICATION_PASSWORD=... \
#     replica.sh postgres -c config_file=/etc/metastore/postgresql.conf
#
# PRIMARY_PORT is 5432 by default, and REPLICATION_SLOT replica_1: see replication.sql. It waits for a
# primary that is not there yet. The password is kept in PGDATA, as the server needs it again.
set -eu

: "${PGDATA:?set it to the data directory}"
slot=${REPLICATION_SLOT:-replica_1}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${PRIMARY_HOST:?set it to the host of the primary}"
    : "${REPLICATION_PASSWORD:?set it to the password of quickwit_replication}"
    mkdir -p "$PGDATA"
    if ! rmdir "$PGDATA"; then
        echo "replica.sh: PGDATA=$PGDATA is a mount point or not empty: use a directory below it" >&2
        exit 1
    fi
    # Beside the target, so that a clone that was broken off is never taken for a whole one.
    clone=$PGDATA.clone
    while :; do
        rm -rf "$clone"
        PGPASSWORD=$REPLICATION_PASSWORD pg_basebackup --pgdata="$clone" --write-recovery-conf \
            --wal-method=stream --slot="$slot" --checkpoint=fast --no-password \
            --dbname="host=$PRIMARY_HOST port=${PRIMARY_PORT:-5432} user=quickwit_replication application_name=$slot" \
            && break
        echo "replica.sh: cannot clone $PRIMARY_HOST yet; trying again in 2 s (run replication.sql there if the slot is missing or invalidated)" >&2
        sleep 2
    done
    chmod 0700 "$clone"
    mv "$clone" "$PGDATA"
fi

exec "$@"
