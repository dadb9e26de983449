"""A stream worker between topics of Kafka."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from sentinel.core.clock import Clock
from sentinel.monitoring import Metrics
from sentinel.release import LoadedRelease
from sentinel.scoring import Scorer
from sentinel.streaming.kafka.log import KafkaLog, consumer_of, n_partitions_of
from sentinel.streaming.kafka.settings import KafkaSettings
from sentinel.streaming.kafka.sink import KafkaSink, OutputTopics
from sentinel.streaming.kafka.transactions import TransactionalSink
from sentinel.streaming.stream.ends import KeepsDecisions, StreamEnds
from sentinel.streaming.stream.job import Step, StreamJob, check_partition_key
from sentinel.streaming.stream.opening import assemble, nothing
from sentinel.streaming.stream.worker import StreamWorker


def open_worker(
    loaded: LoadedRelease,
    settings: KafkaSettings,
    job: StreamJob,
    *,
    metrics: Metrics,
    log: KeepsDecisions | None = None,
    clock: Clock | None = None,
    on_step: Callable[[Step], None] = nothing,
) -> tuple[StreamWorker, Scorer]:
    """Put a worker and its scorer together.

    Parameters
    ----------
    loaded : LoadedRelease
    settings : KafkaSettings
    job : StreamJob
    metrics : Metrics
    log : KeepsDecisions, optional
        The decision log beside the topic of decisions.
    clock : Clock, optional
    on_step : callable, optional

    Raises
    ------
    SentinelError
        ``stream-setting-invalid``, ``stream-topic-missing``, ``stream-partition-key``; what
        opening a scorer raises.
    """
    check_partition_key(loaded.parts.plan, job.partition_key)
    asking = consumer_of(settings.feedback_consumer())
    try:
        n_decisions = n_partitions_of(asking, job.decisions)
        n_partitions_of(asking, job.quarantine)
    finally:
        asking.close()
    with ExitStack() as stack:
        events = KafkaLog(
            settings, job.events, in_group=True, with_keys=job.partition_key is not None
        )
        stack.callback(events.close)
        feedback = None
        if job.feedback is not None:
            feedback = KafkaLog(settings, job.feedback, in_group=False)
            stack.callback(feedback.close)
        topics = OutputTopics(
            decisions=job.decisions, quarantine=job.quarantine, n_partitions=n_decisions
        )
        transactions = None
        if settings.transactional_id is None:
            sink = KafkaSink(settings, topics, clock=clock)
        else:
            sink = transactions = TransactionalSink(
                settings, events, topics, metrics=metrics, clock=clock
            )
        ends = StreamEnds(
            events=events, sink=sink, feedback=feedback, log=log, transactions=transactions
        )
        opened = assemble(loaded, ends, job, metrics=metrics, clock=clock, on_step=on_step)
        stack.pop_all()
        return opened
