"""What a run would do: read, turn into what, write, and cost. Nothing is delivered, stored or paid for."""

from __future__ import annotations

from engine.preview.forecast import Forecast, NodeForecast, forecast

__all__ = ["Forecast", "NodeForecast", "forecast"]
