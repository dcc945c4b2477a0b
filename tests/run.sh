#!/usr/bin/env bash
# Installs what the tests need, runs them, prints one summary.
#
#   tests/run.sh                 everything that is bounded to CI's time
#   tests/run.sh unit lint       only these kinds: lint unit property kernel instance
#   tests/run.sh full            everything, and the tests marked slow
#   tests/run.sh ubuntu          the package on Ubuntu 24.04, where Ubuntu's archive is reached
#   tests/run.sh setup           only installs
#
# EC2SSH_SEED=N repeats the random tests of a run that printed N; without it each run has seeds of its own.
#
# The kinds run one after the other, each in a pytest of its own. Exit status: 0 only if all passed.
set -eu
cd "$(dirname "$0")/.."

all="lint unit property kernel instance"
export PYTHONPATH="$PWD/agent" PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
cache=/var/cache/ec2ssh-agent

packages="python3-venv python3-psutil python3-systemd python3-requests python3-jeepney python3-iptables
    iproute2 iptables nftables ipset openssh-client procps strace libwrap0 tcpd"
instance_packages="systemd-container mmdebstrap dpkg-dev fakeroot rpm gcc libc6-dev"
lint_packages="shellcheck lintian man-db groff-base zsh packer python3-yaml rpmlint"

install_packages() {
    missing=""
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "run.sh: installing$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 -qq update
    # shellcheck disable=SC2086 # a list of words
    apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -qq -y install --no-install-recommends $missing >/dev/null
}

make_venv() {
    digest=$({ /usr/bin/python3 --version; cat tests/requirements.txt; } | sha256sum | cut -c1-12)
    venv="$cache/venv-$digest"
    if [ ! -e "$venv/complete" ]; then
        mkdir -p "$cache"
        (
            # One at a time: several checkouts may want it at once.
            flock 9
            [ ! -e "$venv/complete" ] || exit 0
            rm -rf "$venv"
            /usr/bin/python3 -m venv --system-site-packages "$venv"
            "$venv/bin/pip" -q --disable-pip-version-check install -r tests/requirements.txt 2>&1 | grep -v '^WARNING: Location' >&2 || true
            "$venv/bin/python" -c 'import pytest, hypothesis, mypy, jsonschema'
            touch "$venv/complete"
        ) 9>"$cache/lock"
    fi
    python="$venv/bin/python"
    PATH="$venv/bin:$PATH"
}

summary="" failed=0

# One kind: a pytest of its own; its closing counts go to the summary.
run_kind() {
    kind=$1
    shift
    [ -d "tests/$kind" ] || return 0
    echo "== $kind"
    started=$(date +%s)
    report=$(mktemp)
    status=0
    # Hypothesis goes by the same seed as the other random tests; without one each run is a new one.
    [ -z "${EC2SSH_SEED:-}" ] || set -- "$@" "--hypothesis-seed=$EC2SSH_SEED"
    # Instances mostly wait: two at a time, the tests of a file one after the other.
    [ "$kind" != instance ] || set -- "$@" -n 2 --dist loadfile
    "$python" -m pytest -q "tests/$kind" --junitxml="$report" --durations=5 "$@" </dev/null || status=$?
    seconds=$(($(date +%s) - started))
    counts=$("$python" - "$report" <<'PY'
import sys
import xml.etree.ElementTree as tree

try:
    suites = list(tree.parse(sys.argv[1]).iter("testsuite"))
except (OSError, tree.ParseError):
    suites = []
total, bad = (sum(int(s.get(k, 0)) for s in suites for k in keys) for keys in (("tests",), ("failures", "errors")))
print(f"{total - bad} passed, {bad} failed")
PY
    )
    rm -f "$report"
    # 5: no test was collected: a directory whose tests are all slow, or that has none yet.
    [ "$status" -eq 0 ] || [ "$status" -eq 5 ] || failed=1
    summary="$summary$(printf '%-9s %s, %d s%s' "$kind" "$counts" "$seconds" "$([ "$status" -eq 0 ] || echo " (pytest exited $status)")")
"
}

kinds="" marker="not slow and not ubuntu"
for word in "${@:-all}"; do
    case $word in
        all) kinds=$all ;;
        full) kinds=$all marker="not ubuntu" ;;
        ubuntu) kinds=instance marker=ubuntu ;;
        setup) kinds=setup ;;
        lint | unit | property | kernel | instance) kinds="$kinds $word" ;;
        *)
            echo "usage: tests/run.sh [all|full|ubuntu|setup|lint|unit|property|kernel|instance]..." >&2
            exit 64
            ;;
    esac
done
# shellcheck disable=SC2086 # lists of words
install_packages $packages $instance_packages $lint_packages
make_venv
[ "$kinds" != setup ] || exit 0
for kind in $kinds; do
    run_kind "$kind" -m "$marker"
done
printf '\n%s' "$summary"
exit "$failed"
