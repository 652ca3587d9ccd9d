"""Accepts values and types of a newer gateway that this client's schema does not contain."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict


class OpenEnum(StrEnum):
    """An enum of the API. An unknown value becomes a new member with that value."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member


class Unknown(BaseModel):
    """An object of an unknown type, with the fields that were queried."""

    model_config = ConfigDict(extra="allow", defer_build=True)
