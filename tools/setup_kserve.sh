#!/bin/sh
# Make .cache/kserve hold the public client of KServe, for the test that it works unchanged.
# Safe to run again; does nothing when all is there. Needs .venv (tools/setup.sh).
set -eu
cd "$(dirname "$0")/.."
lock=requirements/kserve.lock
venv=.cache/kserve
wanted=$(cat "$lock" tools/setup_kserve.sh | sha256sum)
[ -f "$venv/.installed" ] && [ "$(cat "$venv/.installed")" = "$wanted" ] && exit 0
echo "setup: installing $(grep -c '==' "$lock") pinned packages from $lock"
mkdir -p .cache
.venv/bin/uv venv -q --clear --python .venv/bin/python "$venv"
.venv/bin/uv pip install -q --require-hashes -r "$lock" --python "$venv/bin/python"
echo "$wanted" >"$venv/.installed"
