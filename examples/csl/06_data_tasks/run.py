import argparse

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="out")
arguments = parser.parse_args()

runner = SdkRuntime(arguments.name)
runner.load()
runner.run()
how = {
    "streaming": False,
    "data_type": MemcpyDataType.MEMCPY_32BIT,
    "order": MemcpyOrder.ROW_MAJOR,
    "nonblock": False,
}
x = np.sin(np.arange(20)).astype(np.float32)
runner.memcpy_h2d(runner.get_id("x"), x, 0, 0, 1, 1, 20, **how)
runner.launch("main", nonblock=False)
largest = np.zeros(1, np.float32)
runner.memcpy_d2h(largest, runner.get_id("largest"), 1, 0, 1, 1, 1, **how)
runner.stop()

assert largest[0] == x.max()
print("largest:", largest[0])
