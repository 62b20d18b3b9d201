"""What all sections of an experiment file share: their base class, names from tables, and upper bounds."""

from collections.abc import Collection
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from tasks.errors import unknown_name
from tasks.spec.values import Number, Plain

Share = Annotated[Number, Field(gt=0, lt=1)]
# Upper bounds far above any value in use: a larger one is a typing mistake, and would request terabytes.
MAX_WIDTH, MAX_LAYERS, MILLION, BILLION = 65_536, 1_000, 1_000_000, 1_000_000_000


class Spec(BaseModel):
    """Base of every section of a spec: immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_written_null(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse an unquoted `None` where null is allowed: YAML reads it as the text."""
        optional = type(None) in get_args(cls.model_fields[str(info.field_name)].annotation)
        if optional and isinstance(value, Plain) and value.casefold() == "none":
            raise ValueError(f"got {value}; fix: write null, or '{value}' in quotes if the text is meant")
        return value


def member(kind: str, allowed: Collection[str]) -> AfterValidator:
    """A validator for a name that must be in a table when it is read; `kind` names the table in the error."""

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(unknown_name(kind, value, allowed))
        return value

    return AfterValidator(check)
