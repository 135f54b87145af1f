"""An evaluation as one HTML page that needs no network."""

from mmedge.report.page import write_report

__all__ = ["write_report"]
