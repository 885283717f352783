"""Language models: the transform `llm_extract`, which extracts records from documents, and its service."""

from __future__ import annotations

from connectors.llm.documents import Document
from connectors.llm.extract import LlmExtract
from connectors.llm.service import LLMService, get_llm_service
from connectors.llm.settings import LlmConnection, LlmParams

__all__ = ["Document", "LLMService", "LlmConnection", "LlmExtract", "LlmParams", "get_llm_service"]
