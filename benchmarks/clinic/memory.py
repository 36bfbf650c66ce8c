"""Evidence out of results.jsonl: so that rules can be tried on what was measured before."""

from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from finetune.diagnosis.evidence import BNEvidence


def evidence_from(values: dict[str, Any]) -> BNEvidence:
    """The inverse of `dataclasses.asdict`, with null for NaN where a number is needed."""
    evidence: BNEvidence = _value(BNEvidence, values)
    return evidence


def _value(kind: Any, value: Any) -> Any:
    if get_origin(kind) in (UnionType, Union):
        if value is None:
            return None
        kind = next(one for one in get_args(kind) if one is not type(None))
    if value is None:
        return float("nan")
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], one) for one in value)
    if get_origin(kind) is dict:
        return {int(key): _value(get_args(kind)[1], one) for key, one in value.items()}
    if hasattr(kind, "__dataclass_fields__"):
        hints = get_type_hints(kind)
        return kind(**{name: _value(hints[name], one) for name, one in value.items()})
    return value
