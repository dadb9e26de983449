"""The messages of the gRPC door, as tables of our own with the names and numbers of the wire.

A line is ``name number type``; a type may start with ``repeated`` or be ``map<string, T>``; ``?``
behind the type puts the field into the message's one-of. The descriptors live in a pool of their
own, so that a client library in the same process may declare the same names.

References: KServe, Open Inference Protocol v2 (gRPC); gRPC Health Checking Protocol; gRPC Server
Reflection (v1alpha).
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}

_PARAMETERS = "map<string, InferParameter>"
_INFERENCE = {
    "InferParameter": """
        bool_param 1 bool?
        int64_param 2 int64?
        string_param 3 string?
        double_param 4 double?
        uint64_param 5 uint64?""",
    "InferTensorContents": """
        bool_contents 1 repeated bool
        int_contents 2 repeated int32
        int64_contents 3 repeated int64
        uint_contents 4 repeated uint32
        uint64_contents 5 repeated uint64
        fp32_contents 6 repeated float
        fp64_contents 7 repeated double
        bytes_contents 8 repeated bytes""",
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live 1 bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready 1 bool",
    "ModelReadyRequest": """
        name 1 string
        version 2 string""",
    "ModelReadyResponse": "ready 1 bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": """
        name 1 string
        version 2 string
        extensions 3 repeated string""",
    "ModelMetadataRequest": """
        name 1 string
        version 2 string""",
    "ModelMetadataResponse.TensorMetadata": """
        name 1 string
        datatype 2 string
        shape 3 repeated int64""",
    "ModelMetadataResponse": """
        name 1 string
        versions 2 repeated string
        platform 3 string
        inputs 4 repeated ModelMetadataResponse.TensorMetadata
        outputs 5 repeated ModelMetadataResponse.TensorMetadata""",
    "ModelInferRequest.InferInputTensor": f"""
        name 1 string
        datatype 2 string
        shape 3 repeated int64
        parameters 4 {_PARAMETERS}
        contents 5 InferTensorContents""",
    "ModelInferRequest.InferRequestedOutputTensor": f"""
        name 1 string
        parameters 2 {_PARAMETERS}""",
    "ModelInferRequest": f"""
        model_name 1 string
        model_version 2 string
        id 3 string
        parameters 4 {_PARAMETERS}
        inputs 5 repeated ModelInferRequest.InferInputTensor
        outputs 6 repeated ModelInferRequest.InferRequestedOutputTensor
        raw_input_contents 7 repeated bytes""",
    "ModelInferResponse.InferOutputTensor": f"""
        name 1 string
        datatype 2 string
        shape 3 repeated int64
        parameters 4 {_PARAMETERS}
        contents 5 InferTensorContents""",
    "ModelInferResponse": f"""
        model_name 1 string
        model_version 2 string
        id 3 string
        parameters 4 {_PARAMETERS}
        outputs 5 repeated ModelInferResponse.InferOutputTensor
        raw_output_contents 6 repeated bytes""",
}
_HEALTH = {
    "HealthCheckRequest": "service 1 string",
    "HealthCheckResponse": "status 1 enum HealthCheckResponse.ServingStatus",
}
SERVING_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_SCORING = {
    "ScoreRequest": "events 1 repeated bytes",
    "ScoreResponse": """
        decisions 1 repeated bytes
        releases 2 repeated string""",
}
_REFLECTION = {
    "ServerReflectionRequest": """
        host 1 string
        file_by_filename 3 string?
        file_containing_symbol 4 string?
        list_services 7 string?""",
    "FileDescriptorResponse": "file_descriptor_proto 1 repeated bytes",
    "ServiceResponse": "name 1 string",
    "ListServiceResponse": "service 1 repeated ServiceResponse",
    "ErrorResponse": """
        error_code 1 int32
        error_message 2 string""",
    "ServerReflectionResponse": """
        valid_host 1 string
        original_request 2 ServerReflectionRequest
        file_descriptor_response 4 FileDescriptorResponse?
        list_services_response 6 ListServiceResponse?
        error_response 7 ErrorResponse?""",
}
# What the trailer of a call holds (cncf/xds, orca_load_report.proto).
_ORCA = {
    "OrcaLoadReport": """
        cpu_utilization 1 double
        mem_utilization 2 double
        rps 3 uint64
        request_cost 4 map<string, double>
        utilization 5 map<string, double>
        rps_fractional 6 double
        eps 7 double
        named_metrics 8 map<string, double>
        application_utilization 9 double""",
}
# Services: method to (request, response, streams in, streams out).
Method = tuple[str, str, bool, bool]
INFERENCE_SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
SCORING_SERVICE = "sentinel.v1.Scoring"
REFLECTION_SERVICE = "grpc.reflection.v1alpha.ServerReflection"
SERVICES: dict[str, dict[str, Method]] = {
    INFERENCE_SERVICE: {
        name: (f"{name}Request", f"{name}Response", False, False)
        for name in (
            "ServerLive",
            "ServerReady",
            "ModelReady",
            "ServerMetadata",
            "ModelMetadata",
            "ModelInfer",
        )
    },
    HEALTH_SERVICE: {
        "Check": ("HealthCheckRequest", "HealthCheckResponse", False, False),
        "Watch": ("HealthCheckRequest", "HealthCheckResponse", False, True),
    },
    SCORING_SERVICE: {
        "Score": ("ScoreRequest", "ScoreResponse", False, False),
        "ScoreStream": ("ScoreRequest", "ScoreResponse", True, True),
    },
    REFLECTION_SERVICE: {
        "ServerReflectionInfo": (
            "ServerReflectionRequest",
            "ServerReflectionResponse",
            True,
            True,
        ),
    },
}
_FILES = {
    "inference": _INFERENCE,
    "grpc.health.v1": _HEALTH,
    "sentinel.v1": _SCORING,
    "grpc.reflection.v1alpha": _REFLECTION,
    "xds.data.orca.v3": _ORCA,
}


def file_name(package: str) -> str:
    """Return the name of a package's file.

    Examples
    --------
    >>> file_name("sentinel.v1")
    'sentinel/v1.proto'
    """
    return package.replace(".", "/") + ".proto"


def _rows(text: str) -> Iterator[tuple[str, int, str]]:
    for line in text.strip().splitlines():
        name, number, kind = line.split(maxsplit=2)
        yield name, int(number), kind


class _File:
    """One file of descriptors, built from its tables."""

    def __init__(self, package: str, tables: dict[str, str]) -> None:
        self.proto = descriptor_pb2.FileDescriptorProto(
            name=file_name(package), package=package, syntax="proto3"
        )
        self._package = package
        self._messages: dict[str, descriptor_pb2.DescriptorProto] = {}
        for name in sorted(tables, key=lambda name: name.count(".")):
            self._declare(name)
        for name, text in tables.items():
            for row in _rows(text):
                self._add(name, *row)
        for service, methods in SERVICES.items():
            if service.rpartition(".")[0] == package:
                self._serve(service.rpartition(".")[2], methods)

    def _declare(self, name: str) -> None:
        outer, _, own = name.rpartition(".")
        where = self._messages[outer].nested_type if outer else self.proto.message_type
        self._messages[name] = where.add(name=own)

    def _add(self, message: str, name: str, number: int, kind: str) -> None:
        proto = self._messages[message]
        field = proto.field.add(name=name, number=number)
        field.label = _Field.LABEL_OPTIONAL
        if kind.endswith("?"):
            if not proto.oneof_decl:
                proto.oneof_decl.add(name="choice")
            field.oneof_index = 0
            kind = kind[:-1]
        if kind.startswith("map<"):
            field.label = _Field.LABEL_REPEATED
            kind = self._entry(message, name, kind[4:-1].partition(", ")[2])
        elif kind.startswith("repeated "):
            field.label = _Field.LABEL_REPEATED
            kind = kind.removeprefix("repeated ")
        self._type(field, message, kind)

    def _type(self, field: descriptor_pb2.FieldDescriptorProto, message: str, kind: str) -> None:
        if kind.startswith("enum "):
            enum = self._messages[message].enum_type.add(name=kind.rpartition(".")[2])
            for value, status in enumerate(SERVING_STATUSES):
                enum.value.add(name=status, number=value)
            field.type = _Field.TYPE_ENUM
            field.type_name = f".{self._package}.{kind.removeprefix('enum ')}"
        elif kind in _TYPES:
            field.type = _TYPES[kind]
        else:
            field.type = _Field.TYPE_MESSAGE
            field.type_name = f".{self._package}.{kind}"

    def _entry(self, message: str, name: str, value: str) -> str:
        own = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        entry = self._messages[message].nested_type.add(name=own)
        entry.options.map_entry = True
        for number, (part, kind) in enumerate((("key", "string"), ("value", value)), start=1):
            field = entry.field.add(name=part, number=number, label=_Field.LABEL_OPTIONAL)
            self._type(field, message, kind)
        return f"{message}.{own}"

    def _serve(self, name: str, methods: dict[str, Method]) -> None:
        service = self.proto.service.add(name=name)
        for method, (request, response, streams_in, streams_out) in methods.items():
            service.method.add(
                name=method,
                input_type=f".{self._package}.{request}",
                output_type=f".{self._package}.{response}",
                client_streaming=streams_in,
                server_streaming=streams_out,
            )


def _build() -> tuple[dict[str, bytes], dict[str, type[Message]]]:
    pool = descriptor_pool.DescriptorPool()
    files: dict[str, bytes] = {}
    classes: dict[str, type[Message]] = {}
    for package, tables in _FILES.items():
        proto = _File(package, tables).proto
        files[package] = proto.SerializeToString()
        pool.Add(proto)
        for name in tables:
            found = pool.FindMessageTypeByName(f"{package}.{name}")
            classes[f"{package}.{name}"] = message_factory.GetMessageClass(found)
    return files, classes


FILES, CLASSES = _build()


def message(package: str, name: str) -> type[Message]:
    """Return the class of a message.

    Examples
    --------
    >>> message("sentinel.v1", "ScoreRequest")(events=[b"{}"]).SerializeToString().hex()
    '0a027b7d'
    """
    return CLASSES[f"{package}.{name}"]
