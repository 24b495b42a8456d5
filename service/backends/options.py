"""What can be chosen for computing. It imports nothing, so that a command line reads it quickly."""

from typing import Literal

Backend = Literal["auto", "torch", "onednn", "openvino"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]
