"""Networks as programs for other runtimes."""

from .onnx_model import export_onnx as export_onnx, load as load, load_onnx as load_onnx
from .regions import RegionProgram as RegionProgram
