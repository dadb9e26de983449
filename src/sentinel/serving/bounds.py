"""Every bound of serving that no other room knows: its name, its unit, its reason.

Relations between bounds are checked when this module is imported.
"""

from __future__ import annotations

from sentinel.core import limits

# One request body: 10,000 payments of 0.8 kB, or 8,000 rows of 256 features in binary form.
REQUEST_BODY_BYTES_MAX = 8 << 20
# Request line and headers together; tokens and trace headers are a few hundred bytes.
REQUEST_HEAD_BYTES_MAX = 16 * 1024
REQUEST_HEADERS_MAX = 64
# Heads of requests that a door remembers by their bytes: a fleet of clients has a few dozen, and
# where every head is another one (trace ids), the memory is emptied and costs a fraction of a
# megabyte.
HTTP_HEADS_KNOWN_MAX = 256
HTTP_HEAD_KNOWN_BYTES_MAX = 1024
# Depth of the JSON of a tensor request: a tensor of two dimensions is five levels down.
REQUEST_DEPTH_MAX = 16
# An honest client sends its head at once and its body in a round trip or two.
REQUEST_HEAD_S_MAX, REQUEST_BODY_S_MAX = 10.0, 30.0
# An idle connection is kept as long as common balancers keep theirs.
CONNECTION_IDLE_S_MAX = 75.0
# A client that does not read its answer is let go.
ANSWER_UNREAD_S_MAX = 30.0
# Connections of one process; 20 kB each.
CONNECTIONS_MAX = 20_000
# Rows of one request; the model's own bound on one call holds as well.
REQUEST_ROWS_MAX = 10_000
# Rows that wait: a quarter of a second of work on one core.
QUEUE_ROWS_MAX = 32_768
# Rows scored together: beyond this a row gets no cheaper, and a small request waits longer.
SERVE_BATCH_ROWS_MAX = 512
# A stream of lines: how long one may be, and how many are under way before nothing more is read.
STREAM_LINE_BYTES_MAX = limits.EVENT_BYTES_MAX
STREAM_LINES_AHEAD_MAX = 8_192
# Lines that found no room in the queue are submitted again so often: a few batches later.
STREAM_RETRY_S = 0.05
# Forms of tensor requests that are known by their bytes, and how long one may be.
TENSOR_FORMS_KNOWN_MAX = 256
TENSOR_FORM_BYTES_MAX = 1_024
# What this many waiting rows take is estimated once for so long: few of them need no estimate each.
SURE_ROWS_MAX = 64
SURE_S = 0.001
# Calls of gRPC wait for each other so long, while the process uses so much of a core, where that
# was worth it; it is tried again after so many calls, later each time that nobody came. After so
# many full rounds in a row more are waited for.
GATHER_S = 0.002
GATHER_BUSY_SHARE = 0.9
GATHER_SHARE_S = 0.05
GATHER_LEFT_S_MIN = 0.02
GATHER_TRY_EVERY = 61
GATHER_TRY_EVERY_MAX = 4_096
GATHER_FULL_MIN = 16
GATHER_CALLS_MAX = 64
# A batch that is known to be quicker than this is scored by the door itself: as long as reading
# a few dozen requests takes.
INLINE_S_MAX = 0.004
# So many rows wait before a request is refused without being read, and so many a batch has whose
# cost of a row, all in all, is taken for true.
GATE_ROWS_MIN = 32
# Share of a caller's time that he may be thought to wait: an estimate is wrong at times, and the
# way of the answer takes some of it.
ADMITTED_SHARE = 0.75
# A loop that has read nothing for so long was not busy: what comes now came now.
LOOP_IDLE_S_MIN = 0.001
# Refusals a second that a door reads without pause: a tenth of a core. Beyond, it stops reading
# from a connection that was refused, until its turn comes, but no longer than this.
REFUSALS_PER_S_MAX = 5_000
REFUSED_UNREAD_S_MAX = 0.2
# How often deadlines of waiting requests are looked at.
DEADLINE_SWEEP_S = 0.02
# After so many turns of the loop with one request each, the next is scored as it comes, without
# the turn that others could join; one that follows another so soon was there at the same time.
LONE_TURNS_MIN = 4
COMPANY_S = 0.00004
# Tenants whose fairness is kept apart; the rest share one place.
TENANTS_MAX = 1_024
# How long a measured service time counts: a champion that was slow must be tried again.
SERVICE_TIME_S_MAX = 5.0
# Rows that wait to be explained: a second of the explainer's work; more are skipped and counted.
EXPLANATION_QUEUE_ROWS_MAX = 4_096
# Rows explained together, and how long the first waits for company: few wake-ups of the server,
# each so short that no decision waits for it.
EXPLANATION_BATCH_ROWS_MAX = 64
# Rows of one request to explain: a tenth of a second of the explainer.
EXPLAIN_REQUEST_ROWS_MAX = 256
EXPLANATION_LINGER_S = 0.02
# Explanations kept for questions: 4 kB each.
EXPLANATIONS_REMEMBERED_MAX = 10_000
# How long the explainer may take for a batch, and for its start with the first one.
EXPLAINER_ANSWER_S_MAX = 10.0
EXPLAINER_START_S_MAX = 120.0
# How long the end of the server waits for what the explainer is doing.
EXPLAINER_END_S_MAX = 2.0
# Pause after a failure of the explainer, doubled to the second bound.
EXPLAINER_PAUSE_S, EXPLAINER_PAUSE_S_MAX = 0.5, 30.0
# Tries of one batch: the second one after a fresh start; a row that kills twice has none.
EXPLAINER_TRIES_MAX = 2
# One message between server and explainer: a batch of rows of 256 features is 0.5 MB.
EXPLAINER_MESSAGE_BYTES_MAX = 64 << 20
# Releases that an explainer holds open: the one in service, the one before, one that is staged.
EXPLAINER_RELEASES_MAX = 3
# One file of kept explanations.
EXPLANATION_SEGMENT_BYTES_MAX = 64 << 20
# A file that somebody else may have damaged: one explanation is 4 kB at 30 features.
EXPLANATION_LINE_BYTES_MAX = 1 << 20
# How often the canary goes through the door, and how long it may take.
DOOR_CANARY_S = 5.0
DOOR_CANARY_WAIT_S = 2.0
# How often files that may change (certificates, tokens) are looked at.
RENEWAL_S = 5.0
# After a switch of releases: how long a wrong canary undoes it, and how often it is asked then.
SWAP_WATCH_S = 600.0
SWAP_CHECK_S = 1.0
# How long a switch waits for the end of the batch in the model.
SWAP_S_MAX = 5.0
# How long the canary of a staged release may take through the queue.
SWAP_CANARY_S_MAX = 10.0
# Rows of a challenger that wait: ten seconds at 3,000 a second, 4 MB at 32 features. Taken so often
# and scored so many at a time, so that the doors keep the interpreter.
SHADOW_ROWS_MAX = 32_768
SHADOW_EVERY_S = 0.1
SHADOW_SLICE_ROWS = 1_024
# What operators did, as far as a server remembers it by itself; all of it is in the log.
OPERATIONS_KEPT = 100
# A request of an operator: a name and a reason.
OPERATOR_BODY_BYTES_MAX = 4096
OPERATOR_TEXT_CHARACTERS_MAX = 200
# How long a thread of the server may keep the interpreter when another waits. The door gives it up
# a dozen times a batch; with Python's own 5 ms a scrape of metrics cost it 5 ms as often.
INTERPRETER_SWITCH_S = 0.0005
# Objects that are new, and still there, before the collector looks for circles among them.
COLLECTOR_OBJECTS_MIN = 50_000
# A profile of a running server: how long it may take, and requests that it remembers (25 MB).
PROFILE_S_MAX = 60.0
PROFILE_REQUESTS_MAX = 100_000
# After DRAIN_NOTICE_S: requests in flight may end.
DRAIN_S_MAX = 30.0

# --- front workers ----------------------------------------------------------------------------
# One frame between a front and the scoring process: 10,000 decisions are 4 MB, a request of
# features in the shortest JSON is 16 MB as float32.
FRONT_FRAME_BYTES_MAX = 64 << 20
# On the way between them: requests, their bytes, and answers that a front does not read.
FRONT_WORKS_MAX = 32_768
FRONT_BYTES_MAX = 64 << 20
FRONT_UNREAD_BYTES_MAX = 128 << 20
# How often the scoring process looks whether its state is news for the fronts, and how long a front
# believes what it last heard: it is said anew every HEARTBEAT_S.
FRONT_STATE_S = 0.2
FRONT_SILENCE_S = 3.0
# A process that has not beaten for so long is frozen: four beats are missing.
BEAT_AGE_S_MAX = 4.0
BEAT_LOOK_S = 0.25
# A batch that is in the model for so long will not come back.
BATCH_HANGS_S = 10.0
# Until a process has opened its release or its doors; then it is taken for one that hangs.
PART_START_S_MAX = 300.0
# Between the end of a process and its next start: 1, 2, 4 … s; one that has worked for so long
# begins again at the first.
PART_RESTART_S = 1.0
PART_RESTART_S_MAX = 60.0
PART_STEADY_S = 60.0
# After a second signal, and after the time for draining: until a process is killed.
PART_END_S_MAX = 10.0
# One line between a process and the one that watches it.
PART_LINE_BYTES_MAX = 1 << 20

_RELATIONS = {
    "a request of one event fits": limits.EVENT_BYTES_MAX < REQUEST_BODY_BYTES_MAX,
    "a request fits the queue": 2 * REQUEST_ROWS_MAX <= QUEUE_ROWS_MAX,
    "a canary fits between two": DOOR_CANARY_WAIT_S < DOOR_CANARY_S,
}
for _relation, _holds in _RELATIONS.items():
    if not _holds:
        raise AssertionError(f"serving/bounds.py: {_relation}")
