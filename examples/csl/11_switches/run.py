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
a = runner.get_id("a")
for turn in range(2):
    sent = np.arange(10, dtype=np.uint32) + 100 * turn
    runner.memcpy_h2d(a, sent, 1, 0, 1, 1, 10, **how)
    runner.launch("main", nonblock=False)
    west, east = np.zeros(5, np.uint32), np.zeros(5, np.uint32)
    runner.memcpy_d2h(west, a, 0, 0, 1, 1, 5, **how)
    runner.memcpy_d2h(east, a, 2, 0, 1, 1, 5, **how)
    np.testing.assert_array_equal(np.concatenate([west, east]), sent)
    print("west:", west, "east:", east)
runner.stop()
