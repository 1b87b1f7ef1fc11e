#!/usr/bin/env bash
# Runs the interoperability tests against pgqrs' own Python client: `npm run test:interop`.
# Makes a virtual environment with pgqrs 0.15.3 in a cache directory, once (PGQRS_VENV chooses another place), then runs
# vitest on test/interop. Needs Python >= 3.11 and the package from PyPI (or whatever index pip is configured for);
# without them the tests skip and say why. DATABASE_URL names a server; without it the embedded one is started.
# Arguments go to vitest.
set -u
cd "$(dirname "$0")/../.."
export PGQRS_VENV="${PGQRS_VENV:-$PWD/node_modules/.cache/pgqrs-venv}"
python="$PGQRS_VENV/bin/python"

ready() { [ -x "$python" ] && "$python" -c 'from importlib.metadata import version; import pgqrs; assert version("pgqrs") == "0.15.3"' 2>/dev/null; }

prepare() {
  local base
  for base in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$base" >/dev/null && "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && break
    base=
  done
  if [ -z "$base" ]; then echo 'no Python >= 3.11'; return 1; fi
  "$base" -m venv "$PGQRS_VENV" >/dev/null 2>&1 || { echo "$base -m venv failed"; return 1; }
  "$python" -m pip install --quiet --disable-pip-version-check pgqrs==0.15.3 >/dev/null 2>&1 || { echo 'pip could not install pgqrs 0.15.3'; return 1; }
}

if ! ready; then
  if ! reason=$(prepare) || ! ready; then
    export PGQRS_SKIP="${reason:-pgqrs 0.15.3 cannot be imported}"
  fi
fi
exec npx vitest run --config test/vitest.config.ts test/interop "$@"
