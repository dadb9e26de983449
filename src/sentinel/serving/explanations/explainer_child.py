"""The explainer's process: reads rows, tells explanations, keeps them on disk.

It is started by the server (:mod:`sentinel.serving.explanations.explainer`) as a program of its
own, verifies the release again and holds it against the digest that decided. It ends when its
input ends; the server keeps it below its own priority.

``python -m sentinel.serving.explanations.explainer_child [FOLDER]``: the folder is where
explanations are kept.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release import verify_release
from sentinel.release.explaining import open_explainer
from sentinel.scoring.explanation import Explainer, Explanation
from sentinel.scoring.explanation.document import explanation_document
from sentinel.serving import bounds
from sentinel.serving.explanations.explainer_wire import Ask, Told, read_frame, write_frame
from sentinel.serving.explanations.kept import ExplanationFiles


class Releases:
    """Explainers by the digest of their release; the one that was used longest ago goes first."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, Explainer]] = {}

    def explainer(self, digest: str, folder: Path) -> tuple[str, Explainer]:
        """Return the name and the explainer of a release, verified when it is opened.

        Raises
        ------
        SentinelError
            ``release-corrupt`` when another release stands there now; what verifying raises.
        """
        found = self._open.pop(digest, None)
        if found is None:
            loaded = verify_release(folder, None, now_ms=time.time_ns() // 1_000_000)
            if loaded.digest != digest:
                raise SentinelError(
                    ErrorCode.RELEASE_CORRUPT,
                    at=str(folder),
                    expected=f"the release that decided, {digest[:16]}…",
                    got=f"{loaded.digest[:16]}…",
                )
            found = (loaded.manifest.label, open_explainer(loaded))
        self._open[digest] = found
        if len(self._open) > bounds.EXPLAINER_RELEASES_MAX:
            del self._open[next(iter(self._open))]
        return found


def answer(ask: Ask, releases: Releases, files: ExplanationFiles | None) -> Told:
    """Explain the rows of one question, and keep what was found."""
    try:
        label, explainer = releases.explainer(ask.digest, Path(ask.folder))
    except SentinelError as error:
        return Told([], [], str(error))
    answers: list[bytes] = []
    absences: list[str] = []
    rows = ask.rows()
    for row, (event_id, found) in enumerate(
        zip(ask.event_ids, explainer.explain(rows), strict=True)
    ):
        if isinstance(found, Explanation):
            document = explanation_document(
                found,
                event_id=event_id.decode("utf-8", "replace"),
                release=label,
                names=explainer.names,
                values=rows.values[row],
                status=rows.status[row],
            )
            answers.append(document)
            absences.append("")
        else:
            answers.append(b"")
            absences.append(str(found))
    if files is not None:
        # Rows without an event belong to nobody: they are explained and forgotten.
        files.keep([text for text, of in zip(answers, ask.event_ids, strict=True) if of])
    return Told(answers, absences)


def run(source: BinaryIO, sink: BinaryIO, folder: Path | None) -> None:
    """Answer until the source ends."""
    releases = Releases()
    files = ExplanationFiles(folder) if folder is not None else None
    decoder = msgspec.msgpack.Decoder(Ask)
    while (frame := read_frame(source)) is not None:
        write_frame(sink, answer(decoder.decode(frame), releases, files))
    if files is not None:
        files.close()


def main() -> None:
    """Be the process."""
    # Signals are for the server, which ends this process by closing its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    run(sys.stdin.buffer, sys.stdout.buffer, folder)


if __name__ == "__main__":
    main()
