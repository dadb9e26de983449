"""Every bound in the house: its name, its unit, its reason.

Those that serving alone knows are in ``serving/bounds.py``. Relations between bounds are checked
when this module is imported.
"""

from __future__ import annotations

# --- core -------------------------------------------------------------------------------------
# One terminal line of foreign text in an error is enough to recognise it.
ERROR_VALUE_CHARACTERS_MAX = 80
# Paths are longer than values, and useless when cut in the middle.
ERROR_PLACE_CHARACTERS_MAX = 300
# A configuration file is written by hand; more than this is a mistake in the path.
CONFIGURATION_FILE_BYTES_MAX = 1 << 20
# Threads that a process must be able to start, beside its first. Of Sentinel's own a server may
# have 13 at once: log lines, scoring, operations, canary, explanations and their process, decision
# log, a release that is staged, a challenger, a probe of the champion, two of operators, one of the
# model's runtime. A front has itself, its log lines and one to spare. A replay, or a stream of
# files, has decision log, progress, metrics, a probe, one of the model's runtime, one to spare.
# Kafka's clients have one each and one a broker: three clients, four brokers, one to spare.
THREADS_SERVE, THREADS_FRONT, THREADS_FILES, THREADS_KAFKA = 13, 3, 6, 16
# Those of libraries: libuv's pool; of gRPC a timer, a guard, one that polls, and a pool of one a
# core within bounds; NumPy's linear algebra one a core, up to what it is built for.
THREADS_LIBUV = 4
THREADS_GRPC = 3
GRPC_POOL_MIN, GRPC_POOL_MAX = 4, 16
BLAS_THREADS_MAX = 64
# The stack of a thread that is started to see whether it may be.
THREAD_TRIED_BYTES = 256 << 10

# --- contract ---------------------------------------------------------------------------------
# One event: a payment is 0.3 to 2 kB; 64 kB leaves room and bounds the cost of a hostile one.
EVENT_BYTES_MAX = 64 * 1024
# Nesting: contracts are flat; anything deeper is refused anyway, this bounds the look at it.
EVENT_DEPTH_MAX = 32
# Fields of one contract: the seen-fields set is one 64-bit word pair.
CONTRACT_FIELDS_MAX = 128
# Integers that survive the way into a float64.
FLOAT_EXACT_INTEGER_MAX = 1 << 53
# Event time against the receiving clock, both ways (DESIGN, Contract).
EVENT_TIME_SKEW_MS_MAX = 5 * 60 * 1000
# Event times by default lie in this century: 2000-01-01 to 2100-01-01, UTC.
TIME_DEFAULT_MIN_MS, TIME_DEFAULT_MAX_MS = 946_684_800_000, 4_102_444_800_000
# No contract may reach further than year 9999, either way: RFC 3339 ends there.
TIME_MS_MAX = 253_402_300_799_999
# A name is compared in nine 8-byte words, its closing quote included.
FIELD_NAME_BYTES_MAX = 64
CONTRACT_NAME_CHARACTERS_MAX = 64
# A contract of 128 fields with full category lists is under this.
CONTRACT_FILE_BYTES_MAX = 16 << 20
# One text may fill a quarter of an event.
TEXT_BYTES_MAX = EVENT_BYTES_MAX // 4
TEXT_BYTES_DEFAULT = 256
# A UUID is 36 bytes, a SHA-256 in hexadecimal 64.
KEY_BYTES_DEFAULT = 64
CATEGORIES_MAX = 1024
CATEGORY_BYTES_MAX = 128
# Digits after the point: nano-units are finer than any currency.
DECIMAL_SCALE_MAX = 9
# Minor units that survive the way into a float64 feature.
DECIMAL_MINOR_MAX = FLOAT_EXACT_INTEGER_MAX
# Listing all faults of a refused event is Python, 0.1 to 0.5 µs a byte; this much a batch, so that
# garbage at full rate does not stop the good events beside it.
EXPLAINED_BYTES_MAX = 16 * 1024
# A person reads a few faults, not thousands.
FAULTS_PER_EVENT_MAX = 16
# Quarantine: 32 segments of 32 MB are 1 GB at most, and an hour of quiet is one file.
QUARANTINE_SEGMENT_BYTES_MAX = 32 << 20
QUARANTINE_SEGMENT_AGE_MS_MAX = 3_600_000
QUARANTINE_SEGMENTS_MAX = 32
# Of each refusal code a minute; a thousand examples tell what is wrong, a million tell no more.
QUARANTINE_KEPT_PER_MINUTE_MAX = 1000
QUARANTINE_SAMPLE_EVERY = 100

# --- data -------------------------------------------------------------------------------------
# One read of an event file: large enough to hide the call; a block of nothing but line ends takes
# 45 times its size while its lines are found.
EVENT_FILE_BLOCK_BYTES = 1 << 20
# One batch of a file, whatever its number of events.
EVENT_FILE_BATCH_BYTES_MAX = 16 << 20
EVENT_FILE_BATCH_EVENTS_DEFAULT = 4096
EVENT_FILE_BATCH_EVENTS_MAX = 1 << 20
# A longer line is handed on as its head with its whole length: it is too large anyway.
EVENT_FILE_LINE_BYTES_MAX = 1 << 20
# Bytes kept of such a line: enough for the contract to see that it is over the limit.
EVENT_FILE_LINE_HEAD_BYTES = EVENT_BYTES_MAX + 1
# Transactions as gzip shrink 5 to 30 times; beyond this the file is a bomb, not a log.
EVENT_FILE_EXPANSION_MAX = 200
# Below this much output the ratio is not looked at: a small file of one repeated event is fine.
EVENT_FILE_EXPANSION_FREE_BYTES = 256 << 20
# How long a follower sleeps when a file has not grown.
EVENT_FILE_POLL_S = 0.05
# A half-written file that nobody has touched for so long belongs to a writer that was killed.
FOLDER_ORPHAN_AGE_S = 3_600
# The manifest of a folder of events: settings, counts, sizes.
FOLDER_MANIFEST_BYTES_MAX = 1 << 16
# Which scenario each fraud belongs to: 60 bytes a fraud, ten million frauds.
SCENARIOS_FILE_BYTES_MAX = 600 << 20
# A published data set: a year of a large bank; its columns are held in memory, 8 bytes a value.
DATASET_ROWS_MAX = 50_000_000
DATASET_FILES_MAX = 10_000
DATASET_CSV_BYTES_MAX = 8 << 30
# Amounts as binary fractions, in cents: noise of 1e-8 is the format's, more is another number.
DATASET_CENT_NOISE_MAX = 1e-6
# The simulated world is held in memory: 100 bytes a card, 60 a merchant.
SIMULATION_CARDS_MAX = 10_000_000
SIMULATION_MERCHANTS_MAX = 1_000_000
SIMULATION_DAYS_MAX = 3_660
# One hour is held in memory as columns: 100 bytes a transaction, a fifteenth of the day's.
SIMULATION_EVENTS_A_DAY_MAX = 20_000_000
# All frauds are drawn before the first hour: 300 bytes each while they are sorted.
SIMULATION_FRAUDS_MAX = 5_000_000

# --- features ---------------------------------------------------------------------------------
# Tiles a window: look-back is exact to W/N (DESIGN, Features).
WINDOW_TILES_DEFAULT = 12
# One 64-bit word says which tiles are filled; shifts stay clear of its sign.
WINDOW_TILES_MAX = 60
# Ten years: a longer window is a mistake in its unit.
WINDOW_MS_MAX = 3_660 * 86_400_000
# Entity types of one feature set: one hash and one row each an event.
FEATURE_ENTITIES_MAX = 8
# Integers that are summed, and how many a window may hold: sums of squares fit their words.
SUMMED_INTEGER_MAX = (1 << 31) - 1
# Faster than anything: two positions in one millisecond must not be an infinite number.
VELOCITY_KMH_MAX = 100_000.0
# Entities of all types in one process; 10 million rows of 100 words are 8 GB.
ENTITIES_MAX = 10_000_000
# Of them, how many may have been seen in one event only: names that nobody uses twice are cheap
# to make up, and must leave room for those in use.
ENTITIES_ONCE_SHARE = 0.5
# Event ids that are always remembered (at most twice as many): 21 s at 50,000 events/s, 34 MB.
DEDUPE_EVENTS_MIN = 1 << 20
# Feedback that waits for its known-at time: four months of verdicts of the published data.
FEEDBACK_PENDING_MAX = 1 << 20
# Partitioned replay: events and bytes that are shared out at once; three such rounds are held.
REPLAY_ROUND_EVENTS = 131_072
REPLAY_ROUND_BYTES = 64 << 20
# Processes of one replay: the largest machines.
REPLAY_PROCESSES_MAX = 256
# Event ids that a shard remembers: repeated events were left out before.
REPLAY_SHARD_IDS = 1_024
# One message between a replay and its processes: a batch of feedback.
REPLAY_MESSAGE_BYTES_MAX = 1 << 30
# How long a process of a replay may take to end when it is asked to.
REPLAY_STOP_S = 5.0
# Feature names are column names.
FEATURE_NAME_CHARACTERS_MAX = 64
# One record of the write-ahead log is one micro-batch; a larger length is a damaged one.
WAL_RECORD_BYTES_MAX = 64 << 20
# The head of a snapshot is JSON about a few dozen arrays.
SNAPSHOT_HEAD_BYTES_MAX = 4 << 20
# A snapshot every so many events bounds the log that a start replays to a few seconds.
SNAPSHOT_EVENTS = 2_000_000
# Events that crash native code: 100 bytes each; more than a handful is another fault.
PASSED_EVENTS_BYTES_MAX = 1 << 20
# The id of a start of the kernel: a UUID and the end of its line.
BOOT_ID_BYTES_MAX = 64
# Redis: one call of a batch ends by then, plus what each row may take (2.5 us measured).
STORE_DEADLINE_MS = 20.0
STORE_ROW_MS = 0.02
# Tries of one call, its first pause, and retries as a share of all calls, with a small reserve.
STORE_TRIES_MAX = 3
STORE_BACKOFF_MS = 2.0
STORE_RETRY_SHARE = 0.1
STORE_RETRY_BUDGET_MAX = 10
# Pause after a loss, doubled to the second bound: back within a second of Redis.
STORE_PAUSE_MS, STORE_PAUSE_MS_MAX = 50.0, 400.0
# A batch is computed anew when another writer was first; each time some writer got on.
STORE_REDO_MAX = 100
# Commits whose changed rows are listed: a writer further behind forgets its rows.
STORE_CHANGES_KEPT = 128
# Of those, how many are read first: 30 kB each at 1,000 events a batch.
STORE_CHANGES_READ = 8
# Commits whose vectors are kept for a source that reads again: at least, and, as long as its
# outputs are not safe, so many bytes of them.
STORE_ANSWERS_KEPT = 32
STORE_ANSWERS_BYTES_MAX = 64 << 20
# How long Redis knows the last commit of a writer that went away: a day.
STORE_WRITER_MS = 86_400_000
# Rows held in the process: 1 to 2 GB at 150 words.
STORE_ROWS_HELD_MAX = 1_000_000
# Events that wait, unapplied, while Redis is away: seconds at full rate, tens of megabytes.
STORE_BACKLOG_EVENTS_MAX = 100_000
# Shards of a store in a Cluster, a power of two: some for each of many nodes, few calls a batch.
STORE_SHARDS = 64
# A file that holds one address.
STORE_ADDRESS_BYTES_MAX = 4096
# How long a batch of a log waits for Redis once no more fits in front of it; then it is refused.
STORE_WAIT_S_MAX = 30.0
# Where no batch comes, Redis is asked so often whether it is there.
STORE_TEND_S = 0.5
# Opening a store: connecting, and reading 16 MB of ids.
STORE_OPEN_MS = 5_000.0
# Entities of one read: 8 MB of rows.
STORE_KEYS_READ_MAX = 10_000
# Sizes of reads whose arrays are kept: a caller has a few.
STORE_READ_ROOMS_MAX = 16
# Least time that a row outlives its longest window: a source may fall behind by so much.
STORE_GRACE_MS = 7 * 86_400_000
# Snapshots kept: the newest, and one to fall back to when that is damaged.
SNAPSHOTS_KEPT = 2

# How long a thread of no hurry rests after a piece of work, in processor time of that piece, and at
# most: decisions that share its core are made in between.
REST_OF_WORK, REST_S_MAX = 4.0, 0.05

# --- monitoring -------------------------------------------------------------------------------
# Records that wait for the log's writer: four segments, about 15 MB each at 32 features.
LOG_QUEUE_RECORDS_MAX = 4 * 65_536
# Records of one Parquet segment: large enough to compress, small enough to hold in memory twice.
LOG_SEGMENT_RECORDS_MAX = 65_536
# How long a record may wait for its segment: what a killed process may lose, in seconds.
LOG_SEGMENT_S_MAX = 10.0
# How long the policy `block` lets scoring wait for room before it says so.
LOG_WAIT_S_MAX = 30.0
# Pause between two tries to write a segment that did not fit.
LOG_RETRY_S = 0.5
# Spilled bytes kept at most: ten minutes at 10,000 decisions a second.
LOG_SPILL_BYTES_MAX = 1 << 30
# Events of a drift window: below this a histogram of 16 bins says little.
DRIFT_WINDOW_EVENTS_MIN = 1_000
# Seconds of a drift window: bounds how often a day is tested, and so the false alarms.
DRIFT_WINDOW_S_MIN = 600.0
# Days in which at most one false alarm is expected, over all features together.
DRIFT_FALSE_ALARM_DAYS = 30.0
# Jensen-Shannon distance below which a difference is too small to wake anybody.
DRIFT_DISTANCE_MIN = 0.1
# Rows that a reference needs at least.
REFERENCE_ROWS_MIN = 200
# Series of one metric whose label comes from outside; further values are counted as `other`.
METRIC_LABEL_VALUES_MAX = 64
# Series of one process, all metrics together: what a Prometheus server takes without a thought.
METRIC_SERIES_MAX = 2_000
# Parity: segments of the log held in memory, 10 to 20 MB each at 32 features; and replayed vectors
# that wait for their record, 160 bytes each at 32 features: ten seconds at full rate.
PARITY_SEGMENTS_HELD = 4
PARITY_WAITING_MAX = 500_000
# How long events that are followed wait for their decisions: three segments of the log.
PARITY_LAG_S = 30.0
# Characters of one label value.
METRIC_LABEL_CHARACTERS_MAX = 100
# Application log lines that wait for a reader.
LOG_LINES_MAX = 10_000
# Characters of one text in a log line: a stack trace fits.
LOG_TEXT_CHARACTERS_MAX = 16_384
# Depth and items of a value that is logged with a line.
LOG_VALUE_DEPTH_MAX, LOG_VALUE_ITEMS_MAX = 4, 100
# Seconds that a probe of the accelerators may take, bytes it may answer, and seconds between two.
PROBE_S_MAX, PROBE_BYTES_MAX, ACCELERATOR_PROBE_S = 5.0, 1 << 20, 15.0
# Accelerators of one machine.
ACCELERATORS_MAX = 64
# Features of one vector: the log has a column for each, the metrics a series for each.
FEATURES_MAX = 256

# --- scoring ----------------------------------------------------------------------------------
# Rows of one call of the champion: bounds the memory of one batch, 64 MB at 256 features.
SCORE_ROWS_MAX = 65_536
# Champion calls in the air at once: threads of one process, with room; more are answered without.
BREAKER_CALLS_MAX = 64
# Calls that the breaker's error rate may look back on.
BREAKER_WINDOW_CALLS_MAX = 10_000
# A champion's model file: 20,000 trees of 31 leaves are below this.
MODEL_BYTES_MAX = 512 << 20
# Canary events and vectors: all of them are scored at every check, which must stay in milliseconds.
CANARY_EVENTS_MAX = CANARY_VECTORS_MAX = 4_096
# Widest canary tolerance, in log-odds: 0.01 moves no probability by more than 0.0025.
CANARY_TOLERANCE_MAX = 0.01
# Sources whose refused share is watched; one more shares the place of the rest.
SOURCES_WATCHED_MAX = 1_024
# Rows copied for probing a half-open breaker: enough to see a slow or failing champion.
PROBE_ROWS_MAX = 256
# Bad rows that the shut-off rule remembers.
INSANE_ROWS_REMEMBERED_MAX = 4_096

# Log-odds that an explanation may be off from the score that it explains; else it is not shown.
EXPLANATION_RESIDUAL_MAX = 1e-4
# Reasons of one explanation: what a person takes in, and what notices of refusal ask for.
EXPLANATION_REASONS_MAX = 4
# A reason below this share of all that speaks the same way is no reason.
EXPLANATION_REASON_SHARE_MIN = 0.02
# Pairs of chains of a sampled explanation: 4,000 scores at 30 features.
EXPLANATION_PAIRS_DEFAULT = 64
# Rows of normal traffic that sampled explanations start from.
EXPLANATION_BACKGROUND_ROWS_MAX = 32

# --- release ----------------------------------------------------------------------------------
# Trees of one model: published boosted models of payments have hundreds.
MODEL_TREES_MAX = 20_000
# Nodes of one model: 200 trees of 31 leaves have 12,200; a million is 60 MB of ONNX.
MODEL_NODES_MAX = 1_000_000
# Longest path from the root of a tree: the runtime builds trees by recursion, and a stack ends.
MODEL_TREE_DEPTH_MAX = 512
# Nodes of one computation graph: trees need 2, a linear model 5, a deep tabular network dozens.
MODEL_GRAPH_NODES_MAX = 512
# Columns of any intermediate result: with SCORE_ROWS_MAX it bounds the memory of one call.
MODEL_WIDTH_MAX = 4_096
# Text inside a model file (names, modes): what an operator may be called.
MODEL_TEXT_BYTES_MAX = 256
# Pairs of model metadata: ours writes fewer than ten.
MODEL_METADATA_MAX = 32
# Any single file of a release; the model is the largest.
RELEASE_FILE_BYTES_MAX = MODEL_BYTES_MAX
# All files of a release together.
RELEASE_BYTES_MAX = 1 << 30
# Files of one release, signatures left out: eight today.
RELEASE_FILES_MAX = 32
# The manifest names 32 files and where they come from: tens of kilobytes at most.
MANIFEST_BYTES_MAX = 256 * 1024
# A JSON file of a release (contract, features, reference, canary).
RELEASE_JSON_BYTES_MAX = 64 << 20
# Longest name of a file, a release or a person, in characters.
RELEASE_NAME_CHARACTERS_MAX = 64
# One signed statement: a few hundred bytes of payload.
SIGNATURE_BYTES_MAX = 16 * 1024
# Keys of one trust file: people of one company who may approve.
TRUST_KEYS_MAX = 1_000
# A trust file is written by hand.
TRUST_BYTES_MAX = 1 << 20
# Longest validity that an approval may claim; a trust file may ask for less.
APPROVAL_DAYS_MAX = 366
# Releases of one registry folder that are listed.
REGISTRY_RELEASES_MAX = 10_000

# --- training ---------------------------------------------------------------------------------
# Share of the training part that chooses the number of trees.
VALIDATION_SHARE_DEFAULT = 0.25
# Share of a log's span that judges the model when nobody names other times.
LATER_SHARE_DEFAULT = 0.2
DAY_MS = 86_400_000
# Rounds of boosting that may be asked for; a release may hold as many trees.
BOOSTING_ROUNDS_MAX = MODEL_TREES_MAX
# Leaves of one tree that may be asked for.
BOOSTING_LEAVES_MAX = 1_024
# Rows that travel with a candidate: for parity, for drift, for the canary.
PARITY_ROWS_MAX = 4_096
REFERENCE_ROWS_MAX = 50_000
CANARY_EVENTS_DEFAULT = 256
# Events whose log is cut just before them in the time-travel test.
TIME_TRAVEL_EVENTS_DEFAULT = 256
# Resamples of a bootstrap: the 95 % bounds are then good to a few percent of their width.
BOOTSTRAP_RESAMPLES_MAX = 10_000

# --- streaming --------------------------------------------------------------------------------
# A decision line is 200 to 300 bytes: thousands a system call.
DECISION_FILE_BUFFER_BYTES = 1 << 20
# A checkpoint costs a sync of the decisions: rarely enough not to be felt, often enough that a
# kill costs a second of work.
CHECKPOINT_EVENTS = 65_536
# Events of one consume call of a stream, all partitions together.
STREAM_READ_EVENTS = 4_096
# How long a read waits for a full batch: what a lone event waits.
STREAM_READ_S_MAX = 0.02
# Outputs are flushed, marked and offsets committed so often: what a kill repeats.
STREAM_COMMIT_S = 0.25
# Decisions that wait for the broker before reading pauses; 20 MB, two seconds of full rate.
STREAM_WAITING_MAX = 100_000
# How long the broker may take for a question at start (topics, ends of a partition).
STREAM_REQUEST_S_MAX = 15.0
# How long feedback may keep silent before the events that may know it go on without. One read
# counts for so long at most: a process that was frozen, or got no turn, has not waited.
STREAM_FEEDBACK_WAIT_S = 10.0
STREAM_FEEDBACK_READ_S_MAX = 1.0
# How long feedback that does come may hold events up, as after an outage: less than the 300 s
# between two reads after which the group takes a worker for dead.
STREAM_FEEDBACK_CATCH_UP_S = 240.0
# How long a partition that gives nothing keeps others, ahead of it in event time, waiting: a leader
# is elected in less, and what is read live waits no longer than this.
STREAM_SILENT_S_MAX = 3.0
# Events that are kept until partitions that are behind have come near, all partitions together:
# four reads of each of 32, 100 MB of payments; and of one partition, in reads of the full size.
STREAM_KEPT_MAX = 300_000
STREAM_KEPT_READS_MAX = 4
# With transactions: how long the broker keeps one open whose worker is silent; longer than a batch
# waits for feedback, and a third of what a broker grants (transaction.max.timeout.ms).
STREAM_TRANSACTION_S_MAX = 300.0
# Calls of one step of a transaction that the client says may be repeated, each within that time.
STREAM_TRANSACTION_TRIES_MAX = 5
# How long a worker asks at a time how far its outputs are visible: partitions that it reads wait.
STREAM_UNDECIDED_S_MAX = 1.0
# The name of a worker in them; names of topics and of groups are of this length at most.
STREAM_TRANSACTIONAL_ID_CHARACTERS_MAX = 249
# Restarts at the same event after which it alone is quarantined as poison.
POISON_RESTARTS_MAX = 3
# Pause of a start after a death in mid-batch, doubled with each further one in a row.
STREAM_RESTART_S, STREAM_RESTART_S_MAX = 0.25, 30.0
# Events that recovery passes because the process died at them; the oldest are long in a snapshot.
POISON_EVENTS_MAX = 1_000
# With a decision log: a segment of it is due so often, so outputs are marked so often.
STREAM_LOG_COMMIT_S = 10.0
# One segment of a file log: a start looks through one; retention drops whole ones.
FILE_LOG_SEGMENT_BYTES = 64 << 20
# One frame of a file log: a few thousand events; a larger length is a damaged one.
FILE_LOG_FRAME_BYTES_MAX = 64 << 20
FILE_LOG_FRAME_EVENTS_MAX = 65_536
# Bytes that one read of a partition takes at most, unless its first frame is larger.
FILE_LOG_READ_BYTES = 4 << 20
# How long a reader of a file log sleeps when nothing has come.
FILE_LOG_POLL_S = 0.005
# A secret in a file of its own: a password, a token.
STREAM_SECRET_BYTES_MAX = 16 * 1024
# Partitions of one topic: what the largest clusters use; each has a state folder at most.
STREAM_PARTITIONS_MAX = 10_000

# --- serving: what other rooms know of it; its own bounds are in serving/bounds.py ------------
# Deadline of a request that names none, and the longest that may be named.
REQUEST_TIMEOUT_MS_DEFAULT = 1_000
REQUEST_TIMEOUT_MS_MAX = 60_000
# Decisions remembered for repeated events and questions: 300 bytes each.
DECISIONS_REMEMBERED_MAX = 100_000
# How far below the server's priority that of explanations is: they have what decisions leave.
EXPLAINER_NICE = 19
# Time between two heartbeats of the scoring thread and the door.
HEARTBEAT_S = 1.0
# A file of certificates: a chain is a few kilobytes, a bundle of CAs a few hundred.
TLS_FILE_BYTES_MAX = 4 << 20
# After SIGTERM: readiness is false for so long before the door closes, so that balancers see it.
DRAIN_NOTICE_S = 1.0
# Tokens of one file, and their length in characters: 32 random bytes in base64 are 43.
TOKENS_MAX = 1_000
TOKEN_CHARACTERS_MIN = 32
TOKEN_CHARACTERS_MAX = 256
TOKEN_FILE_BYTES_MAX = 1 << 20
# Processes that hold the doors; beyond the cores of a machine more of them give nothing.
FRONTS_MAX = 64

# --- the demo's server ---------------------------------------------------------------------------
# Until it is ready, and until an answer of it, in seconds; and how often it is asked again.
DEMO_SERVER_WAIT_S = 60.0
DEMO_TRIES_MAX = 60

_RELATIONS = {
    "a transaction outlives a wait": STREAM_FEEDBACK_CATCH_UP_S < STREAM_TRANSACTION_S_MAX,
    "a release has room for its largest file": RELEASE_FILE_BYTES_MAX < RELEASE_BYTES_MAX,
    "a model's file may be a release's file": MODEL_BYTES_MAX <= RELEASE_FILE_BYTES_MAX,
    "a vector fits into the widest result": FEATURES_MAX <= MODEL_WIDTH_MAX,
    "a shown value fits the shown place": ERROR_VALUE_CHARACTERS_MAX <= ERROR_PLACE_CHARACTERS_MAX,
    "a line that is cut was too large as an event": EVENT_BYTES_MAX < EVENT_FILE_LINE_HEAD_BYTES,
    "the head of a line is a part of it": EVENT_FILE_LINE_HEAD_BYTES < EVENT_FILE_LINE_BYTES_MAX,
    "a line fits a block": EVENT_FILE_LINE_BYTES_MAX <= EVENT_FILE_BLOCK_BYTES,
    "a block fits a batch": EVENT_FILE_BLOCK_BYTES <= EVENT_FILE_BATCH_BYTES_MAX,
}
for _relation, _holds in _RELATIONS.items():
    if not _holds:
        raise AssertionError(f"core/limits.py: {_relation}")
