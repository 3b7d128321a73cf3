"""TensorRT 10 and 11, and TensorRT-RTX: all that is NVIDIA's.

engine     runs plans on a GPU
build      makes a plan from an ONNX file; inspect tells what it consists of
plans      plans on disk: what they belong to, finding the one that fits
cuda       a GPU through its driver alone
"""
