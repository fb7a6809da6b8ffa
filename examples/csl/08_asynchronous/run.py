import argparse
import json
from pathlib import Path

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="out")
arguments = parser.parse_args()

length = int(json.loads(Path(arguments.name, "out.json").read_text())["params"]["length"])

runner = SdkRuntime(arguments.name)
runner.load()
runner.run()
how = {
    "streaming": False,
    "data_type": MemcpyDataType.MEMCPY_32BIT,
    "order": MemcpyOrder.ROW_MAJOR,
    "nonblock": False,
}
mine = np.arange(2 * length, dtype=np.float32)
runner.memcpy_h2d(runner.get_id("mine"), mine, 0, 0, 2, 1, length, **how)
runner.launch("main", nonblock=False)
theirs = np.zeros(2 * length, np.float32)
runner.memcpy_d2h(theirs, runner.get_id("theirs"), 0, 0, 2, 1, length, **how)
runner.stop()

mine, theirs = mine.reshape(2, length), theirs.reshape(2, length)
np.testing.assert_array_equal(theirs, mine[::-1] - mine)
print("differences:", theirs[:, 0])
