"""Carries out the rungs of a plan so that any instant is a good one to be killed at, and takes them back days later.

Theory. A change is one rung: its steps are made together, verified together (by the pass, which looks again), undone
together. Its record is /var/lib/ec2ssh-agent/changes/ID/record.json, replaced atomically and fsynced with its
directory. The order of writes, for each step in turn:

    1. save    what the step replaces goes into the record                       (phase "saved")
    2. audit   a line in the journal says what is about to be done
    3. make    the step
    4. seal    what the step left goes into the record                           (phase "made")

and for the change: open -> applied (all made) -> verified, or undone, or failed (a step could not be made; those before
it were taken back). /var/lib/ec2ssh-agent/open/ID exists from before the first write of a record until after its last,
so that finding unfinished changes is the listing of a directory that is nearly always empty.

What a crash leaves. Between 1 and 4 nobody knows whether the step was made, or half of it: `recover` takes back every
step that was saved, in reverse order, and so each inverse is idempotent and expects to find nothing done. Our rules are
found by their comment, sets by their name, both made from the change's id; files by their bytes. Where a crash left no
account of what we wrote (phase "saved"), a file counts as ours only if it holds the bytes that we were to write or,
when a tool wrote it, was last written while the step could still have been running. What somebody else wrote is left
and noted. An open or applied change found at start was never verified and is rolled back; the pass then begins afresh.

When the record cannot be written nothing is changed: no inverse, no repair.

Limits. What the inverse restores is the content: ruleset listings without packet counters and rule handles, files with
owner, mode, ACL and label but not their times. iptables-legacy tables cannot be unloaded again: an empty one stays
where there was none. Starting a service has no inverse worth making (it would shut SSH); `undo` leaves it running and
says so. A tool that an agent started goes on when the agent is killed: ufw, firewalld and xtables hold locks of their
own.
"""
