"""A GPU through its driver alone, for the engines that have no runtime of their own.

driver     the library, the functions that are called, the GPUs
memory     blocks on the GPU, pinned memory of the host
context    one GPU with one stream: upload, download, allocate, record
launches   CUDA graphs of a loop
"""

from rediffinet.engines.tensorrt.cuda.context import Cuda
from rediffinet.engines.tensorrt.cuda.driver import Gpu, gpus
from rediffinet.engines.tensorrt.cuda.launches import Launches
from rediffinet.engines.tensorrt.cuda.memory import Block, GpuMemoryError

__all__ = ["Block", "Cuda", "Gpu", "GpuMemoryError", "Launches", "gpus"]
