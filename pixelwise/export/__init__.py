"""Networks as programs for other runtimes."""

from .regions import RegionProgram as RegionProgram
