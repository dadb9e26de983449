"""How commands ask a running server: one request, one JSON document, errors as they are there."""

from __future__ import annotations

import getpass
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_secret

URL = "http://127.0.0.1:8082"
# To do something may take as long as verifying a release; to say how something is, no time.
_WAIT_S = 30.0
_READ_WAIT_S = 5.0
_ANSWER_BYTES_MAX = 16 << 20

Url = Annotated[str, typer.Option("--url", help="Operations (metrics) port of the server.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with a token of scope operate, and nothing else."),
]
By = Annotated[
    str | None,
    typer.Option("--by", help="Who asks, where no token says it; by default the login name."),
]
Because = Annotated[str, typer.Option("--because", help="Why; it is kept and logged.")]


@dataclass(frozen=True, slots=True)
class Remote:
    """A server that is asked.

    Attributes
    ----------
    url : str
    token_file : Path or None
    """

    url: str
    token_file: Path | None = None

    def read(self, path: str, *, wait_s: float = 0.0) -> dict[str, object]:
        """Ask how something is; the answer may take ``wait_s`` longer than others.

        Raises
        ------
        SentinelError
            ``server-unreachable``, and what the server refuses.
        """
        return self._ask("GET", path, None, wait_s=wait_s)

    def act(self, path: str, *, by: str | None, **body: str) -> dict[str, object]:
        """Ask for something to be done.

        Raises
        ------
        SentinelError
            As :meth:`read`.
        """
        who = {} if self.token_file is not None and by is None else {"by": by or getpass.getuser()}
        return self._ask("POST", path, json.dumps({**body, **who}).encode())

    def _ask(
        self, method: str, path: str, body: bytes | None, *, wait_s: float = 0.0
    ) -> dict[str, object]:
        headers = {} if body is None else {"content-type": "application/json"}
        if self.token_file is not None:
            content = read_secret(
                self.token_file,
                n_bytes_max=limits.TOKEN_CHARACTERS_MAX + 2,
                code=ErrorCode.TOKENS_INVALID,
            )
            headers["authorization"] = f"Bearer {_token_of(content, self.token_file)}"
        connection = _connect(self.url, wait_s=(_READ_WAIT_S if body is None else _WAIT_S) + wait_s)
        try:
            connection.request(method, f"/v1/operate/{path}", body=body, headers=headers)
            response = connection.getresponse()
            content = response.read(_ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.url, type(error).__name__) from error
        finally:
            connection.close()
        try:
            answer: dict[str, object] = json.loads(content)
        except ValueError as error:
            raise _unreachable(self.url, f"status {response.status}") from error
        if response.status != http.HTTPStatus.OK:
            raise error_of(answer, at=self.url)
        return answer


def error_of(answer: Mapping[str, object], *, at: str) -> SentinelError:
    """Raise here what was refused there."""
    known = {str(code): code for code in ErrorCode}
    code = known.get(str(answer.get("code")))
    if code is None or "expected" not in answer:
        return _unreachable(at, str(answer.get("error", "no reason")))
    return SentinelError(
        code,
        at=str(answer.get("at", at)),
        expected=str(answer["expected"]),
        got=str(answer.get("got", "")),
        hint=str(answer.get("hint", "")),
    )


def _token_of(content: bytes, path: Path) -> str:
    """Read a token; what is none is not repeated anywhere."""
    token = content.strip()
    if not token or not all(0x21 <= byte <= 0x7E for byte in token):
        raise SentinelError(
            ErrorCode.TOKENS_INVALID,
            at=str(path),
            expected="one token: one line of visible ASCII characters",
            got="something else",
            hint="The table of tokens is the server's; a caller has a file with its token alone.",
        )
    return token.decode("ascii")


def _connect(url: str, *, wait_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise SentinelError(
            ErrorCode.USAGE_INVALID, at="--url", expected="http://host:port", got=url
        )
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname, parts.port, timeout=wait_s)


def _unreachable(url: str, got: str) -> SentinelError:
    return SentinelError(
        ErrorCode.SERVER_UNREACHABLE,
        at=url,
        expected="a server of Sentinel that answers operators",
        got=got,
        hint="Name its operations port with --url.",
    )
