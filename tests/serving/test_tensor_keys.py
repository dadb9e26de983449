"""A key that stands twice in a tensor request is refused, wherever it stands."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving.doors.tensors import read_infer

TENSOR = b'{"name":"features","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[],"inputs":[%b]}' % TENSOR,
        b'{"inputs":[%b],"id":"a","id":"b"}' % TENSOR,
        b'{"inputs":[%b],"id":null,"id":"b"}' % TENSOR,
        b'{"inputs":[%b],"id":"b","id":null}' % TENSOR,
        b'{"inputs":[%b],"outputs":[],"outputs":null}' % TENSOR,
        b'{"inputs":[%b],"parameters":{"a":1,"a":2}}' % TENSOR,
        b'{"inputs":[%b],"parameters":{"a":1},"parameters":{}}' % TENSOR,
        b'{"inputs":[%b],"parameters":{"a":1,"\\u0061":2}}' % TENSOR,
        b'{"inputs":[%b],"outputs":[{"name":"score","name":"reason"}]}' % TENSOR,
        b'{"inputs":[%b]}' % TENSOR.replace(b'"data"', b'"data":[9.0,9.0],"data"'),
        b'{"inputs":[%b]}' % TENSOR.replace(b'"shape"', b'"\\u0073hape":[9,9],"shape"'),
        b'{"inputs":[%b]}' % TENSOR.replace(b'"data"', b'"parameters":{"x":"a:b","x":1},"data"'),
    ],
)
def test_a_key_that_stands_twice_is_refused(body: bytes) -> None:
    """Of two values a parser takes the last; another reader of the request may take the first."""
    json.loads(body)
    with pytest.raises(SentinelError) as error:
        read_infer(body, json_bytes=None, n_features=2)
    assert error.value.code is ErrorCode.REQUEST_INVALID
    assert error.value.at == "request"
    assert error.value.got == "one twice"


_TEXTS = st.text(max_size=8) | st.sampled_from([":", '"', '\\"', "a:b", '{"a":1}', "\\"])
_PARAMETERS = st.dictionaries(_TEXTS, _TEXTS | st.integers(0, 9) | st.booleans(), max_size=3)


@given(
    request_id=st.none() | _TEXTS,
    parameters=_PARAMETERS,
    own=_PARAMETERS,
    outputs=st.none() | st.lists(st.builds(dict, name=_TEXTS, parameters=_PARAMETERS), max_size=2),
    spaced=st.booleans(),
)
def test_texts_that_look_like_keys_are_no_keys(
    request_id: str | None,
    parameters: dict[str, object],
    own: dict[str, object],
    outputs: list[dict[str, object]] | None,
    spaced: bool,
) -> None:
    """Colons, quotes and braces inside texts, empty and absent parts: none of it is a key."""
    tensor = {**json.loads(TENSOR), "parameters": own}
    own.pop("binary_data_size", None)
    body = {"id": request_id, "parameters": parameters, "inputs": [tensor], "outputs": outputs}
    content = json.dumps(body, separators=(" , ", " : ") if spaced else (",", ":")).encode()
    assert read_infer(content, json_bytes=None, n_features=2).values.tolist() == [[1.0, 2.0]]
