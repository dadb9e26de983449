"""The champion as a session: ONNX bytes in, one probability a row out, one thread.

One thread, always. ONNX Runtime sums the trees of an ensemble in the same order for every batch
only then: with two threads, scores of the same row differ between batch sizes in the last bits
(measured: 4 % of rows at a batch of 50). Decisions must not depend on how events were batched, so
more cores are used by more processes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

_SEVERITY_FATAL = 4  # ONNX Runtime writes warnings to stderr on every call otherwise


def _runtime_errors() -> tuple[type[Exception], ...]:
    """List what ONNX Runtime raises: its own errors derive from nothing but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native_errors

    own = [
        error
        for error in vars(native_errors).values()
        if isinstance(error, type) and issubclass(error, Exception)
    ]
    return (*own, RuntimeError, ValueError)


class ModelSession:
    """A loaded champion. One copy of its weights; calls may come from several threads.

    Parameters
    ----------
    content : bytes
        The ONNX file, verified by the caller; never a path, so external data has no folder to
        come from.
    n_features : int
        Columns that the model must take.

    Raises
    ------
    SentinelError
        ``model-invalid`` when the bytes are no model, or not one with one float32 input
        [N, n_features] and one output of float32 [N] or [N, 1].
    """

    def __init__(self, content: bytes, *, n_features: int) -> None:
        if not isinstance(content, bytes):
            raise _invalid("model", "bytes", type(content).__name__)
        if not 0 < len(content) <= limits.MODEL_BYTES_MAX:
            raise _invalid("model", f"1 to {limits.MODEL_BYTES_MAX} bytes", len(content))
        import onnxruntime

        self._errors = _runtime_errors()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _SEVERITY_FATAL
        self.n_features = n_features
        self.provider = "CPUExecutionProvider"
        try:
            self._session = onnxruntime.InferenceSession(
                content, sess_options=options, providers=[self.provider]
            )
        except self._errors as error:
            raise _invalid("model", "an ONNX model that loads", error) from error
        self._input = self._check_input()
        self._output = self._check_output()

    def run(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Score rows.

        Parameters
        ----------
        values : ndarray of float32, shape (n_rows, n_features), C order

        Returns
        -------
        ndarray
            Whatever the model gave, flattened when it has one column: shape and dtype are for
            :mod:`sentinel.scoring.sanity` to judge.

        Raises
        ------
        SentinelError
            ``model-failed`` when the runtime raises.
        """
        try:
            (output,) = self._session.run([self._output], {self._input: values})
        except self._errors as error:
            raise SentinelError(
                ErrorCode.MODEL_FAILED, at="champion", expected="scores", got=error
            ) from error
        if not isinstance(output, np.ndarray):
            raise SentinelError(
                ErrorCode.MODEL_FAILED, at="champion", expected="an array", got=type(output)
            )
        return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output

    def _check_input(self) -> str:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise _invalid("model.inputs", "one input", len(inputs))
        shape = inputs[0].shape
        if inputs[0].type != "tensor(float)":
            raise _invalid(f"model.inputs.{inputs[0].name}", "float32", inputs[0].type)
        if len(shape) != 2 or shape[1] != self.n_features or isinstance(shape[0], int):
            raise _invalid(f"model.inputs.{inputs[0].name}", f"shape [N, {self.n_features}]", shape)
        name: str = inputs[0].name
        return name

    def _check_output(self) -> str:
        outputs = self._session.get_outputs()
        if len(outputs) != 1:
            raise _invalid("model.outputs", "one output", len(outputs))
        shape = outputs[0].shape
        is_column = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        if outputs[0].type != "tensor(float)" or not is_column:
            raise _invalid(
                f"model.outputs.{outputs[0].name}",
                "float32 of shape [N] or [N, 1]",
                f"{outputs[0].type} of shape {shape}",
            )
        name: str = outputs[0].name
        return name


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.MODEL_INVALID, at=at, expected=expected, got=got)
