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
counts = {}
for start in (6, 27):
    runner.launch("main", np.uint32(start), nonblock=False)
    steps = np.zeros(1, np.uint32)
    runner.memcpy_d2h(steps, runner.get_id("steps"), 0, 0, 1, 1, 1, **how)
    counts[start] = int(steps[0])
runner.stop()

for start, count in counts.items():
    value, expected = start, 0
    while value != 1:
        value, expected = value // 2 if value % 2 == 0 else 3 * value + 1, expected + 1
    assert count == expected
    print(f"{start}: {count} steps")
