"""Cut channels out of a network, save and load what is left, and write it as ONNX."""

from dsa_core.surgery.cut import prune, try_forward
from dsa_core.surgery.files import load, save
from dsa_core.surgery.onnx_file import OnnxCheck, OnnxNetwork, export_onnx
from dsa_core.surgery.reconstruct import Fit, reconstruct
