"""Declaring a contract: a class whose attributes are its fields."""

from __future__ import annotations

from typing import ClassVar

from sentinel.contract.fields import Declaration
from sentinel.contract.schema import ContractSchema, contract_error

_RESERVED = frozenset({"schema"})


class Contract:
    """The base of every contract; a subclass declares its fields as attributes.

    The class is a description: it is never instantiated. ``Transaction.schema`` is the contract
    as data, ``Transaction.amount`` a :class:`~sentinel.contract.schema.Field`.

    Parameters
    ----------
    name : str
        Name of the contract.
    version : str
        Its version, for people; ``schema_hash`` changes with every rule.

    Raises
    ------
    SentinelError
        ``contract-invalid``, naming the field, for a declaration that cannot stand.

    Examples
    --------
    >>> from sentinel.contract import Contract, Decimal, EventId, EventTime, Key
    >>> class Payment(Contract, name="payment", version="1"):
    ...     payment_id = EventId(bytes_max=36)
    ...     paid_at = EventTime(unit="ms")
    ...     card_id = Key(bytes_max=32)
    ...     amount = Decimal(scale=2, minimum=0, maximum=100_000)
    >>> [field.name for field in Payment.schema.fields]
    ['payment_id', 'paid_at', 'card_id', 'amount']
    >>> Payment.amount.maximum
    10000000
    """

    schema: ClassVar[ContractSchema]

    def __init_subclass__(cls, *, name: str = "", version: str = "") -> None:
        super().__init_subclass__()
        if not name or not version:
            raise contract_error(cls.__name__, "a name and a version", f"{name!r}, {version!r}")
        cls.schema = ContractSchema(
            name=name,
            version=version,
            fields=tuple(item.build(name) for item in _declarations(cls).values()),
        )

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} is a description; decode events with Decoder")


def _declarations(cls: type[Contract]) -> dict[str, Declaration]:
    """Collect the declared attributes, those of a parent contract first."""
    found: dict[str, Declaration] = {}
    for parent in reversed(cls.__mro__):
        for attribute, item in vars(parent).items():
            if attribute.startswith("__"):
                continue
            if isinstance(item, Declaration):
                found[attribute] = item
            elif issubclass(parent, Contract) and parent is not Contract:
                if attribute in found:
                    raise contract_error(f"{cls.__name__}.{attribute}", "a field", item)
                if attribute not in _RESERVED:
                    _refuse_foreign(cls, attribute, item)
    for attribute in _RESERVED & found.keys():
        raise contract_error(
            f"{cls.__name__}.{attribute}",
            "another attribute name",
            attribute,
            hint=f'Write: {attribute}_ = ...(name="{attribute}").',
        )
    return found


def _refuse_foreign(cls: type[Contract], attribute: str, item: object) -> None:
    """Refuse an attribute that looks like a field and is none (``amount = Decimal``)."""
    is_forgotten = isinstance(item, type) and issubclass(item, Declaration)
    if is_forgotten or not attribute.startswith("_"):
        raise contract_error(
            f"{cls.__name__}.{attribute}",
            "a field such as Integer() or Key()",
            item,
            hint="Only fields stand in a contract.",
        )
