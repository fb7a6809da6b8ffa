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
words = runner.get_id("words")
sent = np.arange(100, dtype=np.uint32) ** 2
runner.memcpy_h2d(words, sent, 0, 0, 1, 1, 100, **how)
runner.launch("main", nonblock=False)
came = np.zeros(100, np.uint32)
runner.memcpy_d2h(came, words, 2, 0, 1, 1, 100, **how)
runner.stop()

np.testing.assert_array_equal(came, sent)
print("last word:", came[-1])
