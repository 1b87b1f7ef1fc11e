#!/usr/bin/env bash
# Runs the tests through a real PgBouncer in transaction mode: `npm run test:pooler`.
# Takes the `pgbouncer` of this machine (PGBOUNCER names another). Where there is none, apt downloads the package and it
# is unpacked into a cache directory, once: not installed, so nothing of the system changes and no service starts.
# Without either the tests skip and say why. DATABASE_URL names a server; without it the embedded one is started.
# Arguments go to vitest.
set -u
cd "$(dirname "$0")/../.."
cache="$PWD/node_modules/.cache/pgbouncer"

runs() { [ -x "$1" ] && "$1" --version >/dev/null 2>&1; }

# Under deadlines: without a network apt would try for minutes.
apt() {
  DEBIAN_FRONTEND=noninteractive timeout -k 5 120 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=10 \
    -o Acquire::https::Timeout=10 -o DPkg::Lock::Timeout=10 "$@" >/dev/null 2>&1
}

# PgBouncer, and those of its libraries that this machine lacks.
download() {
  apt install -y --no-install-recommends --download-only -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" \
    -o Dir::Cache::archives="$cache/archives" pgbouncer
}

prepare() {
  local package
  for program in apt-get dpkg-deb timeout; do
    command -v "$program" >/dev/null || { echo "no pgbouncer, and no $program to get it"; return 1; }
  done
  rm -rf "$cache"
  mkdir -p "$cache/archives/partial"
  # A fresh machine has no lists of packages yet, an old one may have those of versions that are gone. Root can renew them.
  download || { [ "$(id -u)" = 0 ] && apt update && download; } || { echo 'no pgbouncer, and apt could not download it'; return 1; }
  for package in "$cache"/archives/*.deb; do
    dpkg-deb -x "$package" "$cache/root" || { echo "$package could not be unpacked"; return 1; }
  done
  printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' \
    "$(printf '%s:' "$cache"/root/usr/lib/*/)" "$cache/root/usr/sbin/pgbouncer" >"$cache/pgbouncer"
  chmod +x "$cache/pgbouncer"
}

export PGBOUNCER="${PGBOUNCER:-$(PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v pgbouncer)}"
if ! runs "$PGBOUNCER"; then
  PGBOUNCER="$cache/pgbouncer"
  if ! runs "$PGBOUNCER"; then
    if ! reason=$(prepare) || ! runs "$PGBOUNCER"; then
      export PGBOUNCER_SKIP="${reason:-pgbouncer does not run}"
    fi
  fi
fi
exec npx vitest run --config test/vitest.config.ts test/pooler "$@"
