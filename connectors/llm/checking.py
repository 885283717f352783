"""Check a model endpoint at no cost by listing its models."""

from __future__ import annotations

from connectors.llm.settings import LlmConnection
from connectors.llm.transport import open_sdk, why_unreachable
from engine.errors import FatalError

__all__ = ["check_endpoint"]

_LIMIT = 20.0  # seconds


async def check_endpoint(connection: LlmConnection, model: str, place: str = "") -> str:
    """Return a summary of the endpoint's models.

    Args:
        place: prefix of every message, including errors.

    Raises:
        FatalError: it cannot be reached, refuses the key, or does not have the model.
    """
    async with open_sdk(connection, _LIMIT) as sdk:
        import openai

        try:
            names = [one.id async for one in sdk.models.list()]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise FatalError(f"{place}the endpoint refuses the key (status {error.status_code})") from None
        except openai.APIStatusError as error:
            return f"{place}the endpoint answers, but does not list its models (status {error.status_code})"
        except openai.APIConnectionError as error:
            reason = why_unreachable(error, connection.address)
            raise FatalError(f"{place}cannot reach the model endpoint: {reason}") from None
        except openai.APIError as error:
            raise FatalError(f"{place}the endpoint cannot be used: {type(error).__name__}") from None
    # Gemini lists `models/NAME`, and Ollama `NAME:latest`
    if names and not {model, f"models/{model}", f"{model}:latest"}.intersection(names):
        raise FatalError(f"{place}the endpoint has {len(names)} models, and {model!r} is not among them")
    return f"{place}takes the key" + (f", {len(names)} models, {model} among them" if names else "")
