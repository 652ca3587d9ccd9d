"""Answers of a gateway that is newer than this client: values and types that its schema does not know."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict


class OpenEnum(StrEnum):
    """An enum of the API. A value that it does not know becomes a member of its own."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member


class Unknown(BaseModel):
    """An object of a type that is not known, with the fields that were asked for."""

    model_config = ConfigDict(extra="allow", defer_build=True)
