"""What all sections of an experiment file share: their base class, names from tables, and upper bounds."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

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


@dataclass(frozen=True, eq=False)
class Member:
    """Marks a name that must be in a table when it is read.

    Attributes:
        kind: what the table holds, for the error.
        allowed: the names of the table.
    """

    kind: str
    allowed: Collection[str]

    def check(self, value: str) -> str:
        """The name, if it is in the table.

        Raises:
            ValueError: it is not; with the nearest name and all that are.
        """
        if value not in self.allowed:
            raise ValueError(unknown_name(self.kind, value, self.allowed))
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"enum": sorted(self.allowed)}
