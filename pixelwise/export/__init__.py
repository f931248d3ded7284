"""Networks as programs for other runtimes."""

from .onnx_model import export_onnx as export_onnx, load as load, load_onnx as load_onnx
from .onnx_prompts import export_decoder as export_decoder
from .regions import RegionProgram as RegionProgram
