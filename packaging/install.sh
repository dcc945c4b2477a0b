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
        -h | --help)
            sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        *) die 64 "unknown argument: $1; $usage" ;;
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

# The path of the package that build-deb or build-rpm makes. What they say matters where they fail: a full disk, say.
build() {
    "$here/$1" "$work" 2>/dev/null || "$here/$1" "$work" || die 70 "the package could not be built"
}

install_deb() {
    export DEBIAN_FRONTEND=noninteractive
    package=$(build build-deb)
    # What an interrupted installation left half done; where dpkg is at work just now, apt waits for it.
    [ -z "$(ls /var/lib/dpkg/updates)" ] || dpkg --force-confold --configure -a >&2 || true
    set -- -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold
    set -- "$@" --allow-downgrades --reinstall install "$package"
    if [ "$from" ]; then
        # No sources: nothing is fetched.
        set -- -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/dev/null --no-install-recommends "$@"
        for given in "$from"/*.deb; do
            # None, or this package itself, which a DIR from build-repository holds.
            case $given in */\*.deb | */ec2ssh-agent_*.deb) ;; *) set -- "$@" "$given" ;; esac
        done
    # First with the package lists that are there; they are fetched only where they do not do.
    elif apt-get -qq "$@" >&2 2>"$work/errors"; then
        return
    else
        say "fetching package lists"
        apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
    fi
    apt-get -qq "$@" >&2 || {
        # Quiet, it does not say which dependency is lacking.
        apt-get -q -s "$@" >&2 || true
        die 69 "apt-get could not install the package"
    }
}

install_rpm() {
    tool=$1
    command -v rpmbuild >/dev/null || "$tool" -y install rpm-build >&2
    package=$(build build-rpm)
    set -- "$package"
    for given in ${from:+"$from"/*.rpm}; do
        case $given in */\*.rpm | */ec2ssh-agent-*.rpm) ;; *) set -- "$@" "$given" ;; esac
    done
    case $tool in
        zypper) zypper --non-interactive --no-gpg-checks install --allow-unsigned-rpm "$@" >&2 ;;
        *) "$tool" -y install "$@" >&2 ;;
    esac
}

# No package manager that is known: a virtual environment for what the system's Python lacks, and the same files.
install_tree() {
    venv=/opt/ec2ssh-agent
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || die 69 "Python 3.9 or later is needed"
    [ -w /usr/bin ] || die 73 "/usr cannot be written"
    [ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages --without-pip "$venv"
    missing=""
    for module in psutil requests jeepney; do
        "$venv/bin/python" -c "import $module" 2>/dev/null || missing="$missing $module"
    done
    if [ "$missing" ]; then
        "$venv/bin/python" -m ensurepip >/dev/null 2>&1 || die 69 "without pip, Python lacks:$missing"
        # shellcheck disable=SC2086 # a list of words
        "$venv/bin/python" -m pip -q install ${from:+--no-index --find-links "$from"} $missing >&2 ||
            die 69 "Python lacks:$missing"
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
elif systemctl is-enabled ec2ssh-agent.service 2>/dev/null | grep -qx -e disabled -e masked; then
    say "somebody has switched ec2ssh-agent.service off, which it stays: systemctl enable --now ec2ssh-agent.service"
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
