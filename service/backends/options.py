"""The options for computing. It imports no library, so that a command starts quickly."""

from typing import Literal

Backend = Literal["auto", "torch", "onednn", "openvino"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]
PrecisionSetting = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""`auto`: what the processor has instructions for is tried when a model is loaded"""
