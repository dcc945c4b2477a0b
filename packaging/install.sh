#!/bin/sh
# Installs ec2ssh-agent from this tree: builds the distribution's package, installs it with its dependencies, starts it.
# Where there is neither apt nor dnf, yum or zypper, it goes into a virtual environment, /opt/ec2ssh-agent.
#
#   packaging/install.sh [--from DIR] [--image]
#
# Asks nothing, may be run again, needs only the base system. Where systemd is not pid 1 it says so, installs all the
# same and shows `ec2ssh-agent check`.
#   --from DIR   offline: take the packages of the dependencies from DIR (.deb, .rpm or, without either, Python's)
#   --image      an image is being built: enable the agent, do not start it
set -eu

here=$(cd "$(dirname "$0")" && pwd)
say() { echo "install.sh: $*" >&2; }
die() {
    say "$2"
    exit "$1"
}

usage="usage: packaging/install.sh [--from DIR] [--image]"
from="" image=""
while [ $# -gt 0 ]; do
    case $1 in
        --from)
            [ -d "${2:-}" ] || die 64 "--from needs a directory; $usage"
            from=$(cd "$2" && pwd)
            shift
            ;;
        --image) image=yes ;;
        *) die 64 "$usage" ;;
    esac
    shift
done
[ "$(id -u)" -eq 0 ] || die 77 "run it as root (sudo packaging/install.sh)"
[ -z "$image" ] || export EC2SSH_AGENT_START=no

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# apt reads local packages as the user _apt.
chmod 0755 "$work"

install_deb() {
    export DEBIAN_FRONTEND=noninteractive
    package=$("$here/build-deb" "$work" 2>/dev/null)
    set -- -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold
    if [ "$from" ]; then
        apt-get "$@" --allow-downgrades --reinstall install "$from"/*.deb "$package" >&2
        return
    fi
    # First with the package lists that are there; they are fetched only where they do not do.
    apt-get "$@" --allow-downgrades --reinstall install "$package" >&2 2>"$work/errors" || {
        say "fetching package lists"
        apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
        apt-get "$@" --allow-downgrades --reinstall install "$package" >&2
    }
}

install_rpm() {
    command -v rpmbuild >/dev/null || "$1" -y install rpm-build >&2
    package=$("$here/build-rpm" "$work" 2>/dev/null)
    # shellcheck disable=SC2086 # the files of --from, or nothing
    case $1 in
        zypper) zypper --non-interactive --no-gpg-checks install --allow-unsigned-rpm ${from:+"$from"/*.rpm} "$package" >&2 ;;
        *) "$1" -y install ${from:+"$from"/*.rpm} "$package" >&2 ;;
    esac
}

# No package manager that is known: a virtual environment for what the system's Python lacks, and the same files.
install_tree() {
    venv=/opt/ec2ssh-agent
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || die 69 "Python 3.9 or later is needed"
    [ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages --without-pip "$venv"
    missing=""
    for module in psutil requests jeepney; do
        "$venv/bin/python" -c "import $module" 2>/dev/null || missing="$missing $module"
    done
    if [ "$missing" ]; then
        "$venv/bin/python" -m ensurepip >/dev/null
        # shellcheck disable=SC2086 # a list of words
        "$venv/bin/python" -m pip -q install ${from:+--no-index --find-links "$from"} $missing >&2
    fi
    modules=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$here/stage" "$work/root" etc/systemd/system "${modules#/}"
    sed -i "1s,.*,#!$venv/bin/python -I," "$work/root/usr/bin/ec2ssh-agent"
    sed -i "s,^ExecStart=/usr/bin/python3 ,ExecStart=$venv/bin/python ," "$work"/root/etc/systemd/system/*.service
    [ ! -e /etc/ec2ssh-agent/agent.conf ] || rm "$work/root/etc/ec2ssh-agent/agent.conf"
    cp -R "$work/root/." /
    "$venv/bin/python" -m compileall -q "$modules/ec2ssh_agent"
    getent passwd ec2ssh-agent >/dev/null ||
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ec2ssh-agent
    install -d -m 0755 /var/lib/ec2ssh-agent
    install -d -m 0750 -g ec2ssh-agent /var/lib/ec2ssh-agent/spool
    install -d -m 0700 -o ec2ssh-agent -g ec2ssh-agent /var/lib/ec2ssh-agent-report
    command -v systemctl >/dev/null || return 0
    units="ec2ssh-agent.service ec2ssh-agent-report.path ec2ssh-agent-report.timer"
    # shellcheck disable=SC2086 # a list of words
    systemctl -q enable $units
    if [ -d /run/systemd/system ] && [ -z "$image" ]; then
        systemctl daemon-reload
        # shellcheck disable=SC2086 # a list of words
        systemctl restart $units
    fi
}

if command -v apt-get >/dev/null; then
    install_deb
elif command -v dnf >/dev/null; then
    install_rpm dnf
elif command -v yum >/dev/null; then
    install_rpm yum
elif command -v zypper >/dev/null; then
    install_rpm zypper
else
    say "no apt, dnf, yum or zypper here: into /opt/ec2ssh-agent"
    install_tree
fi
say "installed $(ec2ssh-agent --version)"

if [ "$image" ]; then
    say "enabled, not started: it starts with the instances of this image"
    exit 0
fi
if [ ! -d /run/systemd/system ]; then
    say "systemd is not pid 1 here: nothing runs the daemon. A look by hand, ec2ssh-agent check:"
    ec2ssh-agent check || status=$?
elif ! systemctl is-active -q ec2ssh-agent.service; then
    systemctl --no-pager --lines=20 status ec2ssh-agent.service >&2 || true
    die 70 "ec2ssh-agent.service does not run"
else
    # The daemon's first look; `check` looks for itself, so there is nothing to wait for.
    say "the daemon runs. The first check, ec2ssh-agent check:"
    ec2ssh-agent check || status=$?
fi
case ${status:-0} in
    0 | 1 | 2 | 3) exit 0 ;; # the state of SSH (ec2ssh-agent(8), "exit status"), not of the installation
    *) die 70 "ec2ssh-agent check exited ${status}" ;;
esac
