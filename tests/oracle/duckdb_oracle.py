"""Features as SQL, for DuckDB: the definitions written a second time by other means.

One statement a feature. ``e`` is an event, ``p`` an event or a verdict that came before it and
that its entity has a history of. What lives is told without any ring: an event lives for a reader
whose entity has not been seen ``tiles`` or more tiles later, the reader's own time included.
"""

from __future__ import annotations

import duckdb
import numpy as np

from sentinel.contract import ContractSchema, EventBatch

# Values for each event: what was applied before it, within a window of whole tiles.
WINDOW = """
SELECT e.seq, {value} AS value
FROM events e
LEFT JOIN {feed} p
  ON p.{key} = e.{key} AND {known} AND {where}
 AND ({hop} = 0 OR (
       p.t_ms // {hop} <= e.t_ms // {hop}
   AND p.t_ms // {hop} > greatest(e.t_ms // {hop}, {newest}) - {tiles}))
GROUP BY e.seq ORDER BY e.seq
"""
BEFORE = "p.seq < e.seq"
# A verdict is known to the first event at which the running maximum of time has reached it.
KNOWN = "p.t_ms <= e.now"
NEWEST = {
    "events": "e.newest_{key} // {hop}",
    "verdicts": "greatest(e.newest_{key}, e.verdict_{key}) // {hop}",
}


def table_of(batch: EventBatch, schema: ContractSchema) -> dict[str, np.ndarray]:
    """Write columns as DuckDB reads them: minor units as integers, nulls as masks."""
    columns: dict[str, np.ndarray] = {"seq": np.arange(batch.n_rows)}
    for i, field in enumerate(schema.fields):
        values = batch.values[i]
        if field.kind == "float":
            values = values.view(np.float64)
        columns[field.name] = np.ma.masked_array(values, mask=~batch.present[i])
    columns["t_ms"] = columns[schema.event_time.name]
    return columns


class Oracle:
    """Events and verdicts in DuckDB; duplicates left out, running times attached.

    Parameters
    ----------
    events, verdicts : EventBatch
    event_schema, verdict_schema : ContractSchema
    keys : tuple of str
        Entity keys of events; those that verdicts have too are keys of verdicts.
    """

    def __init__(
        self,
        events: EventBatch,
        verdicts: EventBatch,
        event_schema: ContractSchema,
        verdict_schema: ContractSchema,
        keys: tuple[str, ...],
    ) -> None:
        self._db = duckdb.connect(":memory:", config={"threads": 1})
        for name, batch, schema in (
            ("raw_events", events, event_schema),
            ("raw_verdicts", verdicts, verdict_schema),
        ):
            columns = table_of(batch, schema)
            names = ", ".join(columns)
            self._db.execute(f"CREATE TABLE {name} ({', '.join(f'{n} BIGINT' for n in columns)})")
            for column, values in columns.items():
                if values.dtype == np.float64:
                    self._db.execute(f"ALTER TABLE {name} ALTER {column} TYPE DOUBLE")
            rows = [
                [None if value is np.ma.masked else value.item() for value in row]
                for row in zip(*columns.values(), strict=True)
            ]
            marks = ", ".join("?" * len(columns))
            self._db.executemany(f"INSERT INTO {name} ({names}) VALUES ({marks})", rows)  # noqa: S608
        event_id, verdict_id = event_schema.event_id.name, verdict_schema.event_id.name
        newest = ", ".join(
            f"max(t_ms) OVER (PARTITION BY {key} ORDER BY seq) AS newest_{key}" for key in keys
        )
        self._db.execute(
            f"""
            CREATE TABLE verdicts AS SELECT * FROM raw_verdicts
            QUALIFY row_number() OVER (PARTITION BY {verdict_id} ORDER BY seq) = 1;
            CREATE TABLE once AS SELECT * FROM raw_events
            QUALIFY row_number() OVER (PARTITION BY {event_id} ORDER BY seq) = 1;
            CREATE TABLE timed AS
            SELECT *, max(t_ms) OVER (ORDER BY seq) AS now, {newest} FROM once;
            """  # noqa: S608
        )
        latest = ", ".join(
            f"coalesce((SELECT max(v.t_ms) FROM verdicts v WHERE v.{key} = t.{key} "  # noqa: S608
            f"AND v.t_ms <= t.now), 0) AS verdict_{key}"
            for key in keys
            if key in {field.name for field in verdict_schema.fields}
        )
        self._db.execute(f"CREATE TABLE events AS SELECT *, {latest} FROM timed t")  # noqa: S608

    def ask(
        self,
        value: str,
        *,
        key: str,
        hop_ms: int = 0,
        tiles: int = 0,
        feed: str = "events",
        where: str = "true",
    ) -> np.ma.MaskedArray:
        """Compute an expression over ``p`` (and ``e``) for each event that is no duplicate."""
        sql = WINDOW.format(
            value=value,
            feed=feed,
            key=key,
            known=BEFORE if feed == "events" else KNOWN,
            where=where,
            hop=hop_ms,
            tiles=tiles,
            newest=NEWEST[feed].format(key=key, hop=hop_ms) if hop_ms else 0,
        )
        rows = self._db.execute(sql).fetchall()
        found = [value for _, value in rows]
        return np.ma.masked_array(
            [0.0 if value is None else float(value) for value in found],
            mask=[value is None for value in found],
        )
