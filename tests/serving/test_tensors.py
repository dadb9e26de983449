"""Reading tensor requests: keys that stand twice, and forms that are known by their bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.doors import tensors
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


FORM = b'{"inputs":[{"name":"features","shape":[1,3],"datatype":"FP32","data":[0.5,-1e3,7]}]}'


def _read(content: bytes) -> object:
    """Return what a request says, or its error in words."""
    try:
        body, values = read_infer(content, json_bytes=None, n_features=3)
    except SentinelError as error:
        return str(error)
    return body.id, body.outputs, body.parameters, values.shape, values.tobytes()


@settings(max_examples=400, deadline=None)
@given(
    at=st.integers(0, len(FORM)),
    n_cut=st.integers(0, 12),
    put=st.one_of(
        st.binary(max_size=6),
        st.sampled_from([b"]", b"[", b'"data":[1]', b"1e39", b"null", b",", b'"id":"x",', b"NaN"]),
    ),
)
def test_a_request_means_the_same_whether_its_form_is_known_or_not(
    at: int, n_cut: int, put: bytes
) -> None:
    """Anything put anywhere into a request whose form is known."""
    content = FORM[:at] + put + FORM[at + n_cut :]
    tensors._FORMS.clear()
    fresh = _read(content)
    tensors._FORMS.clear()
    assert _read(FORM) == _read(FORM)
    assert len(tensors._FORMS) == 1
    assert _read(content) == fresh


def test_forms_that_are_known_are_few_and_short() -> None:
    tensors._FORMS.clear()
    _read(FORM.replace(b"{", b'{"id":"mine",', 1))
    _read(FORM.replace(b"{", b'{"parameters":{"p":"%b"},' % (b"x" * 2_000), 1))
    assert not tensors._FORMS
    for number in range(bounds.TENSOR_FORMS_KNOWN_MAX + 20):
        _read(FORM.replace(b"{", b'{"parameters":{"p":%d},' % number, 1))
    assert 0 < len(tensors._FORMS) <= bounds.TENSOR_FORMS_KNOWN_MAX
