"""Forecast what a run would read, produce, write and cost. Nothing is delivered, stored or paid for."""

from __future__ import annotations

from engine.preview.forecast import Forecast, NodeForecast, forecast
from engine.preview.sampling import Sampled, sample_through

__all__ = ["Forecast", "NodeForecast", "Sampled", "forecast", "sample_through"]
