#!/bin/sh
# All that is to be measured on a quiet machine, in an hour at most: tests/bench/quiet.sh [DIRECTORY for the output]
# Two benches run at once, but only one of them does anything: the other watches an instance that is idle.
set -eu
out=${1:-/var/tmp/ec2ssh-bench}
cd "$(dirname "$0")"
python=$(find /var/cache/ec2ssh-agent -maxdepth 1 -name 'venv-*' -printf '%T@ %p\n' | sort -rn | sed -n '1s/^[^ ]* //p')/bin/python
mkdir -p "$out"

bench() {
    name=$1
    shift
    "$python" "$@" > "$out/$name" 2> "$out/$name.err" || echo "failed: $*; see $out/$name.err" >> "$out/$name"
}

bench idle bench_instance.py idle &
bench reaction bench_reaction.py --runs 20 --minutes 38
bench settle bench_reaction.py --runs 8 --minutes 1.5 --settle 300ms iptables-nft-drop hosts-deny-all
bench killed bench_reaction.py --runs 50 --minutes 6 killed killed-alone
bench monit bench_reaction.py --runs 5 --minutes 2 --with monit stopped killed hung
bench monit-all bench_reaction.py --runs 1 --minutes 5 --with monit
bench flood bench_instance.py flood
bench rules bench_instance.py rules
bench look bench_idle.py look
bench check bench_check.py
wait
for name in reaction settle killed monit monit-all flood rules look check idle; do
    echo "== $name"
    cat "$out/$name"
done
