"""Sends the documents of the generated client; app/client/api/gateway.py implements it."""

from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from .base_model import BaseModel

Model = TypeVar("Model", bound=BaseModel)


class BaseClient:
    """Sends documents and parses responses. Variables are JSON values, enums, models, or UNSET to omit one."""

    async def execute(self, query: str, operation_name: str, variables: dict[str, object]) -> dict[str, Any]:
        """The data of a query or mutation."""
        raise NotImplementedError

    def execute_ws(
        self, query: str, operation_name: str, variables: dict[str, object]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The data of each event of a subscription."""
        raise NotImplementedError

    def get_data(self, response: dict[str, Any]) -> dict[str, Any]:
        """The data of a response; `execute` returns it already."""
        return response

    def parsed(self, model: type[Model], data: dict[str, Any]) -> Model:
        """The data of a response as a model."""
        raise NotImplementedError
