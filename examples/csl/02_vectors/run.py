import argparse

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="out")
arguments = parser.parse_args()

runner = SdkRuntime(arguments.name)
runner.load()
runner.run()

N = 256
how = {"streaming": False, "order": MemcpyOrder.ROW_MAJOR, "nonblock": False}
wide = {"data_type": MemcpyDataType.MEMCPY_32BIT, **how}
x = np.arange(N, dtype=np.float32)
runner.memcpy_h2d(runner.get_id("x"), x, 0, 0, 1, 1, N, **wide)
runner.launch("main", nonblock=False)

y = np.zeros(N, np.float32)
runner.memcpy_d2h(y, runner.get_id("y"), 0, 0, 1, 1, N, **wide)
words = np.zeros(12, np.uint32)
narrow = {"data_type": MemcpyDataType.MEMCPY_16BIT, **how}
runner.memcpy_d2h(words, runner.get_id("stamps"), 0, 0, 1, 1, 12, **narrow)
runner.stop()

expected = 6 * x
expected[::2] *= -1
np.testing.assert_array_equal(y, expected)
t0, t1, t2, t3 = (int(a) | int(b) << 16 | int(c) << 32 for a, b, c in words.reshape(4, 3))
print(f"loop:   {t1 - t0} cycles")
print(f"@fmacs: {t3 - t2} cycles")
