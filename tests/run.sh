#!/usr/bin/env bash
# Installs what the tests need, runs them, prints one summary.
set -eu
cd "$(dirname "$0")/.."
venv=/var/cache/ec2ssh-agent/venv-first
if [ ! -x "$venv/bin/pytest" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3-venv
    /usr/bin/python3 -m venv --system-site-packages "$venv"
    "$venv/bin/pip" install -q pytest hypothesis
fi
PYTHONPATH=agent "$venv/bin/python" -m pytest -q tests/unit tests/property
