#!/bin/sh
# Starts PostgreSQL the way the official image does: creates the cluster on the first start, honours
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and POSTGRES_HOST_AUTH_METHOD, and takes further arguments
# of `postgres`. The server starts once only, so the line "database system is ready to accept connections"
# appears when it is true, and not before.
set -eu

case "${1:--}" in
    -*) set -- postgres "$@" ;;
esac
if [ "$1" != postgres ]; then
    exec "$@"
fi

if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    install -d -o postgres -g postgres -m 2775 /run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

user="${POSTGRES_USER:-postgres}"
database="${POSTGRES_DB:-$user}"
method="${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ "$method" != trust ] && [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "POSTGRES_PASSWORD must be set (or POSTGRES_HOST_AUTH_METHOD=trust)" >&2
        exit 1
    fi
    # The cluster is thrown away with its container, so its creation alone need not be synced.
    if [ -n "${POSTGRES_PASSWORD:-}" ]; then
        password_file="$(mktemp)"
        printf '%s\n' "$POSTGRES_PASSWORD" > "$password_file"
        initdb --no-sync --encoding=UTF8 --locale=C.UTF-8 --username="$user" --auth-local=trust \
            --auth-host="$method" --pwfile="$password_file" > /dev/null
        rm "$password_file"
    else
        initdb --no-sync --encoding=UTF8 --locale=C.UTF-8 --username="$user" --auth-local=trust \
            --auth-host="$method" > /dev/null
    fi
    echo "host all all all $method" >> "$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    if [ "$database" != postgres ]; then
        escaped="$(printf '%s' "$database" | sed 's/"/""/g')"
        printf 'CREATE DATABASE "%s"\n' "$escaped" \
            | postgres --single -D "$PGDATA" postgres > /dev/null
    fi
fi

exec "$@"
