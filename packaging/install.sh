#!/bin/sh
# Installs ec2ssh-agent from this tree: builds the distribution's package, installs it with its dependencies, starts it.
#
#   packaging/install.sh [--from DIR] [--image]
#
# Asks nothing, may be run again, needs only the base system. Where systemd is not pid 1 it says so, installs all the
# same and shows `ec2ssh-agent check`.
#   --from DIR   offline: take the packages of the dependencies from DIR (.deb or .rpm files)
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
        apt-get "$@" --no-download --allow-downgrades --reinstall install "$from"/*.deb "$package" >&2
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

if command -v apt-get >/dev/null; then
    install_deb
elif [ -x "$here/build-rpm" ] && command -v dnf >/dev/null; then
    install_rpm dnf
elif [ -x "$here/build-rpm" ] && command -v yum >/dev/null; then
    install_rpm yum
elif [ -x "$here/build-rpm" ] && command -v zypper >/dev/null; then
    install_rpm zypper
else
    die 69 "no apt, dnf, yum or zypper here"
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
