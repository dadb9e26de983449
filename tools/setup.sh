#!/bin/sh
# Make .venv hold one lock and this project. Safe to run again; does nothing when all is there.
# Usage: tools/setup.sh requirements/NAME.lock [debian-package ...]
set -eu
cd "$(dirname "$0")/.."
lock=$1
shift
venv=.venv
stamp=$venv/.installed-$(basename "$lock")
wanted=$(cat "$lock" pyproject.toml tools/setup.sh | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exec $venv/bin/python tools/warm_kernels.py
fi

python=
for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: Python 3.11 or later is needed, and none was found (set PYTHON=/path/to/python3)" >&2
    exit 1
fi

missing=
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ -n "$(find /lib /usr/lib /usr/local/lib -name 'libgomp.so.1' -print -quit 2>/dev/null)" ] ||
    missing="$missing libgomp1"
for package in "$@"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then
        echo "setup: installing Debian packages:$missing"
        apt-get update -qq
        # shellcheck disable=SC2086 -- a list of names
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    else
        echo "setup: Debian packages are missing; run: sudo apt-get install$missing" >&2
        exit 1
    fi
fi

[ -x $venv/bin/python ] || "$python" -m venv $venv
[ -x $venv/bin/pip ] || $venv/bin/python -m ensurepip -q
echo "setup: installing $(grep -c '==' "$lock") pinned packages from $lock"
$venv/bin/pip install -q --require-hashes --disable-pip-version-check -r requirements/bootstrap.lock
# A source archive (PySpark) is built with what is installed, not with what it asks for.
$venv/bin/uv pip install -q --no-build-isolation --require-hashes -r "$lock" --python $venv/bin/python
$venv/bin/uv pip install -q --no-deps --no-build-isolation -e . --python $venv/bin/python
echo "$wanted" >"$stamp"
$venv/bin/python tools/warm_kernels.py
