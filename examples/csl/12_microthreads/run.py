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
a, N = runner.get_id("a"), 30
west = np.linspace(1, 2, N, dtype=np.float32)
east = np.linspace(3, 5, N, dtype=np.float32)
runner.memcpy_h2d(a, west, 0, 0, 1, 1, N, **how)
runner.memcpy_h2d(a, east, 2, 0, 1, 1, N, **how)
runner.launch("main", nonblock=False)
product = np.zeros(N, np.float32)
runner.memcpy_d2h(product, a, 1, 0, 1, 1, N, **how)
runner.stop()

np.testing.assert_array_equal(product, west * east)
print("products:", product[0], "to", product[-1])
