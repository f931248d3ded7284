"""Networks as programs for other runtimes."""

from .choice import Optimized as Optimized, optimize as optimize, recalled as recalled
from .fast_forms import EAGER as EAGER
from .files import RUNTIMES as RUNTIMES, export as export, load as load
from .int8 import export_int8 as export_int8
from .onnx_model import export_onnx as export_onnx, load_onnx as load_onnx
from .onnx_prompts import export_decoder as export_decoder
from .openvino_model import export_openvino as export_openvino, load_openvino as load_openvino
from .regions import RegionProgram as RegionProgram
from .torch_program import export_torch as export_torch, load_torch as load_torch
