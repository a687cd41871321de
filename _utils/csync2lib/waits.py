"""
How long csyncsync waits for what, in seconds: for peers, for the master, for hosts that may come back.

They stand in one place so that they can be compared, and so that a testbed can give its hosts shorter ones.
"""

# --- A peer that does not answer ---------------------------------------------------------------------------

#: Without progress until a peer is asked whether it still answers; how long it may take to accept the connection (its
#: kernel does that, so a dead host is known soon), and to greet (a busy host is not a dead one).
ANSWER_AFTER, CONNECT_WITHIN, ANSWER_WITHIN = 1.0, 1.0, 3.0
#: Without a sign of life from a run of csync2 until it is ended, though the peer answers others: it may be going
#: through the whole group.
STALLED_AFTER = 120.0
#: For which a transfer may stand still while the peer answers others: it reads a file, or waits for its database
#: (custody.LOCK_TIMEOUT). Doubled after each try.
TRANSFER_STALLED_AFTER = 20.0
#: Until a peer that failed is tried again: doubles from the first to the second.
PEER_RETRY = (5.0, 20.0)
#: Until a file is tried again where the peer has a directory, or at which its csync2 gave up twice: all other files
#: would have to wait for one that does not fit on its disk. What it cannot write doubles from the first to the second.
BLOCKED_FOR = (30.0, 120.0)

# --- A master that does not answer -------------------------------------------------------------------------

#: Age of the oldest journal entry after which a host pushes without the master: at first, and at most, when the master
#: has answered too late several times. It pushes at once as long as the master stays silent after that.
ALONE_AFTER = (2.0, 20.0)
#: The same of the file ``left``, and of what the master has said that it is queued; between two pushes of the same
#: without a master.
LEFT_ALONE_AFTER, ALONE_INTERVAL = 90.0, (15.0, 30.0)
#: Most between two events that say the same.
RETRY_CAP = 30.0

# --- The watcher -------------------------------------------------------------------------------------------

#: Between checks of the whole group because a file with several names was changed through one of them.
LINKED_INTERVAL = 30.0
#: Between attempts to watch what could not be watched.
REWALK = 30.0
#: Without a change until a temporary file of csync2's may count as left behind: if no csync2 has it open by then.
LEFT_AFTER = 2.0

#: Until what has changed is in the journal: the beacon's ``max_delay``, and what a busy host needs.
TOLD_WITHIN = 3.0

# --- On the master -----------------------------------------------------------------------------------------

#: After which the holder of a lease is asked whether it still pushes, and how long that may take.
LEASE_CHECK, LEASE_ANSWER = 8, 5
#: Between two messages to the hosts that wait: a host that is patient hears it before it pushes by itself.
WAITING_TOLD = 4
#: Until a join that waits for its turn goes on all the same.
JOIN_WAIT = 60
#: For which a host that joins waits for hosts that may have what nobody else has, or have deleted what it has.
RETURN_PATIENCE = 120
#: To wait for a push that is under way before keys change, and until all hosts that answer have the new ones.
LEASE_WAIT, ROTATE_WAIT = 20, 90
#: Until hosts that did not answer when keys changed are called again; while nobody pushes, nobody calls them.
BEHIND_AGAIN = 30
#: Of silence after which a minion is asked whether its job still runs, and to wait for the answer; while the job runs,
#: the master goes on waiting. The same for the status: that is quick, and somebody is waiting for it.
ANSWER, STATUS_ANSWER = 10, 5
#: After which a host that says so is no longer believed, unless its job is one that may take hours.
QUICK = 60
#: Until paths that differ are looked at again.
VERIFY_AGAIN = 10
#: Until what hosts have recorded differently is looked at again; and from a check of a whole group until its hosts are
#: compared: what that check has found is sent by then.
AGREE_AGAIN, AGREE_AFTER = 3.0, 60.0
#: Until a version that wins a conflict is on all hosts.
RESOLVE_WAIT = 120

# --- What takes too long -----------------------------------------------------------------------------------

#: Until a job that reads pillar and mine gives up waiting for another one: that takes a second or two as a rule.
REFRESH_WAIT = 360.0
#: That a command of an action may take.
ACTION_LIMIT = 300.0
#: After which the status asks somebody to see to it: an action that runs or waits, a host that cannot be reached, a
#: change that waits for no known reason (a push of many files may take as long).
ACTION_SHOWN, UNREACHABLE, LATE = 60.0, 60, 600
