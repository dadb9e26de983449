"""How commands ask a running server: one request, one JSON document, errors as they are there."""

from __future__ import annotations

import getpass
import http.client
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from sentinel.cli import options
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError, without_password
from sentinel.core.files import read_secret

URL = "http://127.0.0.1:8082"
# To do something may take as long as verifying a release; to say how something is, no time.
_WAIT_S = 30.0
_READ_WAIT_S = 5.0
_ANSWER_BYTES_MAX = 16 << 20
_ELSEWHERE = "Name its operations port with --url."
_SILENT = "Something listens there and does not answer: it is frozen, or is no server of Sentinel."
_KINDS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}

Url = Annotated[str, typer.Option("--url", help="Operations (metrics) port of the server.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with a token of scope operate, and nothing else."),
]
By = Annotated[
    str | None,
    typer.Option("--by", help="Who asks, where no token says it; by default the login name."),
]
Show = Callable[[dict[str, object], Output], ExitCode]
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
        who = {} if self.token_file is not None and by is None else {"by": by or _login()}
        return self._ask("POST", path, json.dumps({**body, **who}).encode())

    def _ask(
        self, method: str, path: str, body: bytes | None, *, wait_s: float = 0.0
    ) -> dict[str, object]:
        headers = {} if body is None else {"content-type": "application/json"}
        if self.token_file is not None:
            content = read_secret(self.token_file, n_bytes_max=limits.TOKEN_CHARACTERS_MAX + 2)
            headers["authorization"] = f"Bearer {_token_of(content, self.token_file)}"
        within_s = (_READ_WAIT_S if body is None else _WAIT_S) + wait_s
        connection = _connect(self.url, wait_s=within_s)
        shown = without_password(self.url)
        try:
            connection.request(method, f"/v1/operate/{path}", body=body, headers=headers)
            response = connection.getresponse()
            content = response.read(_ANSWER_BYTES_MAX)
        except TimeoutError as error:
            raise _unreachable(shown, f"no answer within {within_s:g} s", hint=_SILENT) from error
        except OSError as error:
            raise _unreachable(shown, error.strerror or type(error).__name__) from error
        except http.client.HTTPException as error:
            raise _unreachable(shown, "an answer that is not HTTP") from error
        finally:
            connection.close()
        try:
            answer: dict[str, object] = json.loads(content)
        except ValueError as error:
            raise _unreachable(shown, f"status {response.status} without JSON") from error
        if response.status != http.HTTPStatus.OK:
            raise error_of(answer, at=shown)
        return answer


def reading(path: str, show: Show) -> Callable[..., ExitCode]:
    """Make a command that shows how something is."""

    def read(
        url: Url = URL, token_file: TokenFile = None, as_json: options.AsJson = False
    ) -> ExitCode:
        return show(Remote(url, token_file).read(path), Output(as_json=as_json))

    return read


def acting(path: str, show: Show) -> Callable[..., ExitCode]:
    """Make a command that asks for something to be done, and shows how it then is."""

    def act(
        *,
        because: Because = "",
        url: Url = URL,
        token_file: TokenFile = None,
        by: By = None,
        as_json: options.AsJson = False,
    ) -> ExitCode:
        found = Remote(url, token_file).act(path, by=by, because=because)
        return show(found, Output(as_json=as_json))

    return act


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


def _login() -> str:
    """Name the user of this process; in a container it may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _connect(url: str, *, wait_s: float) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # brackets that do not close, a port that is none
        parts, host, port = None, None, None
    if parts is None or parts.scheme not in _KINDS or not host or parts.path not in {"", "/"}:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--url",
            expected="http://host:port",
            got=without_password(url),
        )
    kind: type[http.client.HTTPConnection] = _KINDS[parts.scheme]
    return kind(host, port, timeout=wait_s)


def _unreachable(url: str, got: str, *, hint: str = _ELSEWHERE) -> SentinelError:
    return SentinelError(
        ErrorCode.SERVER_UNREACHABLE,
        at=url,
        expected="a server of Sentinel that answers operators",
        got=got,
        hint=hint,
    )
